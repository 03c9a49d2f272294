"""A disk that is full while a network is trained: one clear error, and the same command goes on once there is room."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from processes import PATIENCE, Server, contents

from auditor.api import embedded
from auditor.cli.main import main
from auditor.errors import StoreError
from auditor.store.compress import compress
from auditor.store.reader import StoreReader
from auditor.store.writer import StoreWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's mounts")

TRAIN = ["--batch-size", "12", "--workers", "0", "--device", "cpu"]
TUNE = ["finetune", "--alpha", "-1", "--name", "t", *TRAIN]
SWEEP = ["sweep", "--alphas", "-1", "--seeds", "1", "--epochs", "1", "--name", "s", *TRAIN]
FULL = ("could not be written: No space left on device", "got:", " free\n", "Free some space, then repeat the command")


@pytest.fixture(scope="module")
def profiled(server: Server, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a profile; read only."""
    folder = tmp_path_factory.mktemp("profiled")
    profile = [
        "profile", "--model", "slow:small_cnn", "--weights", "none", "--data", pictures, "--fractions", "0.4,0.3,0.3",
        "--input-size", "16", "--shuffles", "199", "--bootstraps", "100", "--name", "it", "--workers", "0",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        done = server.call(*profile, cwd=folder)
    assert done.code == 0, done.err
    return folder


def begin(profiled: Path, *folders: Path) -> None:
    """Put the profile where trainings start from it."""
    for folder in folders:
        shutil.copytree(profiled / "runs", folder / "runs")


def appeared(path: Path) -> None:
    """Wait for a file."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.002)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.tmp")]


@pytest.mark.parametrize("small_disk", [24], indirect=True)
def test_while_the_training_saves_its_state(
    server: Server, profiled: Path, tmp_path: Path, small_disk: Path, fill: Callable[..., Path]
) -> None:
    begin(profiled, tmp_path, small_disk)
    done = server.call(*TUNE, "--epochs", "3", cwd=tmp_path)
    assert done.code == 0, done.err
    process = server.start(*TUNE, "--epochs", "3", cwd=small_disk, slow=0.05)
    state = small_disk / "runs" / "t" / "training" / "state.pt"
    appeared(state)
    ballast = fill(small_disk)
    process.wait().is_clear_error("training/state.pt", "wanted:  at least", *FULL)
    assert 0 < len(torch.load(state, weights_only=True)["epochs"]) < 3
    assert not left_over(small_disk)
    ballast.unlink()
    done = server.call(*TUNE, "--epochs", "3", cwd=small_disk)
    assert done.code == 0, done.err
    assert "going on where it was stopped" in done.err
    assert contents(small_disk / "runs" / "t") == contents(tmp_path / "runs" / "t")


@pytest.mark.parametrize("small_disk", [24], indirect=True)
def test_while_the_weights_are_written(
    server: Server, profiled: Path, tmp_path: Path, small_disk: Path, fill: Callable[..., Path]
) -> None:
    begin(profiled, tmp_path, small_disk)
    command = [*TUNE, "--epochs", "1"]
    done = server.call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    last = small_disk / "runs" / "t" / "training" / "last.safetensors"
    for leave in range(32_768, 100_000, 8192):  # until there is room for the state, and not for the weights
        ballast = fill(small_disk, leave=leave)
        done = server.call(*command, cwd=small_disk)
        done.is_clear_error(*FULL[:1], FULL[-1])
        if "training/state.pt" not in done.err:
            break
    done.is_clear_error("training/last.safetensors", "wanted:  at least 10.8 kB", *FULL)
    fill(small_disk, leave=16_384)
    server.call(*command, cwd=small_disk).is_clear_error("training/best.safetensors", *FULL)
    kept = last.read_bytes()
    assert not left_over(small_disk)
    ballast.unlink()
    done = server.call(*command, cwd=small_disk)
    assert done.code == 0, done.err
    assert last.read_bytes() == kept
    assert contents(small_disk / "runs" / "t") == contents(tmp_path / "runs" / "t")


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [40], indirect=True)
def test_a_sweep_stops_and_counts_no_network_as_failed(
    server: Server, profiled: Path, tmp_path: Path, small_disk: Path, fill: Callable[..., Path]
) -> None:
    begin(profiled, tmp_path, small_disk)
    done = server.call(*SWEEP, cwd=tmp_path)
    assert done.code == 0, done.err
    found = small_disk / "runs" / "s"
    ballast = fill(small_disk, leave=40_960)  # small files find room, such as one that tells of a failure
    done = server.call(*SWEEP, "--processes", "2", cwd=small_disk)
    done.is_clear_error("training/state.pt could not be written: No space left on device", FULL[-1])
    assert done.err.count("Error: ") == 1
    assert not list(found.rglob("failed.json"))
    ballast.unlink()
    done = server.call(*SWEEP, cwd=small_disk)
    assert done.code == 0, done.err
    for table in ("alphas.csv", "layers.csv"):
        assert (found / table).read_bytes() == (tmp_path / "runs" / "s" / table).read_bytes(), table
    for cell in ("alpha-0-seed0", "alpha--1-seed0"):
        mine, wanted = (contents(folder / "runs" / "s" / "networks" / cell) for folder in (small_disk, tmp_path))
        assert mine == wanted


@pytest.mark.parametrize("small_disk", [4], indirect=True)
def test_a_cache_without_room_for_the_weights_of_the_digits(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_CACHE", str(small_disk))
    monkeypatch.setattr(embedded, "_train", lambda *_: (0.5, 0.4, 0.6))
    done = CliRunner().invoke(main, ["profile", "--model", "resnet18", "--runs", str(tmp_path / "runs"), "--quiet"])
    assert done.exit_code == 1, done.output
    for part in ("seed0-", ".safetensors", "at least 44.", "4.2 MB free", FULL[0], FULL[-1]):
        assert part in done.stderr
    assert [path.name for path in small_disk.rglob("*")] == ["weights"]


@pytest.mark.parametrize("small_disk", [40], indirect=True)
def test_a_disk_that_fills_up_while_responses_are_compressed(
    small_disk: Path, fill: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hdf5plugin")
    path, rows = small_disk / "a.h5", 2000
    draw = np.random.default_rng(0)
    with StoreWriter(path, sites={"s": 500}, n_rows=rows, n_outputs=4) as store:
        none, logits, responses = np.zeros(rows, int), draw.random((rows, 4)), draw.random((rows, 500))
        ids = [str(i) for i in range(rows)]
        store.append(ids=ids, labels=none, splits=none, logits=logits, responses={"s": responses})
        store.finish()
    before = path.read_bytes()
    monkeypatch.setattr("auditor.store.compress.check_space", lambda *_: None)  # it fills up after the look at it
    ballast = fill(small_disk, leave=1_000_000)
    with pytest.raises(StoreError, match=r"a\.h5 could not be written: No space left on device"):
        compress(path)
    assert path.read_bytes() == before
    assert not left_over(small_disk)
    ballast.unlink()
    compress(path)
    with StoreReader(path) as reader:
        np.testing.assert_array_equal(reader.responses("s"), responses.astype(np.float32))
