"""Runs whose files were cut, swapped or edited: named, refused and left as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from processes import NAME, Server, contents, reached


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("These are not activations.\n" * 99)


def _foreign(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["responses/act1"] = np.ones((180, 12))
        file.attrs["made by"] = "someone else"


SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (_cut, "has been cut short"),
    (_empty, "is empty (0 bytes)"),
    (_text, "is not a readable HDF5 file"),
    (_foreign, "not an activation file of auditor"),
]


def everything(run: Path) -> dict[str, bytes]:
    return {**contents(run), "manifest.json": (run / "manifest.json").read_bytes()}


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "runs" / NAME))


@pytest.fixture
def unfinished(finished: Path) -> Path:
    """Return to a moment before the tables were written."""
    manifest = json.loads((finished / "manifest.json").read_text("utf-8"))
    (finished / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    for name in ("units.csv", "layers.csv", "class_means.csv", "summary.json"):
        (finished / name).unlink()
    return finished


@pytest.mark.parametrize("spoil, message", SPOILT)
def test_a_spoilt_store_is_not_resumed(
    server: Server, command: list[str], unfinished: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(unfinished / "activations.h5")
    before = everything(unfinished)
    done = server.call(*command, cwd=tmp_path)
    done.is_clear_error("activations.h5", message)
    assert done.out == ""
    assert everything(unfinished) == before


@pytest.mark.parametrize("spoil, message", SPOILT)
def test_a_spoilt_store_is_not_compared(
    server: Server, finished: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(finished, tmp_path / "runs" / "other")
    spoil(finished / "activations.h5")
    before = everything(finished)
    done = server.call("compare", "other", NAME, cwd=tmp_path)
    done.is_clear_error("activations.h5", message)
    assert everything(finished) == before


def test_the_store_of_another_run_is_noticed(
    server: Server, command: list[str], unfinished: Path, tmp_path: Path
) -> None:
    other = tmp_path / "runs" / "other"
    done = server.call(*command[:-1], "other", "--seed", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    shutil.copy(other / "activations.h5", unfinished / "activations.h5")
    before = everything(unfinished)
    server.call(*command, cwd=tmp_path).is_clear_error("written for something else: digest differs")
    assert everything(unfinished) == before


@pytest.mark.parametrize(
    "name, content",
    [
        ("units.csv", None),
        ("units.csv", b""),
        ("layers.csv", b""),
        ("summary.json", None),
        ("summary.json", b""),
        ("summary.json", b'{"net'),
    ],
)
def test_damaged_tables_are_named(
    server: Server, command: list[str], finished: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is None:
        (finished / name).unlink()
    else:
        (finished / name).write_bytes(content)
    done = server.call(*command, cwd=tmp_path)
    done.is_clear_error(name)
    assert done.out == ""
    assert server.call("runs", cwd=tmp_path).code == 0


def edit(run: Path, change: Callable[[dict[str, object]], object]) -> bytes:
    path = run / "manifest.json"
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=2))
    return path.read_bytes()


@pytest.mark.parametrize(
    "arguments", [[], ["ablate", "--top-selective", "3"], ["compare", NAME, NAME], ["finetune", "--alpha", "0"]]
)
def test_an_edited_manifest_is_named_and_refused(
    server: Server, command: list[str], finished: Path, tmp_path: Path, arguments: list[str]
) -> None:
    after = edit(finished, lambda values: values["identity"].update(seed=7))  # type: ignore[attr-defined]
    done = server.call(*(arguments or command), cwd=tmp_path)
    done.is_clear_error("manifest.json was changed after it was written", "its digest does not match its content")
    assert (finished / "manifest.json").read_bytes() == after
    listed = server.call("runs", cwd=tmp_path)
    assert listed.code == 0
    assert "damaged" in listed.out


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"kind": 1, "identity": 2}'])
def test_a_manifest_that_is_none(
    server: Server, command: list[str], finished: Path, tmp_path: Path, content: bytes
) -> None:
    (finished / "manifest.json").write_bytes(content)
    server.call(*command, cwd=tmp_path).is_clear_error("manifest.json", "damaged")
    assert (finished / "manifest.json").read_bytes() == content
    assert "damaged" in server.call("runs", cwd=tmp_path).out


@pytest.mark.parametrize(
    "options, field",
    [
        (["--seed", "3"], "seed: 0 -> 3"),
        (["--shuffles", "250"], "selectivity.shuffles: 199 -> 250"),
        (["--input-size", "20"], "preprocessing."),
        (["--layers", "act1"], "layers: "),
        (["--limit", "60"], "data.n_per_split.select: 90 -> 60"),
        (["--fractions", "0.2,0.4,0.4"], "data.split_fingerprint: "),
    ],
)
def test_other_settings_under_the_same_name(
    server: Server, command: list[str], tmp_path: Path, options: list[str], field: str
) -> None:
    run = tmp_path / "runs" / NAME
    process = server.start(*command, cwd=tmp_path, slow=0.05)
    reached(run, lambda state: state.committed >= 6)
    process.ctrl_c()
    assert process.wait().code == 1
    before = everything(run)
    done = server.call(*command, *options, cwd=tmp_path)
    done.is_clear_error("holds a run with other settings; it is left as it is", field, "Choose another --name")
    assert everything(run) == before


def test_a_folder_in_the_place_of_a_file(server: Server, command: list[str], unfinished: Path, tmp_path: Path) -> None:
    (unfinished / "activations.h5").unlink()
    (unfinished / "activations.h5").mkdir()
    server.call(*command, cwd=tmp_path).is_clear_error("activations.h5")


def test_runs_that_is_a_file(server: Server, command: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    server.call(*command, cwd=tmp_path).is_clear_error("runs")
    assert (tmp_path / "runs").read_text() == "mine"
