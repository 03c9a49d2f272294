from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import StoreError
from auditor_streaming.cache import Arrays, Piece, all_pieces, pack, unpack

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def noted(folder: Path, number: int, seconds: float = 0.0) -> Arrays:
    """Make a piece, and leave a note of it."""
    time.sleep(seconds)
    (folder / f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return {"number": np.array(number)}


def pieces(folder: Path, n: int = 6, seconds: float = 0.0, stamp: int = 0) -> list[Piece]:
    return [Piece((f"piece {i}",), {"stamp": stamp}, partial(noted, folder, i, seconds)) for i in range(n)]


def numbers(found: list[Arrays]) -> list[int]:
    return [int(one["number"]) for one in found]


def made(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_texts_come_back(texts: list[str]) -> None:
    assert unpack(pack(texts), len(texts)) == texts


def test_a_piece_is_made_once_for_each_stamp(tmp_path: Path) -> None:
    for stamp, n_made in ((0, 6), (0, 6), (1, 12), (1, 12), (0, 18)):
        assert numbers(all_pieces(pieces(tmp_path, stamp=stamp))) == list(range(6))
        assert len(made(tmp_path)) == n_made


@needs_fork
def test_processes_share_the_work(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    work: Callable[[], Any] = partial(all_pieces, pieces(tmp_path, n=8, seconds=0.1))
    processes = [context.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    assert numbers(work()) == list(range(8))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert made(tmp_path) == list(map(str, range(8)))
    assert len({path.name.split("-")[1] for path in tmp_path.iterdir()}) > 1


@needs_fork
def test_what_a_killed_process_made_stays(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=all_pieces, args=(pieces(tmp_path, seconds=0.15),))
    process.start()
    while len(made(tmp_path)) < 3:
        time.sleep(0.01)
    time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert numbers(all_pieces(pieces(tmp_path))) == list(range(6))
    assert len(made(tmp_path)) <= 7  # one may have been made and not yet kept


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="AUDITOR_CACHE"):
        all_pieces(pieces(tmp_path))
