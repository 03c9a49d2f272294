"""Real ``auditor`` processes that can be killed, interrupted and starved, and the run that nobody disturbed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import commands
from processes import BATCH, NAME, Server

pictures, server = commands.pictures, commands.server


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
