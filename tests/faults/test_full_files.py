"""Every kind of file on a disk that refuses it: one clear error, the old file stays, and no other is left."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from torch import nn

from auditor.api import embedded
from auditor.api.heads import HEAD_FILE, Head
from auditor.api.sweep_board import Board
from auditor.api.sweep_grid import Cell
from auditor.api.sweep_work import work
from auditor.cli.main import main
from auditor.errors import CheckpointError, StoreError
from auditor.progress import QUIET
from auditor.store import files
from auditor.store.blocks import BlockCache
from auditor.store.disk import cannot_write, format_bytes, is_full, system_error
from auditor.store.files import make_folder, replacing, write_csv, write_json, write_text
from auditor.training import write_weights
from auditor.training.checkpoints import Progress

RUST = "Error while serializing: I/O error: No space left on device (os error 28)"
Refuse = Callable[..., None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Let files take no more than so many bytes; what refuses the rest is the system, far below the libraries."""

    def refuse(number: int = errno.ENOSPC, *, after: int = 0) -> None:
        class Refusing(io.FileIO):
            def write(self, data: object, /) -> int:
                room = after - self.tell()
                if room <= 0:
                    raise OSError(number, os.strerror(number))
                return super().write(memoryview(data)[:room])  # type: ignore[call-overload]

        class Raw(files._Raw, Refusing):
            pass

        monkeypatch.setattr(files, "_Raw", Raw)

    return refuse


