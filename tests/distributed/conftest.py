"""Real ``auditor`` processes in several ranks, on the pictures and the network that the fault tests use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from processes import BATCH, N_IMAGES, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not hasattr(os, "fork") or sys.platform == "darwin":
        pytest.skip("needs processes that fork")
    server = Server(tmp_path_factory.mktemp("ranks"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 180 images of three classes."""
    labels = np.arange(N_IMAGES) % 3
    images = np.random.default_rng(0).integers(0, 100, (N_IMAGES, 16, 16, 3))
    images[np.arange(N_IMAGES), ..., labels] += 120
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels, classes=np.array(["red", "green", "blue"]))
    return path


@pytest.fixture(scope="session")
def profiling(pictures: Path) -> list[str]:
    """Arguments of a short profile with all three splits; add ``--name``."""
    return [
        "profile", "--model", "slow:small_cnn", "--weights", "none", "--data", str(pictures), "--fractions",
        "0.3,0.4,0.3", "--input-size", "16", "--batch-size", str(BATCH), "--shuffles", "199", "--bootstraps", "100",
        "--workers", "0",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def profiled(server: Server, profiling: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``runs/alone``, which one process made; read only."""
    folder = tmp_path_factory.mktemp("profiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        done = server.call(*profiling, "--name", "alone", cwd=folder)
    assert done.code == 0, done.err
    return folder
