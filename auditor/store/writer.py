"""Write responses while the model runs, so that a killed run loses at most what was not committed."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import h5py
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray

from auditor.errors import OptionError, StoreError
from auditor.store.disk import cannot_write, system_error
from auditor.store.files import sync_folder
from auditor.store.layout import Contents, Layout, inspect, map_path, opened, response_path
from auditor.store.space import ID_BYTES, check_space, estimate_bytes, reserve

_Batch = dict[str, NDArray[Any]]


class StoreWriter:
    """One activation file, written by one thread behind a bounded queue.

    HDF5 makes the file, at its full length; afterwards rows are written as plain bytes where HDF5 said that they
    belong. A batch is written and synchronised to disk before the counter of committed rows is raised, so the death of
    the process at any moment costs only the batches that were not yet committed. Opened again, the file goes on there.

    Parameters
    ----------
    path : path
        Made if it does not exist; an unfinished file of the same layout and `attrs` is continued.
    sites : mapping of str to int
        Number of units by site, in network order; may be empty.
    n_rows : int
        Images that will be written at most. Disk space for all of them is taken at once.
    n_outputs : int
        Width of the logits.
    dtype : {"float32", "float16"}
        How responses are stored.
    queue_size : int
        Batches that may wait; :meth:`append` blocks beyond that.
    attrs : mapping of str to str
        The identity of what is measured; a file whose identity differs is refused.
    id_bytes : int
        Room for one id, in bytes of UTF-8. A continued file keeps its own.
    maps : mapping of str to tuple of int
        Shape of one image's whole output, for sites that keep it beside the pooled responses.
    lock_timeout : float
        Seconds to wait for another writer of this file. The workers of a killed run keep its lock until they notice,
        which takes PyTorch's about five seconds.

    Attributes
    ----------
    committed : int
        Rows that are safe on disk.
    complete : bool
        Whether the file was finished; nothing can be appended then.

    Raises
    ------
    StoreError
        If the file is foreign, damaged, of another layout or identity, held by another writer, or too large.
    OptionError
        If an argument has an impossible value.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sites: Mapping[str, int],
        n_rows: int,
        n_outputs: int,
        dtype: str = "float32",
        queue_size: int = 4,
        attrs: Mapping[str, str] | None = None,
        id_bytes: int = ID_BYTES,
        maps: Mapping[str, tuple[int, ...]] | None = None,
        lock_timeout: float = 8.0,
    ) -> None:
        wanted = Layout(dict(sites), n_rows, n_outputs, dtype, id_bytes, dict(attrs or {}), dict(maps or {}))
        wanted.check()
        if queue_size < 1:
            raise OptionError("queue_size must be at least 1.", got=str(queue_size))
        self.path = Path(path).absolute()
        self._lock = _acquire(self.path, lock_timeout)
        try:
            found = _open_or_create(self.path, wanted)
            self._file: IO[bytes] = self.path.open("r+b", buffering=0)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, PermissionError):
                raise StoreError(f"{self.path} may not be written: {error.strerror or error}.") from error
            raise
        self.layout, self._offsets = found.layout, found.offsets
        self.committed, self.complete = found.committed, found.complete
        self._row_bytes = {name: int(np.prod(row)) * int(dtype.itemsize) for name, row, dtype in self.layout.columns()}
        self._queued = self.committed
        self._closed = False
        self._error: BaseException | None = None
        self._queue: queue.Queue[_Batch | None] = queue.Queue(maxsize=queue_size)
        self._thread = threading.Thread(target=self._work, name="auditor-store", daemon=True)
        self._thread.start()

    def append(
        self,
        *,
        ids: Sequence[str],
        labels: ArrayLike,
        splits: ArrayLike,
        logits: ArrayLike,
        responses: Mapping[str, ArrayLike],
        maps: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Queue one batch; returns before it is written. The arrays are copied.

        Parameters
        ----------
        ids : sequence of str, length B
            Names of the images.
        labels : (B,) int
            Class numbers.
        splits : (B,) int
            Position of the image's split in :data:`auditor.data.base.SPLITS`.
        logits : (B, K) float
            The model's output.
        responses : mapping of str to (B, U) float
            One array per site.
        maps : mapping of str to (B, ...) float
            One array per site that keeps its whole output.

        Raises
        ------
        StoreError
            If an earlier batch could not be written, or the file is complete or closed.
        OptionError
            If an array has the wrong shape, a site is missing or unknown, there are more rows than announced, or a
            value does not fit the stored type.
        """
        self._raise_failure()
        if self._closed or self.complete:
            raise StoreError(f"{self.path} is {'closed' if self._closed else 'complete'}: nothing can be appended.")
        if self._queued + len(ids) > self.layout.n_rows:
            raise OptionError(
                "There are more rows than the store was made for.",
                wanted=str(self.layout.n_rows),
                got=str(self._queued + len(ids)),
            )
        batch = self._batch(ids, labels, splits, logits, responses, maps or {})
        self._queued += len(ids)
        self._queue.put(batch)

    def finish(self) -> None:
        """Write what is queued, mark the file complete and close it."""
        self._close(complete=True)

    def close(self) -> None:
        """Write what is queued and close the file, which stays unfinished unless it was complete."""
        self._close(complete=False)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(StoreError):  # the first error is the one to show
                self.close()

    def _batch(
        self,
        ids: Sequence[str],
        labels: ArrayLike,
        splits: ArrayLike,
        logits: ArrayLike,
        responses: Mapping[str, ArrayLike],
        maps: Mapping[str, ArrayLike],
    ) -> _Batch:
        for wanted, got in ((self.layout.sites, responses), (self.layout.maps, maps)):
            if got.keys() != wanted.keys():
                raise OptionError(
                    "The batch does not hold the store's sites.", wanted=", ".join(wanted), got=", ".join(got)
                )
        names = [name.encode() for name in ids]
        given: dict[str, Any] = {response_path(site): values for site, values in responses.items()}
        given |= {map_path(site): values for site, values in maps.items()}
        given |= {"logits": logits, "labels": labels, "splits": splits, "ids": np.array(names, dtype=bytes)}
        longest = max(names, key=len, default=b"")
        if len(longest) > self.layout.id_bytes:
            raise OptionError(
                f"The id {longest.decode()!r} is too long for the store.",
                wanted=f"at most {self.layout.id_bytes} bytes",
                got=f"{len(longest)} bytes",
                fix="Make the store with a larger id_bytes.",
            )
        columns = self.layout.columns()
        return {name: _column(name, given[name], (len(names), *row), dtype) for name, row, dtype in columns}

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is None:  # after a failure the queue is emptied, so that nobody waits for ever
                try:
                    self._write(batch)
                except BaseException as error:  # raised again in the caller's thread
                    self._error = error

    def _write(self, batch: _Batch) -> None:
        for name, column in batch.items():
            self._write_at(self._offsets[name] + self.committed * self._row_bytes[name], column.tobytes())
        os.fsync(self._file.fileno())
        stop = self.committed + len(batch["labels"])
        self._write_at(self._offsets["committed"], np.array(stop, dtype="<i8").tobytes())
        self.committed = stop

    def _write_at(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _close(self, *, complete: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        try:
            if complete and not self.complete and self._error is None:
                os.fsync(self._file.fileno())
                self._write_at(self._offsets["complete"], np.array(1, dtype="<i8").tobytes())
                os.fsync(self._file.fileno())
                self.complete = True
        except OSError as error:
            self._error = error
        finally:
            self._file.close()
            self._lock.release()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._error is not None:
            reason = getattr(self._error, "strerror", None) or self._error
            raise StoreError(
                f"{self.path} could not be written: {reason}.",
                got=f"{self.committed} rows are safe",
                fix="Check the disk (free space, quota), then resume.",
            ) from self._error


def seal(path: Path) -> None:
    """Mark an unfinished file as complete with the rows that it has.

    Raises
    ------
    StoreError
        If it is foreign, damaged, or held by a writer.
    """
    lock = _acquire(path, 0)
    try:
        with opened(path) as file:
            found = inspect(file, path)
        if found.complete:
            return
        with path.open("r+b", buffering=0) as raw:
            raw.seek(found.offsets["complete"])
            raw.write(np.array(1, dtype="<i8").tobytes())
            os.fsync(raw.fileno())
    finally:
        lock.release()


def _column(name: str, given: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    values = np.asarray(given)
    if values.shape != shape:
        raise OptionError(f"{name} has the wrong shape.", wanted=str(shape), got=str(tuple(values.shape)))
    with np.errstate(over="ignore"):
        column = np.array(values, dtype=dtype, order="C")
    if dtype.itemsize == 2 and (np.isinf(column) & ~np.isinf(values)).any():
        raise OptionError(
            f"A response of {name} does not fit float16.",
            wanted="at most 65504",
            got=str(np.abs(values).max()),
            fix="Store float32.",
        )
    return column


def _acquire(path: Path, timeout: float) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise StoreError(f"{path} is being written by another run.", fix="Wait until it ends, or stop it.") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    return lock


def _open_or_create(path: Path, wanted: Layout) -> Contents:
    if not path.exists():
        _create(path, wanted)
    with opened(path) as file:
        found = inspect(file, path)
    found.layout.check_same(wanted, path)
    return found


def _create(path: Path, layout: Layout) -> None:
    size = estimate_bytes(
        n_rows=layout.n_rows,
        sites=layout.sites,
        n_outputs=layout.n_outputs,
        dtype=layout.dtype,
        id_bytes=layout.id_bytes,
        maps=layout.maps,
    )
    check_space(path, size)
    # Under another name until it is whole, so that a kill leaves no half-made file.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with h5py.File(temporary, "w", locking="best-effort") as file:
            layout.create(file)
        reserve(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError, ValueError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, StoreError):
            raise
        if (said := system_error(error)) is not None:
            raise cannot_write(path, said, size=size) from error
        raise StoreError(f"{path} could not be made: {error}.") from error
