"""How an activation file is laid out, and the checks that a file has to pass before anything in it is used.

Every dataset is contiguous and has its full length from the start, so that nothing but plain bytes at known places
changes after the file was made. A file that grows also changes HDF5's index of chunks, in several writes; of 150
processes killed while they wrote such a file in small batches, two left committed rows that read wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auditor.errors import OptionError, StoreError

FORMAT = "auditor-store"
VERSION = 1
_AGAIN = "Delete it and profile again."
_OWN_ATTRS = frozenset({"format", "version", "site_order", "map_order", "compression"})


@dataclass(frozen=True)
class Layout:
    """What an activation file holds.

    Parameters
    ----------
    sites : mapping of str to int
        Number of units by site, in network order.
    n_rows : int
        Rows that there is room for.
    n_outputs : int
        Width of the logits.
    dtype : str
        ``"float32"`` or ``"float16"``: how responses are stored. Logits are always float32.
    id_bytes : int
        Room for one id, in bytes of UTF-8.
    attrs : mapping of str to str
        The identity of what was measured.
    maps : mapping of str to tuple of int
        Shape of one image's whole output, for sites that keep it.
    """

    sites: Mapping[str, int]
    n_rows: int
    n_outputs: int
    dtype: str
    id_bytes: int
    attrs: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse impossible values.

        Raises
        ------
        OptionError
            Naming the first.
        """
        if self.dtype not in ("float32", "float16"):
            raise OptionError("Responses cannot be stored so.", wanted="float32 or float16", got=self.dtype)
        numbers = {"n_rows": self.n_rows, "n_outputs": self.n_outputs, "id_bytes": self.id_bytes, **self.sites}
        for name, value in numbers.items():
            if value < 1:
                raise OptionError(f"{name} must be at least 1.", got=str(value))
        if taken := sorted(_OWN_ATTRS & self.attrs.keys()):
            raise OptionError(f"The attribute {taken[0]!r} belongs to the file format.", fix="Choose another name.")

    def columns(self) -> Iterator[tuple[str, tuple[int, ...], Any]]:
        """Path, shape of one row and type of each dataset that has a row for every image."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        for site, units in self.sites.items():
            yield response_path(site), (units,), dtype
        for site, shape in self.maps.items():
            yield map_path(site), tuple(shape), dtype
        yield "logits", (self.n_outputs,), np.dtype("<f4")
        yield "labels", (), np.dtype("<i8")
        yield "splits", (), np.dtype("i1")
        yield "ids", (), h5py.string_dtype("utf-8", self.id_bytes)

    def row_bytes(self) -> int:
        """Bytes of one image in all datasets."""
        return sum(int(np.prod(row)) * dtype.itemsize for _, row, dtype in self.columns())

    def create(self, file: h5py.File) -> None:
        """Make every dataset, with no row committed."""
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        plist.set_obj_track_times(False)  # the same rows make the same bytes
        for counter in ("committed", "complete"):
            file.create_dataset(counter, data=np.array(0, dtype="<i8"))
        file.create_group("responses")
        if self.maps:
            file.create_group("maps")
        for name, row, dtype in self.columns():
            space = h5py.h5s.create_simple((self.n_rows, *row))
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, dcpl=plist)
        file.attrs["format"] = FORMAT
        file.attrs["version"] = np.int64(VERSION)
        file.attrs["site_order"] = json.dumps(list(self.sites))
        file.attrs["map_order"] = json.dumps(list(self.maps))
        for key, value in self.attrs.items():
            file.attrs[key] = value

    def check_same(self, wanted: Layout, path: Path) -> None:
        """Refuse a file that was made for something else.

        Raises
        ------
        StoreError
            Naming the first thing that differs.
        """
        pairs: list[tuple[str, object, object]] = [
            ("the list of sites", list(wanted.sites), list(self.sites)),
            *((f"the number of units of {site}", units, self.sites.get(site)) for site, units in wanted.sites.items()),
            ("the list of whole maps", dict(wanted.maps), dict(self.maps)),
            ("the number of rows", wanted.n_rows, self.n_rows),
            ("the number of outputs", wanted.n_outputs, self.n_outputs),
            ("the stored type", wanted.dtype, self.dtype),
            *((key, wanted.attrs.get(key), self.attrs.get(key)) for key in sorted({*wanted.attrs, *self.attrs})),
        ]
        for what, want, got in pairs:
            if want != got:
                raise StoreError(
                    f"{path} was written for something else: {what} differs.",
                    wanted=_short(want),
                    got=_short(got),
                    fix="Write to another file, or delete this one.",
                )


@dataclass(frozen=True)
class Contents:
    """What :func:`inspect` found.

    Parameters
    ----------
    layout : Layout
        Sites, sizes, types and identity.
    committed : int
        Rows that were written and committed.
    complete : bool
        Whether the writer finished.
    offsets : dict of str to int
        Where each dataset's bytes begin; empty for a compressed file, which is finished.
    compression : str
        Empty for none.
    """

    layout: Layout
    committed: int
    complete: bool
    offsets: dict[str, int]
    compression: str = ""


def response_path(site: str) -> str:
    """Path of a site's dataset; what HDF5 would read as a path of its own is escaped."""
    return "responses/" + _escaped(site)


