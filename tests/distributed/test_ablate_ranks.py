"""An ablation by several processes is that of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import Server
from ranks import call_ranks, free_port, running, start_ranks, wait_ranks
from torch import distributed

from auditor.ablation import PairEffects
from auditor.api import measure_units
from auditor.api.pieces import shrinking
from auditor.api.workspace import locked
from auditor.distributed import world as worlds
from auditor.store.blocks import BlockCache

# So little memory that the 54 images do not fit into one batch: there is something to divide.
ABLATE = [
    "ablate", "--top-selective", "4", "--q", "1", "--random-orders", "2", "--curve-points", "3", "--workers", "0",
    "--memory", "0.0003", "--batch-size", "7",
]  # fmt: skip
ALL = ["--all", "--keep-only", "--method", "gradient_x_activation"]


@pytest.fixture
def copies(profiled: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Make folders in which the same run can be ablated."""

    def copy(name: str) -> Path:
        shutil.copytree(profiled / "runs" / "alone", tmp_path / name / "runs" / "alone")
        return tmp_path / name

    return copy


def folder_of(where: Path) -> Path:
    (found,) = (where / "runs" / "alone" / "ablations").iterdir()
    return found


def assert_equal_ablations(mine: Path, wanted: Path) -> None:
    """Byte for byte: whoever measures a block lets the same images meet in the same batches, on one thread."""
    files = {
        str(path.relative_to(wanted)): path.read_bytes()
        for path in wanted.rglob("*")
        if path.suffix in (".csv", ".json", ".npz") and path.name != "manifest.json"
    }
    assert {"units.csv", "curve.csv", "areas.csv", "sets.csv", "classes.csv", "results.json"} < files.keys()
    there = [path for path in mine.rglob("*") if path.suffix in (".csv", ".json", ".npz", ".tmp")]
    assert {str(path.relative_to(mine)) for path in there} == {*files, "manifest.json"}
    assert [name for name, content in files.items() if (mine / name).read_bytes() != content] == []
    here, other = (json.loads((path / "manifest.json").read_text("utf-8")) for path in (mine, wanted))
    assert (here["digest"], here["complete"]) == (other["digest"], True)


