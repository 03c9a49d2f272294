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


@pytest.mark.slow
def test_a_script_shares_its_work_and_ends_in_all_ranks_when_it_fails_in_one(pictures: Path, tmp_path: Path) -> None:
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SUPPORT), "CUDA_VISIBLE_DEVICES": "",
              "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(pictures)], cwd=tmp_path, env={**common, "RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        heard, own = (rank.communicate(timeout=200)[1] for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [1, 1], (heard, own)
    assert {tmp_path.joinpath(f"rank-{rank}").read_text("utf-8") for rank in range(2)} == {"28"}
    assert "LookupError: what is not in the table" in own
    assert "Rank 1 of 2" in heard
    assert "what is not in the table" in heard
