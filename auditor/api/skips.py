"""Images that cannot be read: passed over, written down at once, and too many of them an error."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from auditor.data import SPLITS, LabelledData, Skipped
from auditor.data.base import printable
from auditor.errors import DataError, RunError
from auditor.progress import Reporter
from auditor.store.files import write_text

SKIPPED = "skipped.csv"
FEW, SHARE = 10, 0.01
_SHOWN = 5
_FIELDS = ("id", "split", "reason")


class Skips:
    """The images that one piece of work passes over.

    Parameters
    ----------
    data : LabelledData
    n_images : int
        How many images the work reads.
    path : Path, optional
        A file that holds them. It is on disk before any later image is used, so that work which is taken up again
        passes over the same images, whether or not they can be read by then.
    max_bad : int, optional
        More than so many are an error; default: 1 % of the images or 10, whichever is more.

    Attributes
    ----------
    rows : frozenset of int
        Positions in `data` of the images that earlier work passed over.
    """

    def __init__(
        self, data: LabelledData, n_images: int, *, path: Path | None = None, max_bad: int | None = None
    ) -> None:
        self._data = data
        self._n = n_images
        self._path = path
        self.limit = max(FEW, int(SHARE * n_images)) if max_bad is None else max_bad
        # What the data leave out already is written down with the rest, but is not this work's to count.
        earlier = [] if path is None else read_skipped(path)
        self._known = {one.id: one for one in [*data.skipped, *earlier]}
        self._inherited = {one.id for one in data.skipped}
        row_of = {name: row for row, name in enumerate(data.ids)} if self._known else {}
        self.rows = frozenset(row_of[name] for name in self._known if name in row_of)
        self._split_of: dict[int, str] | None = None
        if self._inherited and len(self._known) > len(earlier):
            self._write()
        self._check()

    def __len__(self) -> int:
        return len(self._known) - len(self._inherited)

    @property
    def all(self) -> tuple[Skipped, ...]:
        """Every image that is left out, those that the data left out before among them."""
        return tuple(self._known.values())

    def add(self, bad: Iterable[tuple[int, DataError]]) -> None:
        """Write down images by their position in the data.

        Raises
        ------
        DataError
            If there are too many by now.
        """
        if self._split_of is None:
            self._split_of = {int(row): split for split in SPLITS for row in self._data.splits[split]}
        for row, error in bad:
            name = self._data.ids[row]
            self._known[name] = Skipped(name, self._split_of.get(row, ""), printable(error.message))
        self._write()
        self._check()

    def announce(self, reporter: Reporter) -> None:
        """Say which images were skipped, if any were."""
        if len(self):
            where = "" if self._path is None else f" All are listed in {self._path}."
            reporter.say(
                f"{_images(len(self))} of {self._n} could not be read and are left out: {_some(self._mine())}.{where}"
            )

    def _mine(self) -> list[Skipped]:
        return [one for one in self._known.values() if one.id not in self._inherited]

    def _check(self) -> None:
        if len(self) > self.limit:
            mine = self._mine()
            repair = "Repair or remove the files"
            if self._path is not None:
                repair += f" (and delete {self._path.parent}, where the repaired ones would stay left out)"
            raise DataError(
                f"{_images(len(self))} of {self._n} could not be read: {_some(mine)}.",
                wanted=f"at most {self.limit}",
                got=mine[-1].reason,
                fix=f"{repair}, or accept more with --max-bad N.",
            )

    def _write(self) -> None:
        if self._path is not None:
            write_skipped(self._path, self._known.values())


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """Write images that were passed over, in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows((one.id, one.split, one.reason) for one in skipped)
    write_text(path, text.getvalue())


def read_skipped(path: Path) -> list[Skipped]:
    """Read what a piece of work passed over; without the file, nothing.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
        if rows[0] != list(_FIELDS):
            raise ValueError("its header is not " + ",".join(_FIELDS))
        return [Skipped(*row) for row in rows[1:]]
    except (OSError, ValueError, TypeError, IndexError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}", fix="Profile again under another --name.") from error


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def _some(skipped: Sequence[Skipped]) -> str:
    names = ", ".join(one.id for one in skipped[:_SHOWN])
    return names + (f" and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else "")