@pytest.mark.parametrize(
    "n, options",
    [
        (2, ALL),
        (3, ["--edit", "resample-class"]),
        pytest.param(2, ["--edit", "noise=0.5", "--screen", "5"], marks=pytest.mark.slow),
        pytest.param(3, ["--top-important", "3", "--delta", "0.2"], marks=pytest.mark.slow),
        pytest.param(2, ["--engine", "hooks", "--edit", "mean"], marks=pytest.mark.slow),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else str(value),
)
def test_equals_that_of_one_process(server: Server, copies: Callable[[str], Path], n: int, options: list[str]) -> None:
    alone, shared = copies("one"), copies("several")
    done = server.call(*ABLATE, *options, cwd=alone)
    assert done.code == 0, done.err
    ranks = call_ranks(server, n, *ABLATE, *options, cwd=shared)
    assert_equal_ablations(folder_of(shared), folder_of(alone))
    assert ranks[0].out.replace("\n", "").replace(" ", "") == done.out.replace("\n", "").replace(" ", "")
    manifest = json.loads((folder_of(shared) / "manifest.json").read_text("utf-8"))
    assert manifest["provenance"]["execution"]["processes"] == n


def test_ranks_without_work(server: Server, copies: Callable[[str], Path]) -> None:
    few = [*ABLATE, "--memory", "2", "--batch-size", "64", "--check", "0"]
    alone, shared = copies("one"), copies("several")
    assert server.call(*few, cwd=alone).code == 0
    call_ranks(server, 4, *few, cwd=shared)
    assert_equal_ablations(folder_of(shared), folder_of(alone))


@pytest.mark.parametrize(
    "options, numbers, enough",
    [
        (ALL, (3, 1, 2), (5, 13)),  # in the estimates, and among the sets
        pytest.param(ALL, (1, 2, 3), (11, 14), marks=pytest.mark.slow),
        pytest.param(["--top-important", "3"], (3, 1, 2), (3, 6), marks=pytest.mark.slow),
        pytest.param(["--top-important", "3"], (1, 3), (5,), marks=pytest.mark.slow),
    ],
    ids=["all-3-1-2", "all-1-2-3", "race-3-1-2", "race-1-3"],
)
def test_begun_by_some_and_ended_by_others(
    server: Server,
    copies: Callable[[str], Path],
    options: list[str],
    numbers: tuple[int, ...],
    enough: tuple[int, ...],
) -> None:
    alone, killed = copies("one"), copies("killed")
    assert server.call(*ABLATE, *options, cwd=alone).code == 0
    before: dict[str, int] = {}
    for n, blocks in zip(numbers[:-1], enough, strict=True):
        ranks = start_ranks(server, n, *ABLATE, *options, cwd=killed, slow=0.003)
        deadline = time.monotonic() + 60
        while len(blocks_in(killed)) < blocks and any(map(running, ranks)) and time.monotonic() < deadline:
            time.sleep(0.005)
        for rank in reversed(ranks):
            rank.send(signal.SIGKILL)
        assert {done.code for done in wait_ranks(ranks)} == {-signal.SIGKILL}
        there = blocks_in(killed)
        assert len(there) >= blocks
        # What is finished is not done again.
        assert {path: there[path] for path in before if path in there} == before
        before = {path: stamp for path, stamp in there.items() if "/pieces/" not in path and "/race-" not in path}
    call_ranks(server, numbers[-1], *ABLATE, *options, cwd=killed)
    assert_equal_ablations(folder_of(killed), folder_of(alone))
    units = {path: stamp for path, stamp in before.items() if "per_image" in path}
    assert units.items() <= blocks_in(killed).items()


def blocks_in(where: Path) -> dict[str, int]:
    """When each block of an ablation was written."""
    found = {}
    for folder, _, names in os.walk(where / "runs" / "alone" / "ablations"):  # folders may go meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name.endswith(".npz"):
                    found[f"{folder}/{name}"] = (Path(folder) / name).stat().st_mtime_ns
    return found


def test_two_launches_on_one_folder(server: Server, copies: Callable[[str], Path]) -> None:
    where = copies("one")
    first = call_ranks(server, 2, *ABLATE, cwd=where)
    with locked(folder_of(where)):
        done = wait_ranks(start_ranks(server, 2, *ABLATE, cwd=where))
    assert [one.code for one in done] == [1, 1]
    done[0].is_clear_error("Another process is working on")
    assert not done[1].err
    again = call_ranks(server, 2, *ABLATE, cwd=where)
    assert "was finished before" in again[0].err
    assert again[0].out == first[0].out


def test_ranks_with_other_settings_are_told_apart(server: Server, copies: Callable[[str], Path]) -> None:
    where, port = copies("one"), str(free_port())
    ranks = [
        server.start(*ABLATE, "--seed", str(rank), cwd=where, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                     MASTER_PORT=port)
        for rank in range(2)
    ]  # fmt: skip
    done = wait_ranks(ranks)
    assert [one.code for one in done] == [1, 1]
    assert "seed: 0 -> 1" in done[0].err


@given(n=st.integers(0, 500), ranks=st.integers(1, 9))
def test_stretches_cover_everything_once_and_get_shorter(n: int, ranks: int) -> None:
    found = shrinking(n, ranks)
    assert [number for stretch in found for number in stretch] == list(range(n))
    lengths = [len(stretch) for stretch in found]
    assert lengths == sorted(lengths, reverse=True)
    if ranks > 1 and n >= 2 * ranks:
        assert lengths[0] <= n / (2 * ranks)


def in_ranks(n: int, work: Callable[[int], Any]) -> list[Any]:
    """Call `work` with each rank's number in a thread of its own; they meet in memory."""
    store, found = distributed.HashStore(), [None] * n

    def run(rank: int) -> None:
        token = worlds._CURRENT.set(worlds.World(rank, n, store=store))
        try:
            found[rank] = work(rank)
        finally:
            worlds._CURRENT.reset(token)

    threads = [Thread(target=run, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_what_one_rank_could_not_replay_is_known_to_all() -> None:
    known: list[dict[str, str]] = [{"c": "late"}, {}, {"a": "early", "c": "late"}]

    def work(rank: int) -> list[tuple[str, str]]:
        bench: Any = SimpleNamespace(sites=dict.fromkeys("abc"), engine=SimpleNamespace(fallbacks=known[rank]))
        measure_units._share_fallbacks(bench)
        return list(bench.engine.fallbacks.items())

    assert in_ranks(3, work) == [[("a", "early"), ("c", "late")]] * 3


def test_pieces_are_taken_as_they_are_and_the_rest_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, images = np.arange(3), np.arange(10, 30)
    truth = np.arange(60.0).reshape(3, 20)
    asked: list[list[int]] = []

    def effects(columns: Any) -> PairEffects:
        values = truth[:, columns]
        return PairEffects.from_arrays(dict.fromkeys(("target_logit_drop", "loss_change", "kl", "prediction"), values))

    def measure(_bench: Any, _block: Any, some: Any, _task: Any = None) -> PairEffects:
        asked.append(some.tolist())
        return effects(some - 10)

    monkeypatch.setattr(measure_units, "measure_block", measure)
    engine = SimpleNamespace(fallbacks={})
    bench: Any = SimpleNamespace(engine=engine, units=pd.DataFrame({"site": ["a", "b", "b"]}))
    pieces = BlockCache(tmp_path)
    pieces.put("0-6", {**effects(slice(0, 6)).to_arrays(), "fallbacks": np.array([("b", "views"), ("z", "no")])})
    pieces.put("4-8", effects(slice(4, 8)).to_arrays())  # another launch cut the images otherwise
    pieces.put("8-12", effects(slice(8, 12)).to_arrays())
    next(tmp_path.glob("8-12*")).write_bytes(b"half of it")
    found = measure_units.measure_rest(bench, rows, images, tmp_path)
    assert asked == [list(range(18, 30))]
    np.testing.assert_array_equal(found["loss_change"], truth)
    assert engine.fallbacks == {"b": "views", "z": "no"}
    assert found["fallbacks"].tolist() == [["b", "views"]]
