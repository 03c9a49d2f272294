"""Join the ranks that a launcher has started, and leave them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import count

import torch
from torch import distributed

from auditor.distributed.launch import Launch
from auditor.distributed.watch import TIMEOUT, TIMEOUT_VARIABLE, Watch
from auditor.distributed.world import World, current, entered
from auditor.errors import OptionError

MEETING = 300.0
"""Seconds for which the first rank to come waits for the last."""
FOREVER = timedelta(days=365)
"""Of collective operations: a lost rank is noticed by other means, and a slow one is no error."""
_TIMES = count()


@contextmanager
def joined(launch: Launch | None = None) -> Iterator[World]:
    """Join the ranks of ``torchrun`` or ``srun`` for the length of the block; alone, do nothing.

    Inside, the verbs of the package share their work. Each rank calls them with the same arguments, and gets the same
    result.

    Parameters
    ----------
    launch : Launch, optional
        Default: what the environment says.

    Yields
    ------
    World

    Raises
    ------
    OptionError
        If the environment makes no sense, the ranks do not meet within five minutes, another launch meets at the same
        place, or there are more ranks on a machine than GPUs.
    """
    launch = launch or Launch.of_environment()
    if launch is None or current().several:
        yield current()
        return
    _own_device(launch)
    timeout = silence()
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        server = _server(launch.address, launch.port, keeps=launch.rank == 0 and not agent)
        # A script may join more than once.
        prefix = f"auditor/{launch.attempt}/{next(_TIMES)}"
        store = distributed.PrefixStore(prefix, server)
        if store.add(f"seat/{launch.rank}", 1) > 1:
            raise OptionError(
                f"Another process is rank {launch.rank} at {launch.address}:{launch.port} already.",
                fix="Give every launch a MASTER_PORT of its own.",
            )
        watch = Watch(
            distributed.PrefixStore(prefix, _connection(launch)), launch.rank, launch.size, timeout=timeout, agent=agent
        )
        watch.beat()
        beats = [f"beat/{rank}" for rank in range(launch.size)]
        if not _comes(lambda: bool(store.check(beats))):
            late = ", ".join(str(rank) for rank, beat in enumerate(beats) if not store.check([beat]))
            message = f"without rank {late}"
            raise TimeoutError(message)
    except (RuntimeError, OSError) as error:
        raise OptionError(
            f"The {launch.size} ranks did not meet at {launch.address}:{launch.port}.",
            wanted=f"all of them within {MEETING:g} s",
            got=str(error).splitlines()[0],
            fix="Check that all were started, that they reach each other, and that no other launch has this "
            "MASTER_PORT.",
        ) from error
    world = World(launch.rank, launch.size, launch.local_rank, launch.local_size, launch, store, watch)
    watch.start()
    with entered(world):
        try:
            yield world
        except BaseException as error:
            watch.give_up(error)
            raise
    world.barrier("leaving")
    if distributed.is_initialized():
        distributed.destroy_process_group()
    watch.leave()


@cache
def _server(address: str, port: int, *, keeps: bool) -> distributed.TCPStore:
    """Open the store in which the ranks meet, or reach the one that is open; it stays so for the process's life."""

    def open_there() -> bool:
        try:
            socket.create_connection((address, port), timeout=10).close()
        except OSError:
            return False
        return True

    if not keeps and not _comes(open_there):
        message = "nobody listens there"
        raise TimeoutError(message)
    return distributed.TCPStore(
        address, port, is_master=keeps, wait_for_workers=False, timeout=timedelta(seconds=MEETING)
    )


def _connection(launch: Launch) -> distributed.TCPStore:
    """Reach the store that is open once more: calls on one connection wait for each other."""
    return distributed.TCPStore(
        launch.address, launch.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=MEETING)
    )


def _comes(ready: Callable[[], bool]) -> bool:
    """Wait for something in Python, so that Ctrl-C is heard; whether it came in time."""
    deadline = time.monotonic() + MEETING
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def silence() -> float:
    """Seconds without a sign of life after which a rank counts as lost.

    Raises
    ------
    OptionError
        If the environment variable that sets it is no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 2 <= seconds < float("inf"):
        raise OptionError(f"{TIMEOUT_VARIABLE} is a number of seconds.", wanted="2 or more", got=repr(text))
    return seconds


def _own_device(launch: Launch) -> None:
    """Give each rank a GPU of its own."""
    if not torch.cuda.is_available():
        return
    there = torch.cuda.device_count()
    if there == 1:  # the launcher shows each rank its own
        return
    if max(launch.local_size, launch.local_rank + 1) > there:  # in all ranks of the machine alike
        raise OptionError(
            "There are more ranks on this machine than GPUs.",
            wanted=f"at most {there}",
            got=str(launch.local_size),
            fix=f"torchrun --nproc-per-node {there}; with CUDA_VISIBLE_DEVICES='' the ranks work on the CPU.",
        )
    torch.cuda.set_device(launch.local_rank)
