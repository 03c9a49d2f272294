"""``auditor sweep`` killed at random moments and taken up again; child processes end with their parent."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from processes import PATIENCE, Server

KILLS = 2
SWEEP = [
    "sweep", "--alphas", "-1", "--seeds", "1", "--epochs", "3", "--batch-size", "12", "--name", "s", "--workers", "0",
    "--device", "cpu", "--quiet",
]  # fmt: skip
TABLES = ("alphas.csv", "layers.csv")


@pytest.fixture(scope="module")
def profiled(server: Server, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a profile; read only."""
    profile = [
        "profile", "--model", "slow:small_cnn", "--weights", "none", "--data", str(pictures), "--fractions",
        "0.4,0.3,0.3", "--input-size", "16", "--shuffles", "199", "--bootstraps", "100", "--workers", "0", "--name",
        "it", "--quiet",
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("profiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        done = server.call(*profile, cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def folders(profiled: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same profile."""
    found = tmp_path / "whole", tmp_path / "killed"
    for folder in found:
        shutil.copytree(profiled, folder)
    return found


def alive(group: int) -> list[int]:
    """Processes of a group that are not yet dead."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = entry.read_text("utf-8").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.slow
def test_killed_again_and_again(server: Server, folders: tuple[Path, Path]) -> None:
    whole, killed = folders
    began = time.monotonic()
    done = server.call(*SWEEP, cwd=whole)
    assert done.code == 0, done.err
    seconds = time.monotonic() - began
    chance, kills = random.Random(0), 0
    while kills < KILLS:
        process = server.start(*SWEEP, cwd=killed)
        time.sleep((0.2 + 0.6 * chance.random()) * seconds)
        process.send(signal.SIGKILL)
        done = process.wait()
        assert done.code in (0, -signal.SIGKILL), done
        if done.code == 0:
            break
        kills += 1
    done = server.call(*SWEEP, cwd=killed)
    assert done.code == 0, done.err
    assert kills > 0
    expected, found = (folder / "runs" / "s" for folder in folders)
    for table in TABLES:
        assert (found / table).read_bytes() == (expected / table).read_bytes(), table
    left, right = (pd.read_csv(folder / "networks.csv").drop(columns="seconds") for folder in (expected, found))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    for network in ("alpha-0-seed0", "alpha--1-seed0"):
        for name in ("weights.safetensors", "units.csv", "training/history.csv"):
            assert (found / "networks" / network / name).read_bytes() == (
                expected / "networks" / network / name
            ).read_bytes(), (network, name)


@pytest.mark.slow
@pytest.mark.parametrize("number, alpha, children", [(signal.SIGKILL, "0", 1), (signal.SIGINT, "-1", 2)])
def test_children_end_with_their_parent(
    server: Server, folders: tuple[Path, Path], number: signal.Signals, alpha: str, children: int
) -> None:
    folder = folders[1]
    process = server.start(*SWEEP, "--alphas", alpha, "--processes", "2", cwd=folder, slow=0.3)
    networks = folder / "runs" / "s" / "networks"
    deadline = time.monotonic() + PATIENCE
    while len(list(networks.glob("*/training/manifest.json"))) < children:
        assert time.monotonic() < deadline, process.err.read_text("utf-8")
        time.sleep(0.05)
    assert len(alive(process.pid)) == 1 + children
    if number == signal.SIGINT:
        process.ctrl_c()
    else:
        os.kill(process.pid, number)
    done = process.wait()
    assert done.code == (1 if number == signal.SIGINT else -number)
    done.is_tidy()
    while alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list((folder / "runs" / "s" / "work").glob("*/failed.json"))