def map_path(site: str) -> str:
    """Path of the dataset of a site's whole outputs."""
    return "maps/" + _escaped(site)


def _escaped(site: str) -> str:
    name = site.replace("%", "%25").replace("/", "%2F")
    return {"": "%", ".": "%2E"}.get(name, name)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading for the length of the block; errors as in :func:`open_file`."""
    file = open_file(path)
    try:
        yield file
    finally:
        file.close()


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    StoreError
        If there is no such file, it is not HDF5, it is cut short, or another program writes to it.
    """
    if not path.is_file():
        raise StoreError(f"There is no activation file {path}.", fix="Run `auditor profile` to make one.")
    if path.stat().st_size == 0:
        raise StoreError(f"{path} is empty (0 bytes).", wanted="an activation file", fix=_AGAIN)
    try:
        return h5py.File(path, "r", locking="best-effort")
    except BlockingIOError as error:
        raise StoreError(f"{path} is open for writing in another program.", fix="Close it there first.") from error
    except PermissionError as error:
        raise StoreError(f"{path} may not be read: {error.strerror or error}.") from error
    except OSError as error:
        if "truncated" in str(error):
            raise StoreError(f"{path} has been cut short.", got=str(error), fix=_AGAIN) from error
        raise StoreError(
            f"{path} is not a readable HDF5 file.", wanted="an activation file", got=str(error), fix=_AGAIN
        ) from error


def inspect(file: h5py.File, path: Path) -> Contents:
    """Read what the file says of itself, and check it against what the file really holds.

    Raises
    ------
    StoreError
        If the file is foreign, of another version or damaged.
    """
    if file.attrs.get("format") != FORMAT:
        raise StoreError(f"{path} is an HDF5 file, but not an activation file of auditor.", got=_short(sorted(file)))
    if (version := file.attrs.get("version")) != VERSION:
        raise StoreError(
            f"{path} has another format version.", wanted=str(VERSION), got=str(version), fix="Profile again."
        )
    try:
        layout = _read_layout(file)
        committed, complete = int(file["committed"][()]), int(file["complete"][()])
        if not (0 <= committed <= layout.n_rows and complete in (0, 1)):
            raise ValueError(f"{committed} rows are committed where there is room for {layout.n_rows}")
        compression = str(file.attrs.get("compression", ""))
        if compression and not complete:
            raise ValueError("it is compressed, but not complete")
        size = path.stat().st_size
        offsets = {name: _offset(file[name], name, (), np.dtype("<i8"), size) for name in ("committed", "complete")}
        for name, row, dtype in layout.columns():
            shape = (layout.n_rows, *row)
            if compression:
                _check_kind(file[name], name, shape, dtype)
            else:
                offsets[name] = _offset(file[name], name, shape, dtype, size)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError, OSError) as error:
        raise StoreError(f"{path} is damaged.", got=_short(error), fix=_AGAIN) from error
    return Contents(layout, committed, bool(complete), offsets, compression)


def _read_layout(file: h5py.File) -> Layout:
    sites: list[str] = json.loads(file.attrs["site_order"])
    responses = {site: file[response_path(site)] for site in sites}
    maps = {site: file[map_path(site)] for site in json.loads(file.attrs.get("map_order", "[]"))}
    dtypes = {dataset.dtype.name for dataset in (*responses.values(), *maps.values())} or {"float32"}
    n_rows, n_outputs = file["logits"].shape
    return Layout(
        sites={site: int(dataset.shape[1]) for site, dataset in responses.items()},
        n_rows=int(n_rows),
        n_outputs=int(n_outputs),
        dtype=min(dtypes),
        id_bytes=int(file["ids"].dtype.itemsize),
        attrs={key: str(value) for key, value in file.attrs.items() if key not in _OWN_ATTRS},
        maps={site: tuple(int(n) for n in dataset.shape[1:]) for site, dataset in maps.items()},
    )


def _offset(dataset: h5py.Dataset, name: str, shape: tuple[int, ...], dtype: Any, file_size: int) -> int:
    _check_kind(dataset, name, shape, dtype)
    offset: int | None = dataset.id.get_offset()
    if offset is None or offset + int(dataset.nbytes) > file_size:
        raise ValueError(f"{name} is not all there")
    return offset


def _check_kind(dataset: h5py.Dataset, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    if dataset.shape != shape or dataset.dtype != dtype:
        raise ValueError(f"{name} is {dataset.dtype} {dataset.shape} instead of {dtype} {shape}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
