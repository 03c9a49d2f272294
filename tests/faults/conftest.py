"""Real ``auditor`` processes that can be killed, interrupted and starved, and the run that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of so many megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-o", f"size={request.param}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True, text=True, check=False)
        refusal = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        refusal = str(error)
    if refusal:
        pytest.skip(f"mounting a small disk is not permitted here ({refusal})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def fill() -> Callable[..., Path]:
    """Take all the space of a disk but ``leave`` bytes; returns the file that takes it, made anew each time."""

    def fill(folder: Path, *, leave: int = 0) -> Path:
        ballast = folder / "ballast"
        ballast.unlink(missing_ok=True)
        status = os.statvfs(folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - leave, 1))
        return ballast

    return fill
