"""What a disk has room for, and what to say when it refuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from auditor.errors import StoreError

_AGAIN = "then repeat the command: what was finished is kept."
_FIXES = {
    errno.ENOSPC: f"Free some space, {_AGAIN}",
    errno.EDQUOT: f"Free some of your quota, {_AGAIN}",
    errno.EFBIG: f"Raise the limit on the size of a file (ulimit -f), {_AGAIN}",
    errno.EIO: f"Check the disk, {_AGAIN}",
    errno.EROFS: "Choose a folder that can be written.",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Free bytes on the disk that holds `path`, which need not exist yet."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def format_bytes(size: float) -> str:
    """``"1.5 GB"``: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def is_full(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, says that nothing more can be written to a disk, whatever the file."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


def system_error(error: BaseException | None) -> OSError | None:
    """Find what the system said in an error that a library made of it; None if there is nothing.

    Libraries in Rust (safetensors) pass on no more than a text, which ends with ``(os error 28)``.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        if said := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(said[1]), os.strerror(int(said[1])))
        error = error.__cause__
    return None


def cannot_write(path: str | os.PathLike[str], error: OSError, *, size: int | None = None) -> StoreError:
    """Build the error for a file or folder that the system does not let us write.

    Parameters
    ----------
    path : path
    error : OSError
        What the system said.
    size : int, optional
        Bytes that the file would have, at least. Told where the disk has fewer.
    """
    wanted = got = None
    if error.errno == errno.ENOSPC:
        wanted, got = _room(path, size)
    return StoreError(
        # HDF5's own message has lines of internals.
        f"{path} could not be written: {os.strerror(error.errno) if error.errno else error}.",
        wanted=wanted,
        got=got,
        fix=_FIXES.get(error.errno or 0, "Check the folder's permissions and the free space on its disk."),
    )


def _room(path: str | os.PathLike[str], size: int | None) -> tuple[str | None, str | None]:
    """What was needed and what is there; none of it where the system does not say, or there is room by now."""
    try:
        free = free_bytes(path)
    except OSError:
        return None, None
    if size is not None and 0 < size <= free:
        return None, None
    return f"at least {format_bytes(size)}" if size else None, f"{format_bytes(free)} free"
