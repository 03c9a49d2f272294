"""Read an activation file."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import OptionError, unknown_name
from auditor.store.compress import load_filters
from auditor.store.layout import inspect, map_path, open_file, response_path

_BLOCK_BYTES = 32 * 2**20


class StoreReader:
    """The committed rows of an activation file.

    Parameters
    ----------
    path : path
        A finished file, or one that is still being written or was left unfinished: the rows that are committed when
        it is opened are read.

    Attributes
    ----------
    n_rows : int
        Committed rows; what lies beyond is never returned.
    complete : bool
        Whether the writer finished.
    sites : dict of str to int
        Number of units by site, in network order.
    n_outputs : int
        Width of the logits.
    attrs : dict of str to str
        The identity that the writer was given.
    map_shapes : dict of str to tuple of int
        Shape of one image's whole output, for sites that keep it.
    compression : str
        Empty for none.

    Raises
    ------
    StoreError
        If the file is missing, foreign or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._file = open_file(self.path)
        try:
            found = inspect(self._file, self.path)
            if found.compression:
                load_filters(self.path)
        except BaseException:
            self._file.close()
            raise
        self.n_rows = found.committed
        self.complete = found.complete
        self.sites = dict(found.layout.sites)
        self.n_outputs = found.layout.n_outputs
        self.attrs = dict(found.layout.attrs)
        self.map_shapes = dict(found.layout.maps)
        self.compression = found.compression

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class numbers, (N,)."""
        return self._all("labels").astype(np.int64)

    @property
    def splits(self) -> NDArray[np.int8]:
        """Position of each image's split in :data:`auditor.data.base.SPLITS`, (N,)."""
        return self._all("splits").astype(np.int8)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(self._file["ids"].asstr()[: self.n_rows])

    @property
    def logits(self) -> NDArray[np.float32]:
        """The model's outputs, (N, K)."""
        return self._all("logits").astype(np.float32)

    def responses(self, site: str, rows: NDArray[np.integer[Any]] | slice | None = None) -> NDArray[np.float32]:
        """Responses of a site's units.

        Parameters
        ----------
        site : str
            A key of :attr:`sites`.
        rows : (n,) int, slice or None
            Rows to read, in any order, repeated ones too; all by default.

        Returns
        -------
        (n, U) float32

        Raises
        ------
        UnknownNameError
            If the file holds no such site.
        OptionError
            If a row is not there.
        """
        if site not in self.sites:
            raise unknown_name("site", site, self.sites)
        return self._read(self._file[response_path(site)], rows)

    def maps(self, site: str, rows: NDArray[np.integer[Any]] | slice | None = None) -> NDArray[np.float32]:
        """Whole outputs of a site.

        Parameters
        ----------
        site : str
            A key of :attr:`map_shapes`.
        rows : (n,) int, slice or None
            As in :meth:`responses`.

        Returns
        -------
        (n, ...) float32
            Axes as in the model's own output.

        Raises
        ------
        UnknownNameError
            If the file holds no whole outputs of the site.
        OptionError
            If a row is not there.
        """
        if site not in self.map_shapes:
            raise unknown_name(
                "site with whole outputs", site, self.map_shapes, fix="Profile with --store full to keep them."
            )
        return self._read(self._file[map_path(site)], rows)

    def _read(self, dataset: Any, rows: NDArray[np.integer[Any]] | slice | None) -> NDArray[np.float32]:
        if rows is None:
            return np.asarray(dataset[: self.n_rows], dtype=np.float32)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.n_rows)
            if step == 1:
                return np.asarray(dataset[start : max(start, stop)], dtype=np.float32)
            rows = np.arange(start, stop, step)
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise OptionError("Rows must be a list of whole numbers.", got=f"{wanted.dtype} {wanted.shape}")
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.n_rows):
            raise OptionError(
                "A row is not in the store.",
                wanted=f"0 to {self.n_rows - 1}",
                got=f"{wanted.min()} to {wanted.max()}",
            )
        return self._gather(dataset, wanted.astype(np.int64))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _all(self, name: str) -> NDArray[Any]:
        return np.asarray(self._file[name][: self.n_rows])

    def _gather(self, dataset: Any, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        # h5py's own fancy indexing takes milliseconds per thousand rows; whole blocks are read at disk speed instead.
        row = dataset.shape[1:]
        out = np.empty((wanted.size, *row), dtype=np.float32)
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        step = max(1, _BLOCK_BYTES // (4 * int(np.prod(row))))
        for start in range(0, self.n_rows, step):
            low, high = np.searchsorted(ordered, [start, start + step])
            if low < high:
                first, last = int(ordered[low]), int(ordered[high - 1])
                out[order[low:high]] = dataset[first : last + 1][ordered[low:high] - first]
        return out
