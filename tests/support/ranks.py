"""Several ``auditor`` processes that share a job, as a launcher starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from processes import Done, Process, Server

from auditor.api.storing import open_store
from auditor.errors import StoreError
from auditor.store.blocks import BlockCache
from auditor.store.reader import StoreReader

PATIENCE = 240.0
TABLES = ("units.csv", "layers.csv", "class_means.csv")


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def start_ranks(server: Server, n: int, *argv: str | Path, cwd: Path, **options: Any) -> list[Process]:
    """Start `n` ranks of one command; options are those of :meth:`Server.start`."""
    if n == 1:
        return [server.start(*argv, cwd=cwd, **options)]
    port = str(free_port())
    return [
        server.start(
            *argv, cwd=cwd, RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(n),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo", **options,
        )
        for rank in range(n)
    ]  # fmt: skip


def wait_ranks(ranks: list[Process], patience: float = PATIENCE) -> list[Done]:
    """Wait for all; ranks that do not end are killed, and the test fails."""
    deadline = time.monotonic() + patience
    try:
        while any(running(rank) for rank in ranks):
            assert time.monotonic() < deadline, [rank.err.read_text("utf-8") for rank in ranks]
            time.sleep(0.02)
    finally:
        for rank in ranks:
            if running(rank):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGKILL)
    return [rank.wait() for rank in ranks]


def running(rank: Process) -> bool:
    """Whether a rank has not ended; a process that nobody has waited for yet is a zombie."""
    try:
        state = Path(f"/proc/{rank.pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def call_ranks(server: Server, n: int, *argv: str | Path, cwd: Path, **options: Any) -> list[Done]:
    """Run a command in `n` ranks to its end; all must end well, and only the first may speak."""
    done = wait_ranks(start_ranks(server, n, *argv, cwd=cwd, **options))
    for rank, one in enumerate(done):
        assert one.code == 0, (rank, one)
        assert rank == 0 or not one.out, one
        assert rank == 0 or not one.err, one
    return done


def assert_equal_runs(run: Path, other: Path) -> None:
    """Same rows, same tables; images may meet in other batches, and sums run in another order."""
    assert not list(run.glob("scores/*"))
    assert not list(run.glob("shards/*/moments.npz"))
    assert not list(run.rglob("*.tmp"))
    for name in TABLES:
        mine, wanted = (pd.read_csv(path / name, keep_default_na=False) for path in (run, other))
        pd.testing.assert_frame_equal(mine, wanted, rtol=1e-5, atol=1e-7)
    with open_store(run) as store, open_store(other) as alone:
        assert store.ids == alone.ids
        np.testing.assert_array_equal(store.labels, alone.labels)
        np.testing.assert_array_equal(store.splits, alone.splits)
        np.testing.assert_allclose(store.logits, alone.logits, rtol=1e-5, atol=1e-6)
        for site in alone.sites:
            np.testing.assert_allclose(store.responses(site), alone.responses(site), rtol=1e-5, atol=1e-6)
    for split in ("select", "score"):
        mine, wanted = (BlockCache(path / "moments").get(split) for path in (run, other))
        assert mine is not None
        assert wanted is not None
        for name, values in wanted.items():
            np.testing.assert_allclose(mine[name], values, rtol=1e-5, atol=1e-6)
    here, there = (json.loads((path / "manifest.json").read_text("utf-8")) for path in (run, other))
    assert (here["digest"], here["complete"]) == (there["digest"], True)


def rows(run: Path) -> int:
    """Committed rows in all files of a run."""
    found: dict[int, int] = {}
    for path in run.rglob("activations.h5"):
        try:
            with StoreReader(path) as store:
                found[path.stat().st_ino] = store.n_rows  # one that is just being moved may be met twice
        except (StoreError, FileNotFoundError):
            continue
    return sum(found.values())


def start_each(server: Server, argvs: list[list[str]], *, cwd: Path, **options: Any) -> list[Process]:
    """Start ranks that were not given the same arguments, as a script with a mistake in it does."""
    port = str(free_port())
    return [
        server.start(
            *argv, cwd=cwd, RANK=str(rank), WORLD_SIZE=str(len(argvs)), LOCAL_RANK=str(rank),
            LOCAL_WORLD_SIZE=str(len(argvs)), MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo",
            **options,
        )
        for rank, argv in enumerate(argvs)
    ]  # fmt: skip
