"""What a first pass over data found, kept as plain arrays so that it is made once."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from platformdirs import user_cache_path
from tqdm import tqdm  # type: ignore[import-untyped]

from auditor.errors import StoreError
from auditor.store.files import replacing

Arrays = dict[str, NDArray[Any]]
_FORMAT = 1
_STAMP = "stamp"
_DELAY_S = 2.0


@dataclass(frozen=True)
class Piece:
    """One piece of a first pass.

    Parameters
    ----------
    name : tuple of str
        What it is about (a file, and how it is read); decides where it is kept.
    stamp : mapping
        What the data looked like (size, time of change); where that is another by now, the piece is made anew.
    make : callable
        Makes the arrays.
    """

    name: tuple[str, ...]
    stamp: Mapping[str, Any]
    make: Callable[[], Arrays]

    @property
    def path(self) -> Path:
        """The file that keeps it."""
        digest = hashlib.sha256(json.dumps(self.name).encode()).hexdigest()
        return _folder() / f"{digest[:32]}.npz"

    def load(self) -> Arrays | None:
        """Read what is kept; None where there is nothing, or nothing that still holds."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            fresh = arrays.pop(_STAMP).tobytes() == self._stamp()
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
            return None  # damaged: it is made again
        return arrays if fresh else None

    def work(self) -> Arrays:
        """Make the arrays and keep them."""
        arrays = self.make()
        with replacing(self.path) as file:
            np.savez(file, allow_pickle=False, **{_STAMP: np.frombuffer(self._stamp(), np.uint8)}, **arrays)
        return arrays

    def _stamp(self) -> bytes:
        return json.dumps([_FORMAT, self.name, self.stamp], sort_keys=True).encode()


def all_pieces(pieces: Sequence[Piece]) -> list[Arrays]:
    """Load the pieces that are kept and make the others.

    Processes that do this at the same time share the work: each passes over the pieces that another is making, and
    comes back to them. A piece that is done stays done when the process is killed.

    Raises
    ------
    StoreError
        If the cache folder cannot be written.
    """
    found: dict[int, Arrays] = {}
    taken: list[int] = []
    # Seen on a terminal only, and only where it takes long.
    for i, piece in enumerate(tqdm(pieces, "Indexing", unit="file", leave=False, delay=_DELAY_S, disable=None)):
        arrays = piece.load()
        if arrays is None:
            with _locked(piece.path, wait=False) as mine:
                arrays = (piece.load() or piece.work()) if mine else None
        if arrays is None:
            taken.append(i)
        else:
            found[i] = arrays
    for i in taken:
        with _locked(pieces[i].path, wait=True):
            found[i] = pieces[i].load() or pieces[i].work()
    return [found[i] for i in range(len(pieces))]


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    lock = FileLock(path.with_suffix(".lock"), timeout=-1 if wait else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StoreError(
            f"The index of the data cannot be kept in {path.parent}: {error.strerror or error}.",
            fix="Name another folder in the environment variable AUDITOR_CACHE.",
        ) from error
    try:
        yield True
    finally:
        lock.release()


def _folder() -> Path:
    override = os.environ.get("AUDITOR_CACHE")
    return (Path(override) if override else user_cache_path("auditor")) / "streaming"


def pack(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Texts as bytes, which take no more room than they have letters."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)


def unpack(packed: NDArray[np.uint8], n: int) -> list[str]:
    """Texts that :func:`pack` made into bytes."""
    return packed.tobytes().decode("utf-8", "surrogateescape").split("\0") if n else []
