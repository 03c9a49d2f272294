"""A sweep in several processes: each takes free networks, and all end with the one that started them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

import torch

from auditor.api.run import Run
from auditor.api.sweep_board import Board
from auditor.api.sweep_grid import Cell
from auditor.api.sweep_worker import INTERRUPTED
from auditor.errors import OptionError, RunError, StoreError
from auditor.progress import Reporter, Task

PATIENCE = 10.0
_TAIL = 2000

Event = tuple["Worker", dict[str, Any] | None]


@dataclass(eq=False)
class Worker:
    """A child process, and the cell that it is at."""

    process: subprocess.Popen[str]
    errors: IO[bytes]
    cell: Cell | None = None

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", errors="replace")[-_TAIL:].strip()


def spread(
    run: Run,
    board: Board,
    cells: Sequence[Cell],
    training: dict[str, Any],
    *,
    before: dict[str, str],
    processes: int,
    reporter: Reporter,
) -> None:
    """Train the cells in child processes, each with its share of the threads.

    A child watches a pipe that closes when this process ends, even by ``kill -9``, and ends with it. A child that dies
    has failed at the network that it was at; another takes its place.

    Parameters
    ----------
    run, board, cells, training, before, reporter
        See :func:`auditor.api.sweep_work.work`; `run` is loaded again by every child.
    processes : int

    Raises
    ------
    OptionError
        If an option of the training cannot be handed on.
    RunError
        If a child cannot begin.
    StoreError
        If the disk is full; all children are ended then.
    """
    left = [cell for cell in cells if not board.settled(cell, before)]
    if not left:
        return
    number = min(processes, len(left))
    order = _order(run, board, cells, training, before, threads=max(1, torch.get_num_threads() // number))
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    workers: list[Worker] = []
    try:
        with reporter.task(f"Sweep in {number} processes", len(left), "networks") as task:
            workers += [_start(order, events) for _ in range(number)]
            while workers:
                worker, event = events.get()
                if event is not None:
                    _hear(worker, event, task)
                    continue
                workers.remove(worker)
                if _died(worker, board, reporter) and not all(board.settled(cell, before) for cell in cells):
                    workers.append(_start(order, events))
    finally:
        _end(workers)


def _order(
    run: Run, board: Board, cells: Sequence[Cell], training: dict[str, Any], before: dict[str, str], *, threads: int
) -> str:
    content = {
        "run": str(run.path),
        "sweep": str(board.path),
        "cells": [asdict(cell) for cell in cells],
        "training": training,
        "before": before,
        "threads": threads,
    }
    try:
        return json.dumps(content)
    except TypeError as error:
        raise OptionError(
            f"An option of the training cannot be handed to other processes: {error}.", fix="Sweep with processes=1."
        ) from error


def _start(order: str, events: queue.SimpleQueue[Event]) -> Worker:
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}  # noqa: PTH109
    process = subprocess.Popen(
        [sys.executable, "-m", "auditor.api.sweep_worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", env=environment,
    )  # fmt: skip
    worker = Worker(process, errors)
    threading.Thread(target=_listen, args=(worker, order, events), daemon=True).start()
    return worker


def _listen(worker: Worker, order: str, events: queue.SimpleQueue[Event]) -> None:
    """Give the order and pass on what the worker tells; None when it has ended. stdin stays open: it is the leash."""
    assert worker.process.stdin is not None
    assert worker.process.stdout is not None
    try:
        worker.process.stdin.write(order + "\n")
        worker.process.stdin.flush()
        for line in worker.process.stdout:
            events.put((worker, json.loads(line)))
    except (OSError, ValueError):  # it died; how is seen by its exit code
        pass
    worker.process.wait()
    events.put((worker, None))


def _hear(worker: Worker, event: dict[str, Any], task: Task) -> None:
    if "begins" in event:
        worker.cell = Cell(**event["begins"])
        task.note(f"{worker.cell}: begun")
    elif "ends" in event:
        task.note(f"{worker.cell}: ended")
        worker.cell = None
        task.advance(1)
    elif "stops" in event:
        raise StoreError(**event["stops"])
    else:
        task.note(f"{worker.cell}: {event['says']}" if worker.cell is not None else str(event["says"]))


def _died(worker: Worker, board: Board, reporter: Reporter) -> bool:
    """Whether a worker ended before its time; what it was at has failed then."""
    code, words = worker.process.returncode, worker.last_words()
    worker.errors.close()
    if code == 0:
        return False
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    if worker.cell is None:
        raise RunError(f"A process of the sweep ended with {how} before it could train.", got=words or None)
    if board.done(worker.cell) is not None:
        return True
    board.fail(worker.cell, f"The process that trained it ended with {how}." + (f"\n{words}" if words else ""))
    reporter.say(f"The process that trained {worker.cell} ended with {how}; the network counts as failed.")
    return True


def _end(workers: Sequence[Worker]) -> None:
    """Let go of the leashes, and see to it that nobody is left."""
    for worker in workers:
        if worker.process.stdin is not None:
            with suppress(OSError):
                worker.process.stdin.close()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
