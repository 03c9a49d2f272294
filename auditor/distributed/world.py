"""The processes that share a job, as one of them sees the others.

A world of one process is the ordinary case: every method then does nothing, or all of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.distributed.launch import Launch
    from auditor.distributed.watch import Watch

_SHORTEST, _LONGEST = 0.002, 0.1


@dataclass(eq=False)
class World:
    """A place among `size` processes that run the same program on the same run folder.

    What ranks tell each other goes through the store of ``torch.distributed`` as JSON; what they find goes through
    files. Every method but :meth:`take` must be called by all ranks, in the same order.

    Attributes
    ----------
    rank, size : int
    local_rank, local_size : int
        The same among the processes of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launch: Launch | None = None
    store: Any = None
    watch: Watch | None = None
    _calls: int = field(default=0, repr=False)

    @property
    def main(self) -> bool:
        """Whether this is the rank that speaks and writes what there is one of."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are other ranks."""
        return self.size > 1

    def at(self, step: str) -> None:
        """Note what this rank is doing, for the others to tell if it is lost."""
        if self.watch is not None:
            self.watch.step = step

    def barrier(self, name: str) -> None:
        """Wait until every rank is here."""
        key = self.key("barrier", name)
        if not self.several:
            return
        self.store.add(key, 1)
        self.until(lambda: bool(self.store.add(key, 0) >= self.size))

    def share(self, name: str, value: Any = None) -> Any:
        """Give every rank the value that the main rank passes: plain data, as JSON."""
        key = self.key("share", name)
        if not self.several:
            return value
        if self.main:
            self.store.set(key, json.dumps(value))
            return value
        self.until(lambda: bool(self.store.check([key])))
        return json.loads(self.store.get(key))

    def gather(self, name: str, value: Any) -> list[Any]:
        """Give every rank the values of all, in the order of the ranks."""
        key = self.key("gather", name)
        if not self.several:
            return [value]
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        self.until(lambda: bool(self.store.check(keys)))
        return [json.loads(self.store.get(one)) for one in keys]

    def take(self, name: str, n: int) -> Iterator[int]:
        """Hand out the numbers 0 to n - 1, each to one rank: whoever is free takes the next.

        The call must be made by all ranks; how many numbers each draws is its own affair.
        """
        key = self.key("take", name)
        return self._taken(key, n) if self.several else iter(range(n))

    def _taken(self, key: str, n: int) -> Iterator[int]:
        while (number := int(self.store.add(key, 1)) - 1) < n:
            yield number

    @contextmanager
    def first(self, name: str) -> Iterator[None]:
        """Let the main rank go through the block before the others, who then find what it left on disk."""
        if self.main:
            yield
        self.barrier(name)
        if not self.main:
            yield

    def until(self, ready: Any) -> None:
        """Wait for others. Sleeps in Python, so that Ctrl-C is heard; a lost rank ends the process from outside."""
        pause = _SHORTEST
        while not ready():
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)

    def key(self, kind: str, name: str) -> str:
        """A key of its own for each call; ranks that have come to different calls would wait for ever."""
        self._calls += 1
        key = f"{kind}/{self._calls}"
        if self.several:
            wanted = f"{kind} {name}"
            there = self.store.compare_set(f"call/{self._calls}", "", wanted).decode()
            if there != wanted:
                message = f"rank {self.rank} is at {wanted!r}, another rank at {there!r}"
                raise RuntimeError(message)
        return key


_CURRENT: ContextVar[World | None] = ContextVar("auditor_world", default=None)
_PROCESS: list[World] = []


def current() -> World:
    """The world that this process has joined, or one of its own."""
    within = _CURRENT.get()
    if within is not None:
        return within
    return _PROCESS[-1] if _PROCESS else World()


@contextmanager
def entered(world: World) -> Iterator[World]:
    """Make `world` that of the whole process, all threads included."""
    _PROCESS.append(world)
    try:
        yield world
    finally:
        _PROCESS.remove(world)


@contextmanager
def alone() -> Iterator[None]:
    """Work as a single process inside the block, whatever others do meanwhile; they still share the machine."""
    here = current()
    token = _CURRENT.set(World(local_rank=here.local_rank, local_size=here.local_size))
    try:
        yield
    finally:
        _CURRENT.reset(token)