def network(width: int = 100) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def progress() -> Progress:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    found = Progress(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
    found.keep_best()
    return found


def figure(stem: Path) -> None:
    from auditor.report.style import new_figure, save

    made = new_figure(4, 3)
    made.add_subplot().plot([0, 1])
    save(made, stem)


WRITERS = {
    "state.pt": lambda path: progress().save(path),
    "table.csv": lambda path: write_csv(path, pd.DataFrame({"x": np.arange(5000)})),
    "table.json": lambda path: write_json(path, list(range(5000))),
    "page.html": lambda path: write_text(path, "<p>" * 5000),
    "block.npz": lambda path: BlockCache(path.parent).put("block", {"x": np.random.default_rng(0).random(5000)}),
}


@pytest.mark.parametrize("after", [0, 5000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, after: int, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    refuse(after=after)
    with pytest.raises(StoreError, match=f"{name} could not be written: No space left on device") as caught:
        WRITERS[name](path)
    assert is_full(caught.value)
    assert caught.value.fix == "Free some space, then repeat the command: what was finished is kept."
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_figures(tmp_path: Path, refuse: Refuse) -> None:
    refuse(after=5000)
    with pytest.raises(StoreError, match=r"figure\.png could not be written: No space left on device"):
        figure(tmp_path / "figure")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "number, said, fix, full",
    [
        (errno.EDQUOT, "quota exceeded", "Free some of your quota", True),
        (errno.EFBIG, "File too large", "ulimit -f", False),
        (errno.EIO, "Input/output error", "Check the disk", False),
        (errno.EROFS, "Read-only file system", "a folder that can be written", True),
        (errno.EACCES, "Permission denied", "Check the folder's permissions", False),
    ],
)
def test_other_refusals_of_a_state(
    number: int, said: str, fix: str, full: bool, tmp_path: Path, refuse: Refuse
) -> None:
    refuse(number, after=1000)
    with pytest.raises(StoreError, match=rf"state\.pt could not be written: .*{said}") as caught:
        progress().save(tmp_path / "state.pt")
    assert fix in str(caught.value)
    assert is_full(caught.value) == full
    assert (caught.value.wanted, caught.value.got) == (None, None)


def as_torch_does(path: Path, content: bytes) -> None:
    """Put one's own error in place of the system's, and forget that."""
    with replacing(path) as file:
        try:
            file.write(content)
            failed = len(content) < 10
        except OSError:
            failed = True
        if failed:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


def test_whatever_a_library_makes_of_a_full_disk(tmp_path: Path, refuse: Refuse) -> None:
    refuse()
    with pytest.raises(StoreError, match="No space left on device") as caught:
        as_torch_does(tmp_path / "a", bytes(100_000))
    assert isinstance(caught.value.__cause__, OSError)


def test_what_a_library_raises_by_itself_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inline_container"):
        as_torch_does(tmp_path / "a", b"half")
    assert not list(tmp_path.iterdir())


def test_the_sizes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.store.disk.free_bytes", lambda _: 4096)
    refused = OSError(errno.ENOSPC, "")
    found = cannot_write(tmp_path / "a", refused, size=5_000_000)
    assert (found.wanted, found.got) == ("at least 5.0 MB", "4.1 kB free")
    found = cannot_write(tmp_path / "a", refused)
    assert (found.wanted, found.got) == (None, "4.1 kB free")
    found = cannot_write(tmp_path / "a", refused, size=4000)  # something else has run out
    assert (found.wanted, found.got) == (None, None)


def test_the_size_is_no_less_than_what_was_tried(
    tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.store.disk.free_bytes", lambda _: 5000)
    refuse(after=5000)
    with pytest.raises(StoreError) as caught, replacing(tmp_path / "a", size=10) as file:
        file.write(bytes(7000))
    assert caught.value.wanted == f"at least {format_bytes(7000)}"


@pytest.mark.parametrize("error", [SafetensorError(RUST), OSError(errno.ENOSPC, "No space left on device")])
def test_weights(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    Head(network(), {}).save(tmp_path, "digest")
    before = (tmp_path / HEAD_FILE).read_bytes()
    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    for write in (
        lambda: write_weights(network(), tmp_path / HEAD_FILE, {}),
        lambda: Head(network(), {}).save(tmp_path, "digest"),
    ):
        with pytest.raises(StoreError, match=r"safetensors could not be written: No space left on device\.") as caught:
            write()
        assert is_full(caught.value)
        assert "Free some space" in str(caught.value)
    assert (tmp_path / HEAD_FILE).read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [HEAD_FILE]


def test_weights_that_cannot_be_kept_for_another_reason(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "odd"

    with pytest.raises(CheckpointError, match="state that safetensors cannot keep"):
        write_weights(Odd(1, 1), tmp_path / "w.safetensors", {})


def test_what_the_system_said() -> None:
    assert system_error(ValueError("nothing")) is None
    assert system_error(SafetensorError(RUST)).errno == errno.ENOSPC  # type: ignore[union-attr]
    outer = CheckpointError("outer")
    outer.__cause__ = OSError(errno.EROFS, "")
    assert system_error(outer) is outer.__cause__


def test_a_cache_folder_that_cannot_be_made_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(embedded, "_train", lambda *_: pytest.fail("trained"))
    done = CliRunner().invoke(main, ["profile", "--model", "resnet18", "--runs", str(tmp_path / "runs"), "--quiet"])
    assert done.exit_code == 1, done.output
    assert f"Error: {tmp_path / 'file' / 'weights'} could not be written: Not a directory." in done.stderr


def test_errors_that_nobody_has_put_into_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("auditor.api.overview.list_runs", refused)
    done = CliRunner().invoke(main, ["runs"])
    assert done.exit_code == 1
    assert f"Error: {tmp_path / 'x'} could not be written: No space left on device." in done.stderr


def test_a_sweep_goes_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    def tune(_run: object, *, alpha: float, **_: object) -> None:
        tried.append(alpha)
        raise next(errors)

    cells = [Cell(alpha, 0) for alpha in (-1.0, 0.0, 1.0)]
    full = cannot_write(tmp_path / "a", OSError(errno.ENOSPC, ""))
    full.__cause__ = OSError(errno.ENOSPC, "")
    errors = iter([ValueError("its own"), full])
    monkeypatch.setattr("auditor.api.sweep_work.finetune", tune)
    board = Board(tmp_path / "s")
    with pytest.raises(StoreError, match="No space left on device"):
        work(None, board, cells, {}, before={}, reporter=QUIET)  # type: ignore[arg-type]
    assert tried == [-1.0, 0.0]
    assert board.failures(cells).keys() == {cells[0].name}


def test_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="could not be written: Not a directory"):
        make_folder(tmp_path / "file" / "below")
