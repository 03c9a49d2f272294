"""Small files that are either the old one or the new one, never half of either."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from auditor.errors import AuditorError, StoreError
from auditor.store.disk import cannot_write

if TYPE_CHECKING:
    from pandas import DataFrame


class _Raw(io.FileIO):
    """A file that remembers what the system said: libraries that write to it may say something else (torch does)."""

    failure: OSError | None = None
    reached = 0

    def write(self, data: Any, /) -> int:
        """Write as much as the system takes."""
        try:
            return super().write(data)
        except OSError as error:
            if self.failure is None:
                self.failure, self.reached = error, self.tell() + memoryview(data).nbytes
            raise


@contextmanager
def replacing(path: str | os.PathLike[str], *, size: int | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well.

    The temporary file lies in the same folder, is synchronised to disk before it is renamed, and is removed when the
    block fails. Missing parent folders are made.

    Parameters
    ----------
    path : path
    size : int, optional
        About how many bytes will be written, to be told if there is no room for them.

    Raises
    ------
    StoreError
        If the file cannot be written (no permission, no space), whatever a library in the block made of it.
    """
    target = Path(path)
    # Not tempfile: its files are private to the owner, whatever the umask says.
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    raw: _Raw | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        raw = _Raw(temporary, "xb")
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except Exception as error:
        failure, reached = (None, 0) if raw is None else (raw.failure, raw.reached)
        if failure is None and isinstance(error, OSError) and not isinstance(error, AuditorError):
            failure = error
        if failure is None:
            raise
        _remove(temporary)  # what it has taken is free again when the error tells how much is
        raise cannot_write(target, failure, size=max(size or 0, reached)) from failure
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, unless it is there.

    Raises
    ------
    StoreError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can do so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8."""
    content = text.encode()
    with replacing(path, size=len(content)) as file:
        file.write(content)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON.

    NumPy scalars and arrays, paths and tuples become plain JSON; NaN and infinities become ``null``, which every JSON
    reader understands.

    Raises
    ------
    TypeError
        If `value` holds something else.
    """
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises
    ------
    StoreError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise StoreError(f"{path} is not a JSON file: {error}.") from error


def write_csv(path: str | os.PathLike[str], table: DataFrame) -> None:
    """Write `table` without its index; floats keep every digit that is needed to read the same number back."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
