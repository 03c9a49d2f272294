"""Real ``auditor`` processes in several ranks, on the pictures and the network that the fault tests use."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import commands
from processes import BATCH, Server

pictures, server = commands.pictures, commands.server


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


@pytest.fixture
def folder(profiled: Path, tmp_path: Path) -> Path:
    """Copy the profile, to work on."""
    shutil.copytree(profiled, tmp_path, dirs_exist_ok=True)
    return tmp_path
