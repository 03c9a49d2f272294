"""How much a store will take, and whether it fits."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from auditor.errors import StoreError
from auditor.store.disk import format_bytes, free_bytes
from auditor.store.layout import Layout

__all__ = [
    "ID_BYTES",
    "check_memory",
    "check_space",
    "estimate_bytes",
    "format_bytes",
    "free_bytes",
    "free_memory",
    "reserve",
]

ID_BYTES = 256
_MARGIN = 16 * 2**20


def estimate_bytes(
    *,
    n_rows: int,
    sites: Mapping[str, int],
    n_outputs: int,
    dtype: str = "float32",
    id_bytes: int = ID_BYTES,
    maps: Mapping[str, tuple[int, ...]] | None = None,
) -> int:
    """Size in bytes of an activation file with `n_rows` images, to within a few kilobytes per site."""
    layout = Layout(sites, n_rows, n_outputs, dtype, id_bytes, maps=maps or {})
    return n_rows * layout.row_bytes() + 1024 * (len(sites) + len(layout.maps) + 16)


def check_space(path: str | os.PathLike[str], needed: int) -> None:
    """Refuse to write `needed` more bytes where they do not fit with a margin of 16 MB.

    Raises
    ------
    StoreError
        Naming both sizes.
    """
    free = free_bytes(path)
    if needed + _MARGIN > free:
        raise StoreError(
            f"There is not enough free space for {path}.",
            wanted=format_bytes(needed + _MARGIN),
            got=f"{format_bytes(free)} free",
            fix="Free some space, choose another folder, use fewer images, or store nothing (--store none).",
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def free_memory() -> int | None:
    """Bytes of memory that new work can have without swapping; None where the system does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            found = next(line.split() for line in file if line.startswith("MemAvailable:"))
        return int(found[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def check_memory(needed: int) -> None:
    """Refuse to hold `needed` more bytes where they do not fit with a tenth to spare.

    Raises
    ------
    StoreError
        Naming both sizes.
    """
    free = free_memory()
    if free is not None and needed > 0.9 * free:
        raise StoreError(
            "There is not enough free memory to hold the responses.",
            wanted=format_bytes(needed),
            got=f"{format_bytes(free)} free",
            fix="Store them (--store pooled), use fewer images (--limit), or fewer layers.",
        )


def reserve(path: Path) -> None:
    """Take disk blocks for the whole of a file that was made with holes, so that later writes find room.

    Raises
    ------
    StoreError
        If there is no room (disk full, quota, file-size limit).
    """
    if not hasattr(os, "posix_fallocate"):
        return
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
    except OSError as error:
        # Some file systems cannot reserve; there the look at the free space has to do.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise StoreError(
                f"There is no room for {path}: {error.strerror}.",
                wanted=format_bytes(path.stat().st_size),
                fix="Free some space, choose another folder, use fewer images, or store nothing (--store none).",
            ) from error
    finally:
        os.close(handle)
