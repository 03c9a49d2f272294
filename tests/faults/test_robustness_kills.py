"""``auditor robustness`` killed at random moments and taken up again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import NAME, PATIENCE, Server

ROBUSTNESS = [
    "robustness", "--run", NAME, "--corruptions", "gaussian_noise,contrast", "--severities", "1,5", "--epsilons",
    "2,16", "--steps", "1,3", "--pgd-steps", "3", "--images", "40", "--reference", NAME, "--batch-size", "16",
    "--device", "cpu", "--workers", "0", "--quiet",
]  # fmt: skip
# How many of the 10 blocks (intact, corruptions, FGSM, PGD, Jacobian) are kept at least when it is killed.
KEPT = (0, 1, 3, 6, 8)
TABLES = ("overall", "corruptions", "by_type", "attacks", "masking", "jacobian")


@pytest.mark.slow
def test_killed_again_and_again(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(undisturbed, folder / "runs" / NAME)
    done = server.call(*ROBUSTNESS, cwd=whole)
    assert done.code == 0, done.err
    results, chance = Path("runs", NAME, "robustness"), random.Random(0)
    for kept in KEPT:
        process = server.start(*ROBUSTNESS, cwd=killed, slow=0.02)
        deadline = time.monotonic() + PATIENCE
        while len(list(killed.glob(f"{results}/*/per_image/[!.]*.npz"))) < kept:
            assert time.monotonic() < deadline, process.err.read_text("utf-8")
            time.sleep(0.002)
        time.sleep(chance.random() * 0.1)
        process.send(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
        for path in killed.glob(f"{results}/*/manifest.json"):
            assert json.loads(path.read_text("utf-8"))["complete"] is False
    done = server.call(*ROBUSTNESS, cwd=killed)
    assert done.code == 0, done.err
    (expected,), (found,) = (list((folder / results).iterdir()) for folder in (whole, killed))
    assert found.name == expected.name
    for name in [*(f"{table}.csv" for table in TABLES), "notes.json"]:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(found.rglob("*.tmp"))
    assert json.loads((found / "manifest.json").read_text("utf-8"))["complete"] is True


@pytest.mark.slow
def test_two_processes_do_not_mix(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "runs" / NAME)
    first = server.start(*ROBUSTNESS, cwd=tmp_path, slow=0.05)
    deadline = time.monotonic() + PATIENCE
    while not list(tmp_path.glob(f"runs/{NAME}/robustness/*/per_image/*.npz")):
        assert time.monotonic() < deadline, first.err.read_text("utf-8")
        time.sleep(0.01)
    second = server.call(*ROBUSTNESS, cwd=tmp_path)
    assert second.code == 1
    assert "Another process is working on" in second.err
    done = first.wait()
    assert done.code == 0, done.err
