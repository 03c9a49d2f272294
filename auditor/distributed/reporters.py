"""Progress of several ranks, shown by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from auditor.distributed.world import World, current
from auditor.progress import NullTask, Reporter, Task

_STEPS = 1000  # a counter of the store is an integer; work may be parts of a unit


class RankReporter:
    """Speaks for the main rank only; every rank's step is noted, in case it is lost there.

    Parameters
    ----------
    inner : Reporter
        What the main rank speaks through.
    world : World
    """

    def __init__(self, inner: Reporter, world: World) -> None:
        self.inner = inner
        self.world = world

    def say(self, text: str) -> None:
        """Show one line, on the main rank."""
        if self.world.main:
            self.inner.say(text)

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Task]:
        """Open a bar for work that this rank does, and none other or all alike."""
        before = self.world.watch.step if self.world.watch is not None else ""
        if self.world.main:
            with self.inner.task(description, total, unit) as shown:
                yield _Noted(shown, self.world, description, total, unit)
        else:
            yield _Noted(NullTask(), self.world, description, total, unit)
        self.world.at(before)


class _Noted:
    """A bar whose state is noted as the rank's step."""

    def __init__(self, shown: Task, world: World, description: str, total: float, unit: str) -> None:
        self._shown, self._world = shown, world
        self._done = 0.0
        self._before, self._after = f"{description}, ", f" of {total:,.0f} {unit}"
        world.at(f"{self._before}0{self._after}")

    def advance(self, amount: float = 1) -> None:
        """Move on."""
        self._done += amount
        self._world.at(f"{self._before}{self._done:,.0f}{self._after}")
        self._shown.advance(amount)

    def note(self, text: str) -> None:
        """Pass on."""
        self._shown.note(text)


class _Counted(_Noted):
    """A bar for work that ranks do together: what each has done goes to a counter, which the main rank shows."""

    def __init__(self, shown: Task, world: World, key: str, description: str, total: float, unit: str) -> None:
        super().__init__(NullTask(), world, description, total, unit)
        self._bar = shown
        self._key = key
        self._total = total
        self._seen = 0
        self._sent = 0
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Pass on."""
        self._bar.note(text)

    def exchange(self, store: Any) -> None:
        """Send what was done since, and show what all have done."""
        with self._lock:
            done = round(self._done * _STEPS)
            total = int(store.add(self._key, done - self._sent))
            self._sent = done
            if total > self._seen:
                self._bar.advance((total - self._seen) / _STEPS)
                self._seen = total


def of_rank(reporter: Reporter) -> Reporter:
    """Wrap a reporter for this rank; as it is where there is only one."""
    world = current()
    if not world.several or isinstance(reporter, RankReporter):
        return reporter
    return RankReporter(reporter, world)


@contextmanager
def together(reporter: Reporter, description: str, total: float, unit: str) -> Iterator[Task]:
    """Open a bar for work that is divided among the ranks; the block ends for each when all have done their part.

    Parameters
    ----------
    reporter : Reporter
    description : str
    total : float
        Of all ranks together.
    unit : str
        Plural.
    """
    world = current()
    if not world.several:
        with reporter.task(description, total, unit) as task:
            yield task
        return
    watch = world.watch
    assert watch is not None
    key = world.key("progress", description)
    inner = reporter.inner if isinstance(reporter, RankReporter) else reporter
    before = watch.step

    def work(shown: Task) -> Iterator[Task]:
        task = _Counted(shown, world, key, description, total, unit)
        stop = watch.every_beat(task.exchange)
        try:
            yield task
            task.exchange(world.store)
            world.at(f"{description}, waiting for the other ranks")
            arrived = f"{key}/arrived"
            world.store.add(arrived, 1)
            world.until(lambda: bool(world.store.add(arrived, 0) >= world.size))
            task.exchange(world.store)
        finally:
            stop()

    if world.main:
        with inner.task(description, total, unit) as shown:
            yield from work(shown)
    else:
        yield from work(NullTask())
    world.at(before)
