"""The verbs in a user's own script, under a launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SUPPORT
from ranks import free_port

SCRIPT = Path(__file__).with_name("script.py")


def start(pictures: Path, folder: Path, how: str) -> list[tuple[int, str]]:
    """Run the script in two ranks; exit codes and what went to stderr."""
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SUPPORT), "CUDA_VISIBLE_DEVICES": "",
              "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(pictures), how], cwd=folder, env={**common, "RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


@pytest.mark.slow
def test_ranks_share_the_work_of_a_script(pictures: Path, tmp_path: Path) -> None:
    done = start(pictures, tmp_path, "well")
    assert [code for code, _ in done] == [0, 0], done
    assert {tmp_path.joinpath(f"rank-{rank}").read_text("utf-8") for rank in range(2)} == {"28"}


@pytest.mark.slow
def test_a_script_that_fails_in_one_rank_ends_in_all(pictures: Path, tmp_path: Path) -> None:
    (first, heard), (second, own) = start(pictures, tmp_path, "crash")
    assert (first, second) == (1, 1)
    assert "LookupError: what is not in the table" in own
    assert "Rank 1 of 2" in heard
    assert "what is not in the table" in heard
