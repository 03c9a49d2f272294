"""A fine-tune by several processes is that of one, and may be taken up by another number of them."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from processes import Server
from ranks import call_ranks, running, start_each, start_ranks, wait_ranks
from safetensors.torch import load_file

TUNE = [
    "finetune", "--run", "alone", "--alpha", "-1", "--epochs", "3", "--batch-size", "13", "--name", "it", "--workers",
    "0", "--device", "cpu", "--augment", "shift", "--unbalanced",
]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(server: Server, profiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``runs/it``, which one process made; read only."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(profiled, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        done = server.call(*TUNE, cwd=folder)
    assert done.code == 0, done.err
    return folder


def assert_equal_trainings(folder: Path, other: Path) -> None:
    run, wanted = folder / "runs" / "it", other / "runs" / "it"
    for name in ("history.csv", "layers.csv"):
        mine, there = (pd.read_csv(path / "training" / name) for path in (run, wanted))
        pd.testing.assert_frame_equal(mine, there, rtol=1e-4, atol=1e-5)
    for name in ("weights.safetensors", "training/best.safetensors", "training/last.safetensors"):
        mine, there = (load_file(path / name) for path in (run, wanted))
        for key, value in there.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in (run / "training").iterdir()) == sorted(
        path.name for path in (wanted / "training").iterdir()
    )
    units, there = (pd.read_csv(path / "units.csv") for path in (run, wanted))
    assert units["index"].to_numpy() == pytest.approx(there["index"].to_numpy(), rel=1e-3, abs=1e-4, nan_ok=True)
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert manifest["complete"]


def test_equals_that_of_one_process(server: Server, tuned: Path, folder: Path) -> None:
    """Of 54 images, 13 to a batch: the last has two, and one of the three ranks none."""
    done = call_ranks(server, 3, *TUNE, cwd=folder)
    assert_equal_trainings(folder, tuned)
    assert "The tuned network's own run is" in done[0].out
    assert done[0].err.count("Fine-tuning alone with alpha") == 1
    weights = folder / "runs" / "it" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    call_ranks(server, 2, *TUNE, cwd=folder)
    assert weights.stat().st_mtime_ns == before


def test_lost_ranks_and_other_numbers_of_them(server: Server, tuned: Path, folder: Path) -> None:
    state = folder / "runs" / "it" / "training" / "state.pt"
    for n, lost, epochs in ((2, 1, 1), (3, 0, 2)):
        ranks = start_ranks(server, n, *TUNE, cwd=folder, slow=0.1, AUDITOR_RANK_TIMEOUT="3")
        deadline = time.monotonic() + 60
        while not _reached(state, epochs) and any(map(running, ranks)) and time.monotonic() < deadline:
            time.sleep(0.01)
        ranks[lost].send(signal.SIGKILL)
        began = time.monotonic()
        done = wait_ranks(ranks)
        assert time.monotonic() - began < 30
        assert [one.code for rank, one in enumerate(done) if rank != lost] == [1] * (n - 1)
        said = "".join(one.err for one in done)
        assert f"Rank {lost}" in said
        assert "Repeat the command" in said
        assert _reached(state, epochs)
    call_ranks(server, 1, *TUNE, cwd=folder)
    assert_equal_trainings(folder, tuned)


def _reached(state: Path, epochs: int) -> bool:
    if not state.exists():
        return False
    return len(torch.load(state, weights_only=True)["epochs"]) >= epochs


def test_images_that_cannot_be_read(server: Server, tiny_folder: Path, tmp_path: Path) -> None:
    """All ranks leave out the same ones, which one of them writes down."""
    profile = [
        "profile", "--model", "slow:small_cnn", "--weights", "none", "--data", str(tiny_folder), "--input-size", "16",
        "--shuffles", "199", "--bootstraps", "100", "--workers", "0", "--fractions", "0.6,0.2,0.2", "--name", "alone",
        "--quiet",
    ]  # fmt: skip
    for name in ("red/03.png", "green/05.png", "blue/07.png"):
        (tiny_folder / name).write_bytes(b"no picture")
    assert server.call(*profile, cwd=tmp_path).code == 0
    shutil.copytree(tmp_path / "runs", tmp_path / "other" / "runs")
    for cache in ("always", "never"):
        tune = [*TUNE, "--cache-images", cache, "--name", f"it-{cache}", "--epochs", "1"]
        assert server.call(*tune, cwd=tmp_path).code == 0
        call_ranks(server, 2, *tune, cwd=tmp_path / "other")
        runs = [folder / "runs" / f"it-{cache}" for folder in (tmp_path, tmp_path / "other")]
        skipped = [(run / "training" / "skipped.csv").read_text("utf-8") for run in runs]
        assert skipped[0] == skipped[1]
        assert ",train," in skipped[0]
        mine, wanted = (load_file(run / "weights.safetensors") for run in runs)
        for key, value in wanted.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5)


def test_ranks_with_other_plans_are_told_apart(server: Server, folder: Path) -> None:
    """Left alone, one would wait for batches that the other has not."""
    done = wait_ranks(start_each(server, [TUNE, [*TUNE, "--epochs", "2"]], cwd=folder))
    assert [one.code for one in done] == [1, 1]
    assert "plan.epochs: 3 -> 2" in done[0].err + done[1].err
    assert (done[0].err + done[1].err).count("Error: ") == 1


def test_a_run_that_is_not_stored_is_refused_before_it_is_trained(
    server: Server, profiling: list[str], tmp_path: Path
) -> None:
    assert server.call(*profiling, "--store", "none", "--name", "alone", cwd=tmp_path).code == 0
    done = wait_ranks(start_ranks(server, 2, *TUNE, cwd=tmp_path))
    assert [one.code for one in done] == [1, 1]
    assert "meets on disk" in done[0].err
    assert not (tmp_path / "runs" / "it").exists()
