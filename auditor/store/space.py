"""How much a store will take, and whether it fits."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from auditor.errors import StoreError
from auditor.store.layout import Layout

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


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Free bytes on the disk that holds `path`, which need not exist yet."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


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
        )


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


def format_bytes(size: float) -> str:
    """``"1.5 GB"``: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
