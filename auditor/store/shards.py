"""Several activation files of one run, read as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import OptionError, StoreError
from auditor.store.reader import StoreReader

Rows = NDArray[np.integer[Any]] | slice | None


class ShardedReader:
    """The rows of several activation files, one after the other, as :class:`StoreReader` gives those of one.

    Parameters
    ----------
    paths : sequence of path
        In the order of their rows; at least one.

    Raises
    ------
    StoreError
        If one is missing, foreign or damaged, or they do not hold the same sites.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._parts: list[StoreReader] = []
        try:
            for path in paths:
                self._parts.append(StoreReader(path))
            first = self._parts[0]
            for part in self._parts:
                mine, theirs = ((p.sites, p.map_shapes, p.n_outputs, p.attrs.get("digest")) for p in (part, first))
                if mine != theirs:
                    raise StoreError(f"{part.path} and {first.path} are not parts of one run.", fix="Profile again.")
        except BaseException:
            self.close()
            raise
        self._starts = np.cumsum([0, *(part.n_rows for part in self._parts)])
        self.n_rows = int(self._starts[-1])
        self.complete = all(part.complete for part in self._parts)
        self.sites, self.map_shapes = first.sites, first.map_shapes
        self.n_outputs, self.attrs = first.n_outputs, first.attrs
        self.path = first.path.parent

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class numbers, (N,)."""
        return np.concatenate([part.labels for part in self._parts])

    @property
    def splits(self) -> NDArray[np.int8]:
        """Position of each image's split in :data:`auditor.data.base.SPLITS`, (N,)."""
        return np.concatenate([part.splits for part in self._parts])

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(name for part in self._parts for name in part.ids)

    @property
    def logits(self) -> NDArray[np.float32]:
        """The model's outputs, (N, K)."""
        return np.concatenate([part.logits for part in self._parts])

    def responses(self, site: str, rows: Rows = None) -> NDArray[np.float32]:
        """Responses of a site's units; see :meth:`StoreReader.responses`."""
        return self._gather("responses", site, rows)

    def maps(self, site: str, rows: Rows = None) -> NDArray[np.float32]:
        """Whole outputs of a site; see :meth:`StoreReader.maps`."""
        return self._gather("maps", site, rows)

    def _gather(self, what: str, site: str, rows: Rows) -> NDArray[np.float32]:
        if rows is None:
            return np.concatenate([getattr(part, what)(site) for part in self._parts])
        wanted = np.arange(self.n_rows)[rows] if isinstance(rows, slice) else np.asarray(rows)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.n_rows):
            raise OptionError(
                "A row is not in the store.",
                wanted=f"0 to {self.n_rows - 1}",
                got=f"{wanted.min()} to {wanted.max()}",
            )
        part_of = np.searchsorted(self._starts, wanted, side="right") - 1
        out: NDArray[np.float32] | None = None
        for number, part in enumerate(self._parts):
            mine = np.flatnonzero(part_of == number)
            found = getattr(part, what)(site, wanted[mine] - self._starts[number])
            if out is None:
                out = np.empty((wanted.size, *found.shape[1:]), dtype=np.float32)
            out[mine] = found
        assert out is not None  # there is at least one part
        return out

    def close(self) -> None:
        """Close every file."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> ShardedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
