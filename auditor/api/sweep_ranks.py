"""A sweep in several ranks: each takes free networks, and the main rank tells of all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from auditor.api.run import Run
from auditor.api.sweep_board import Board
from auditor.api.sweep_grid import Cell
from auditor.api.sweep_work import work
from auditor.distributed import World, alone
from auditor.distributed.reporters import together
from auditor.progress import NullReporter, NullTask, Reporter, Task


def share_out(
    run: Run,
    board: Board,
    cells: Sequence[Cell],
    training: dict[str, Any],
    *,
    before: dict[str, str],
    world: World,
    reporter: Reporter,
) -> None:
    """Train the cells in all ranks, each network by one of them as by a process of its own.

    Parameters
    ----------
    run, board, cells, training, before
        See :func:`auditor.api.sweep_work.work`; `before` must be the same on all ranks.
    world : World
    reporter : Reporter
        Of the main rank: shows what all ranks do.
    """
    left = world.share("left", sum(not board.settled(cell, before) for cell in cells))
    key = world.key("notes", "sweep")
    with together(reporter, f"Sweep in {world.size} ranks", left, "networks") as task, _heard(world, key, task):
        told = _Told(world, key)

        def begin(cell: Cell) -> None:
            told.cell = cell
            world.at(f"training the network of {cell}")
            told.say("begun")

        def end(_cell: Cell) -> None:
            told.say("ended")
            told.cell = None
            task.advance(1)

        with alone():
            work(run, board, cells, training, before=before, reporter=told, begins=begin, ends=end)
        world.at("waiting for the other ranks' networks")
        world.barrier("networks trained")  # by then all has been said


class _Told(NullReporter):
    """Sends what a rank has to say to the main rank, through the store."""

    def __init__(self, world: World, key: str) -> None:
        self.cell: Cell | None = None
        self._world, self._key = world, key

    def say(self, text: str) -> None:
        """Send one line, with the network that it is about."""
        store = self._world.store
        number = int(store.add(f"{self._key}/places", 1)) - 1
        about = f"{self.cell} (rank {self._world.rank})" if self.cell is not None else f"rank {self._world.rank}"
        store.set(f"{self._key}/{number}", f"{about}: {text}")

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Task]:
        """Send the notes of a bar; the bar is the rank's own."""
        yield _Notes(self)


class _Notes(NullTask):
    def __init__(self, told: _Told) -> None:
        self._told = told

    def note(self, text: str) -> None:
        """Send one line."""
        self._told.say(text)


@contextmanager
def _heard(world: World, key: str, task: Task) -> Iterator[None]:
    """Show on the main rank what the ranks send, a few moments later, until all have done their part."""
    if not world.main or world.watch is None:
        yield
        return
    shown = 0
    lock = threading.Lock()  # the last beat may still be at it when the block ends

    def show(store: Any) -> None:
        nonlocal shown
        with lock:
            while store.check([f"{key}/{shown}"]):
                task.note(store.get(f"{key}/{shown}").decode())
                store.delete_key(f"{key}/{shown}")
                shown += 1

    stop = world.watch.every_beat(show)
    try:
        yield
    finally:
        stop()
    show(world.store)
