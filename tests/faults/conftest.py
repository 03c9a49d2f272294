"""Real ``auditor`` processes that can be killed, interrupted and starved, and the run that nobody disturbed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from processes import BATCH, N_IMAGES, NAME, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not hasattr(os, "fork") or sys.platform == "darwin":
        pytest.skip("needs processes that fork")
    server = Server(tmp_path_factory.mktemp("forked"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 180 images of three classes, all of them for select and score: 30 batches."""
    labels = np.arange(N_IMAGES) % 3
    images = np.random.default_rng(0).integers(0, 100, (N_IMAGES, 16, 16, 3))
    images[np.arange(N_IMAGES), ..., labels] += 120
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels, classes=np.array(["red", "green", "blue"]))
    return path


@pytest.fixture(scope="session")
def command(pictures: Path) -> list[str]:
    """Arguments of the profile that the faults strike."""
    return [
        "profile", "--model", "slow:small_cnn", "--weights", "none", "--data", str(pictures), "--fractions",
        "0,0.5,0.5", "--input-size", "16", "--batch-size", str(BATCH), "--shuffles", "199", "--bootstraps", "100",
        "--workers", "0", "--name", NAME,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def undisturbed(server: Server, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the finished run, with its figures; read only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        done = server.call(*command, cwd=folder, figures=True)
    assert done.code == 0, done.err
    return folder / "runs" / NAME
