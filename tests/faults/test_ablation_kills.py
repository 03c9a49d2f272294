"""``auditor ablate --all`` killed at random moments, and taken up again."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

from processes import NAME, Server

ALL = [
    "ablate", "--all", "--top-selective", "4", "--q", "1", "--random-orders", "2", "--curve-points", "3",
    "--method", "gradient_x_activation", "--workers", "0", "--quiet",
]  # fmt: skip
TABLES = ("units.csv", "curve.csv", "areas.csv", "sets.csv", "results.json")
KILLS = 6


def test_killed_again_and_again(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    folders = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        shutil.copytree(undisturbed, folder / "runs" / NAME, ignore=shutil.ignore_patterns("ablations"))
        folders.append(folder)
    whole, killed = folders
    began = time.monotonic()
    done = server.call(*ALL, cwd=whole)
    assert done.code == 0, done.err
    seconds = time.monotonic() - began
    chance, kills = random.Random(0), 0
    while kills < KILLS:
        process = server.start(*ALL, cwd=killed)
        time.sleep(chance.random() * seconds * 0.7)
        process.send(signal.SIGKILL)
        done = process.wait()
        assert done.code in (0, -signal.SIGKILL), done
        if done.code == 0:
            break
        kills += 1
    done = server.call(*ALL, cwd=killed)
    assert done.code == 0, done.err
    assert kills > 0
    (expected,), (found,) = ((folder / "runs" / NAME / "ablations").iterdir() for folder in folders)
    for table in TABLES:
        assert (found / table).read_bytes() == (expected / table).read_bytes(), table
    blocks = sorted(path.name for path in (expected / "per_image").iterdir())
    assert sorted(path.name for path in (found / "per_image").iterdir()) == blocks
    assert not list((found / "blocks").glob("*.npz"))
