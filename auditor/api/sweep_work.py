"""Training the networks of a sweep: one free cell after the other, none of them twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from auditor.api.finetune import finetune
from auditor.api.run import Run
from auditor.api.sweep_board import Board
from auditor.api.sweep_grid import Cell
from auditor.api.workspace import Busy, locked
from auditor.progress import Reporter
from auditor.store.disk import is_full

PAUSE = 1.0


def work(
    run: Run,
    board: Board,
    cells: Sequence[Cell],
    training: dict[str, Any],
    *,
    before: dict[str, str],
    reporter: Reporter,
    training_reporter: Reporter | None = None,
    begins: Callable[[Cell], None] = lambda _: None,
    ends: Callable[[Cell], None] = lambda _: None,
) -> None:
    """Train what is free until everything is finished or has failed.

    A cell is taken by a lock on its folder, which the system releases when the process ends, however it ends. What
    others are at is waited for, and taken up where they left it if they end before it is done.

    Parameters
    ----------
    run : Run
        Where every training starts.
    board : Board
    cells : sequence of Cell
    training : dict
        Options of :func:`auditor.finetune`.
    before : dict of str to str
        Earlier failures, which are tried again: :meth:`Board.failures` at the beginning.
    reporter : Reporter
    training_reporter : Reporter, optional
        Hears of the single trainings; default: `reporter`.
    begins, ends : callable
        Called with a cell before and after it is trained here.

    Raises
    ------
    StoreError
        If the disk is full: no other network would find room, and none counts as failed for it.
    """
    waiting: set[Cell] = set()
    while True:
        busy = set()
        for cell in cells:
            if board.settled(cell, before):
                continue
            try:
                with locked(board.work(cell)):
                    if not board.settled(cell, before):  # it may have been finished just now
                        begins(cell)
                        _train(run, board, cell, training, reporter, training_reporter or reporter)
                        ends(cell)
            except Busy:
                busy.add(cell)
        busy = {cell for cell in busy if not board.settled(cell, before)}
        if not busy:
            return
        if busy - waiting:
            reporter.say(f"Other processes are at {'; '.join(map(str, sorted(busy)))}: waiting for them.")
        waiting |= busy
        time.sleep(PAUSE)


def _train(run: Run, board: Board, cell: Cell, training: dict[str, Any], reporter: Reporter, inner: Reporter) -> None:
    try:
        tuned = finetune(run, alpha=cell.alpha, seed=cell.seed, name=cell.name, runs=board.networks, reporter=inner,
                         **training)  # fmt: skip
    except Exception as error:  # whatever it is, the other networks do not depend on it
        if is_full(error):
            raise
        board.fail(cell, error)
        reporter.say(f"The network of {cell} failed: {str(error).splitlines()[0] if str(error) else type(error)}")
        return
    board.finish(cell, tuned)
