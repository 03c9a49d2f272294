"""A sweep whose networks are spread over ranks: none twice, and each as a single process trains it."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from processes import Server
from ranks import call_ranks, running, start_each, start_ranks, wait_ranks
from torch import distributed

from auditor.api.sweep_ranks import _heard
from auditor.distributed import World
from auditor.progress import NullTask

SWEEP = [
    "sweep", "--run", "alone", "--alphas", "-1", "--seeds", "2", "--epochs", "2", "--batch-size", "16", "--name", "s",
    "--workers", "0", "--device", "cpu",
]  # fmt: skip
CELLS = [f"alpha-{alpha}-seed{seed}" for alpha in (-1, 0) for seed in (0, 1)]


@pytest.fixture(scope="module")
def swept(server: Server, profiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sweep that one process made; read only."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copytree(profiled, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        done = server.call(*SWEEP, cwd=folder)
    assert done.code == 0, done.err
    return folder


def assert_equal_sweeps(folder: Path, other: Path) -> None:
    sweep, wanted = folder / "runs" / "s", other / "runs" / "s"
    for name in ("alphas.csv", "layers.csv", "networks.csv"):
        mine, there = (pd.read_csv(path / name).drop(columns="seconds", errors="ignore") for path in (sweep, wanted))
        pd.testing.assert_frame_equal(mine, there, check_exact=True)
    for cell in CELLS:
        mine, there = ((path / "networks" / cell / "weights.safetensors").read_bytes() for path in (sweep, wanted))
        assert mine == there


def test_each_network_once_and_as_alone(server: Server, swept: Path, folder: Path) -> None:
    done = call_ranks(server, 3, *SWEEP, cwd=folder, slow=0.02)
    assert_equal_sweeps(folder, swept)
    lines = done[0].err.splitlines()
    begun = [line for line in lines if line.rstrip().endswith("begun")]
    assert len(begun) == len(CELLS), done[0].err
    assert len({line[line.index("(rank") :] for line in begun}) > 1
    assert sum(line.rstrip().endswith("ended") for line in lines) == len(CELLS)
    assert "4 networks" in done[0].out
    again = call_ranks(server, 2, *SWEEP, cwd=folder)
    assert "4 of them finished before" in again[0].err


def test_a_lost_rank_ends_the_sweep_and_others_go_on(server: Server, swept: Path, folder: Path) -> None:
    networks = folder / "runs" / "s" / "networks"
    ranks = start_ranks(server, 2, *SWEEP, cwd=folder, slow=0.4, AUDITOR_RANK_TIMEOUT="3")
    deadline = time.monotonic() + 60
    while len(list(networks.glob("*/training/state.pt"))) < 2 and any(map(running, ranks)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks[1].send(signal.SIGKILL)
    done = wait_ranks(ranks)
    assert done[0].code == 1
    assert "Rank 1 of 2" in done[0].err
    assert "training the network of alpha" in done[0].err
    call_ranks(server, 3, *SWEEP, cwd=folder)
    assert_equal_sweeps(folder, swept)


def test_failures_are_recorded_and_said_once(server: Server, folder: Path) -> None:
    done = wait_ranks(start_ranks(server, 2, *SWEEP, "--learning-rate", "1e30", "--epochs", "1", cwd=folder))
    assert [one.code for one in done] == [1, 1]
    assert "Error: 4 networks failed" in done[0].err
    assert not done[1].err
    assert len(list((folder / "runs" / "s" / "work").glob("*/failed.json"))) == 4


def test_no_processes_of_its_own(server: Server, folder: Path) -> None:
    done = wait_ranks(start_ranks(server, 2, *SWEEP, "--processes", "2", cwd=folder))
    assert [one.code for one in done] == [1, 1]
    assert "not both" in done[0].err
    assert not (folder / "runs" / "s").exists()


def test_the_last_beat_may_come_as_the_sweep_ends() -> None:
    """Both threads show what was said; a line that the other has taken would be waited for."""

    class Store:
        def __init__(self, pause: float) -> None:
            self.pause = pause

        def check(self, keys: list[str]) -> bool:
            return bool(inner.check(keys))

        def get(self, key: str) -> bytes:
            reading.set()
            time.sleep(self.pause)
            return bytes(inner.get(key))

        def delete_key(self, key: str) -> None:
            inner.delete_key(key)

    class Watch:
        def every_beat(self, chore: Callable[[Any], None]) -> Callable[[], None]:
            self.beat = threading.Thread(target=lambda: (chore(Store(0.2)), lines.append("the last beat")))
            return lambda: None

    class Lines(NullTask):
        def note(self, text: str) -> None:
            lines.append(text)

    inner, reading, lines, watch = distributed.HashStore(), threading.Event(), [], Watch()
    inner.set_timeout(timedelta(seconds=1))
    with _heard(World(0, 2, store=Store(0), watch=watch), "key", Lines()):  # type: ignore[arg-type]
        for number in range(2):
            inner.set(f"key/{number}", f"line {number}")
        watch.beat.start()
        assert reading.wait(5)
    watch.beat.join()
    assert lines == ["line 0", "line 1", "the last beat"]


def test_ranks_with_other_networks_are_told_apart(server: Server, folder: Path) -> None:
    done = wait_ranks(start_each(server, [SWEEP, [*SWEEP, "--seeds", "1"]], cwd=folder))
    assert [one.code for one in done] == [1, 1]
    assert "cells: " in done[0].err + done[1].err
    assert not (folder / "runs" / "s" / "networks").exists()
