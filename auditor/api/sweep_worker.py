"""What runs in a child process of a sweep (``python -m auditor.api.sweep_worker``): it gets one order on stdin."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from auditor.errors import StoreError
from auditor.progress import NullReporter, NullTask, Task
from auditor.store.disk import cannot_write, is_full

INTERRUPTED = 130


class LineReporter(NullReporter):
    """Tells another process what is said and noted, one JSON document a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def tell(self, event: dict[str, Any]) -> None:
        """Write one line."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def say(self, text: str) -> None:
        """Pass on one line."""
        self.tell({"says": text})


class NotesOnly(NullReporter):
    """Passes on what a training reached, epoch by epoch, and nothing else: many trainings speak at the same time."""

    def __init__(self, reporter: LineReporter) -> None:
        self._reporter = reporter

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Task]:
        """Pass on the notes of a bar; the bar is the other process's own."""
        yield _Notes(self._reporter)


class _Notes(NullTask):
    def __init__(self, reporter: LineReporter) -> None:
        self._reporter = reporter

    def note(self, text: str) -> None:
        """Pass on one line."""
        self._reporter.say(text)


def main() -> int:
    """Work as ordered until nothing is free; returns the exit code."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What anybody prints must not come between the lines for the parent.
    reporter = LineReporter(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)

    import torch

    from auditor.api.run import Run
    from auditor.api.sweep_board import Board
    from auditor.api.sweep_grid import Cell
    from auditor.api.sweep_work import work

    torch.set_num_threads(order["threads"])
    try:
        work(
            Run.open(order["run"]),
            Board(Path(order["sweep"])),
            [Cell(**cell) for cell in order["cells"]],
            # JSON has no tuples.
            {name: tuple(value) if isinstance(value, list) else value for name, value in order["training"].items()},
            before=order["before"],
            reporter=reporter,
            training_reporter=NotesOnly(reporter),
            begins=lambda cell: reporter.tell({"begins": asdict(cell)}),
            ends=lambda cell: reporter.tell({"ends": asdict(cell)}),
        )
    except OSError as error:
        if not is_full(error):
            raise
        said = error if isinstance(error, StoreError) else cannot_write(error.filename or order["sweep"], error)
        reporter.tell({"stops": {part: getattr(said, part) for part in ("message", "wanted", "got", "fix")}})
    return 0


def _end_with_parent() -> None:
    """End at once when the parent closes the pipe or is gone; what is finished is safe, as after any kill."""
    while os.read(0, 4096):  # not sys.stdin, whose lock the end of the interpreter would wait for
        pass
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # Ctrl-C reaches the whole group; the parent says what there is to say
        sys.exit(INTERRUPTED)
