"""Reading that only goes forward, made into reading at any place."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from auditor.errors import DataError

T = TypeVar("T")

# What a parent process had open is not closed in its child, where the threads and programs behind it are not.
_INHERITED: list[object] = []
_CURSORS: WeakSet[Cursor[Any]] = WeakSet()


class Cursor(Generic[T]):
    """Reads records by their place in parts that can only be read from their beginning.

    Asked for ascending places, it opens every part once. Asked for an earlier place, it opens that part again. One part
    is open at a time, in each process its own: a copy in a worker process begins closed.

    Parameters
    ----------
    open_part : callable
        From a part's number to its records, in their order; picklable.
    """

    def __init__(self, open_part: Callable[[int], Generator[T, None, None]]) -> None:
        self._open_part = open_part
        self._process = os.getpid()
        self._records: Generator[T, None, None] | None = None
        self._part: int | None = None
        self._next = 0
        _CURSORS.add(self)

    def read(self, part: int, place: int) -> T:
        """Go to the record at `place` of `part`.

        Raises
        ------
        DataError
            If the part ends before.
        """
        if self._process != os.getpid():
            _INHERITED.append(self._records)
            self._forget()
        if self._records is None or part != self._part or place < self._next:
            self.close()
            self._records, self._part, self._next = self._open_part(part), part, 0
        try:
            for record in self._records:
                self._next += 1
                if self._next > place:
                    return record
        except BaseException:
            self.close()
            raise
        self.close()
        raise DataError(
            "The data have become shorter since they were indexed.",
            wanted=f"record {place}",
            got=f"{self._next} records",
        )

    @property
    def part(self) -> int | None:
        """The part that is open."""
        return self._part if self._process == os.getpid() else None

    def close(self) -> None:
        """Close what is open."""
        if self._records is not None and self._process == os.getpid():
            self._records.close()
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._records, self._part, self._next = None, None, 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_open_part": self._open_part}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        _CURSORS.add(self)


@atexit.register
def _close_all() -> None:
    """Close before the modules are taken down that closing needs."""
    for cursor in list(_CURSORS):
        cursor.close()
