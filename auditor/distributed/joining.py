"""Join the ranks that a launcher has started, and leave them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from auditor.distributed.launch import Launch
from auditor.distributed.watch import TIMEOUT, TIMEOUT_VARIABLE, Watch
from auditor.distributed.world import World, current, entered
from auditor.errors import OptionError

MEETING = timedelta(minutes=5)
"""How long the first rank to come waits for the last."""
FOREVER = timedelta(days=365)
"""Of collective operations: a lost rank is noticed by other means, and a slow one is no error."""


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
        If the environment makes no sense, the ranks do not meet within five minutes, or there are more of them on a
        machine than GPUs.
    """
    launch = launch or Launch.of_environment()
    if launch is None or current().several:
        yield current()
        return
    _own_device(launch)
    timeout = silence()
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        server = distributed.TCPStore(
            launch.address, launch.port, is_master=launch.rank == 0 and not agent, wait_for_workers=False,
            timeout=MEETING,
        )  # fmt: skip
        store = distributed.PrefixStore(f"auditor/{launch.attempt}", server)
        watch = Watch(
            distributed.PrefixStore(f"auditor/{launch.attempt}", server.clone()), launch.rank, launch.size,
            timeout=timeout, agent=agent,
        )  # fmt: skip
        watch.beat()
        store.wait([f"beat/{rank}" for rank in range(launch.size)], MEETING)
    except RuntimeError as error:
        raise OptionError(
            f"The {launch.size} ranks did not meet at {launch.address}:{launch.port} within "
            f"{MEETING.total_seconds():g} s.",
            got=str(error).splitlines()[0],
            fix="Check that all of them were started, and that they reach each other.",
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
    if launch.local_rank >= there:
        if there == 1:  # the launcher shows each rank its own
            return
        raise OptionError(
            "There are more ranks on this machine than GPUs.",
            wanted=f"at most {there}",
            got=str(launch.local_size),
            fix=f"torchrun --nproc-per-node {there}",
        )
    torch.cuda.set_device(launch.local_rank)
