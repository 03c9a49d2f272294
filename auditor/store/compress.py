"""Make a finished activation file smaller."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auditor.errors import OptionError, StoreError
from auditor.store import COMPRESSIONS
from auditor.store.disk import cannot_write, system_error
from auditor.store.files import sync_folder
from auditor.store.layout import inspect, opened
from auditor.store.space import check_space

_CHUNK_BYTES = 2**20
_BLOCK_BYTES = 32 * 2**20


def load_filters(path: str | os.PathLike[str]) -> Any:
    """Import ``hdf5plugin``, which teaches HDF5 to read and write LZ4.

    Raises
    ------
    StoreError
        If it is not installed.
    """
    try:
        return import_module("hdf5plugin")
    except ImportError as error:
        raise StoreError(
            f"{path} is compressed with LZ4, which needs the package hdf5plugin.",
            fix="python -m pip install hdf5plugin (or auditor[lz4])",
        ) from error


class _Unfailing(io.FileIO):
    """A file that keeps a refusal of the system to itself: HDF5 would crash the process when it closes such a file."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write everything, unless an earlier write has failed."""
        view = memoryview(data).cast("B")
        left = view
        try:
            while left and self.failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
        return len(view)

    def check(self) -> None:
        """Raise what was kept."""
        if self.failure is not None:
            raise self.failure


def compress(path: str | os.PathLike[str], how: str = "lz4") -> None:
    """Rewrite a finished activation file with its bytes shuffled and LZ4-compressed; a compressed one is left.

    A file that grows cannot be compressed and survive the death of its writer, see :mod:`auditor.store.layout`; so this
    is a step of its own. The old file is replaced by the new one in one step, once that is whole.

    Raises
    ------
    OptionError
        If `how` is unknown.
    StoreError
        If the file is not a finished activation file, there is no room for the second one, or ``hdf5plugin`` is not
        installed.
    """
    if how not in COMPRESSIONS:
        raise OptionError("Unknown compression.", wanted=", ".join(COMPRESSIONS), got=repr(how))
    target = Path(path).absolute()
    with opened(target) as file:
        found = inspect(file, target)
        if found.compression:
            return
        if not found.complete:
            raise StoreError(f"{target} is unfinished and cannot be compressed.", fix="Finish the profile first.")
        filters = load_filters(target).Bitshuffle(cname=how)
        check_space(target, target.stat().st_size)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            with _Unfailing(temporary, "w+b") as raw:
                with h5py.File(raw, "w") as new:
                    for key, value in file.attrs.items():
                        new.attrs[key] = value
                    new.attrs["compression"] = how
                    for name in ("committed", "complete"):
                        new.create_dataset(name, data=file[name][()])
                    for name, row, _ in found.layout.columns():
                        _copy(file[name], new, name, row, filters)
                        raw.check()
                raw.check()
                os.fsync(raw.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        except (OSError, RuntimeError, ValueError) as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if (said := system_error(error)) is not None:
                raise cannot_write(target, said) from error
            raise StoreError(f"{target} could not be compressed and is left as it is: {error}.") from error


def _copy(old: h5py.Dataset, file: h5py.File, name: str, row: tuple[int, ...], filters: Mapping[str, Any]) -> None:
    n_rows, row_bytes = int(old.shape[0]), int(np.prod(row)) * int(old.dtype.itemsize)
    # Bitshuffle knows no text: the ids, which are few, stay as they are.
    numeric = old.dtype.kind != "S" and h5py.check_string_dtype(old.dtype) is None
    chunks = (min(n_rows, max(1, _CHUNK_BYTES // row_bytes)), *row) if numeric else None
    new = file.create_dataset(
        name, shape=old.shape, dtype=old.dtype, chunks=chunks, track_times=False, **(filters if numeric else {})
    )
    step = max(1, _BLOCK_BYTES // row_bytes)
    if chunks is not None:
        step = max(step // chunks[0], 1) * chunks[0]
    for start in range(0, n_rows, step):
        new[start : start + step] = old[start : start + step]
