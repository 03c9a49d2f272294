"""Small files that are either the old one or the new one, never half of either."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from auditor.errors import StoreError

if TYPE_CHECKING:
    from pandas import DataFrame


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well.

    The temporary file lies in the same folder, is synchronised to disk before it is renamed, and is removed when the
    block fails. Missing parent folders are made.

    Raises
    ------
    StoreError
        If the file cannot be written (no permission, no space).
    """
    target = Path(path)
    # Not tempfile: its files are private to the owner, whatever the umask says.
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{target} could not be written: {error.strerror or error}.",
            fix="Check the folder's permissions and the free space on its disk.",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


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
    with replacing(path) as file:
        file.write(text.encode())


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
