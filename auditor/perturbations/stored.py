"""Corrupted sets that others made: arrays in the style of CIFAR-10-C, folders in the style of ImageNet-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.base import printable
from auditor.data.decode import read_image
from auditor.data.folder import IMAGE_SUFFIXES
from auditor.errors import DataError, OptionError, unknown_name
from auditor.perturbations.base import SEVERITIES

_LAYOUTS = "TYPE.npy and labels.npy (CIFAR-10-C), or TYPE/SEVERITY/CLASS/IMAGE (ImageNet-C)"
_LABELS = "labels.npy"
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class StoredSet:
    """The images of one type and severity.

    Attributes
    ----------
    labels : ndarray of int64
        Shape (n,): the run's class numbers.
    ids : tuple of str
        Name of each image within the set, the same for every type and severity.
    read : callable
        From a place to an RGB picture; worker processes can receive it.
    """

    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class StoredCorruptions:
    """A folder of corrupted images of the same `n` pictures.

    Attributes
    ----------
    folder : Path
    types : dict of str to list of int
        The severities that are there, by name of the type.
    n : int
        Images of each type and severity.
    """

    folder: Path
    types: dict[str, list[int]]
    n: int
    _open: Callable[[str, int], StoredSet]

    def read(self, name: str, severity: int) -> StoredSet:
        """Images and labels of one type and severity; no image is decoded yet.

        Raises
        ------
        UnknownNameError
            If there is no such type.
        OptionError
            If the type is not there at this severity.
        DataError
            If these are not the same images as in the other types and severities.
        """
        if name not in self.types:
            raise unknown_name("stored corruption", name, self.types)
        if severity not in self.types[name]:
            have = ", ".join(map(str, self.types[name]))
            raise OptionError(f"{self.folder / name} is not there at this severity.", wanted=have, got=str(severity))
        return self._open(name, severity)


def open_stored(folder: str | Path, classes: Sequence[str]) -> StoredCorruptions:
    """Open a folder of corrupted images.

    Parameters
    ----------
    folder : str or Path
        Either ``TYPE.npy`` of shape (5 n, H, W, 3), uint8, severities 1 to 5 one after the other, with ``labels.npy``
        of n or 5 n class numbers; or a tree ``TYPE/SEVERITY/CLASS/IMAGE``.
    classes : sequence of str
        The run's classes in their order. Class folders are matched by name, and may be fewer; numbers in
        ``labels.npy`` must be below their number.

    Returns
    -------
    StoredCorruptions

    Raises
    ------
    DataError
        If the folder has neither layout, an array has another shape or type, or classes are not the run's.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {str(root)!r}.", wanted=_LAYOUTS)
    root = root.resolve()
    arrays = sorted(path for path in root.glob("*.npy") if not path.name.startswith("."))
    return _open_arrays(root, arrays, len(classes)) if arrays else _open_tree(root, tuple(classes))


# --- arrays ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Pictures of one block of rows; opened in the process that reads."""

    path: Path
    start: int

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(np.array(_mapped(self.path)[self.start + index]))


def _mapped(path: Path) -> NDArray[Any]:
    state = path.stat()
    return _load(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _load(path: Path, _changed: int, _size: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read: {printable(str(error))}", wanted="an array written by numpy.save, without pickle"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} holds several arrays.", wanted="a single array written by numpy.save")
    return array


def _open_arrays(root: Path, paths: list[Path], n_classes: int) -> StoredCorruptions:
    names = {path.stem: path for path in paths if path.name != _LABELS}
    if not names:
        raise DataError(f"{root} holds labels and no images.", wanted=_LAYOUTS)
    if not (root / _LABELS).is_file():
        raise DataError(f"{root} has arrays and no {_LABELS}.", wanted=_LAYOUTS)
    sizes = {name: _rows(path) for name, path in names.items()}
    odd = [name for name in sizes if sizes[name] != sizes[next(iter(sizes))]]
    if odd:
        got = ", ".join(f"{name} {sizes[name]}" for name in [next(iter(sizes)), *odd[:_SHOWN]])
        raise DataError(f"The arrays of {root} differ in length.", wanted="the same images in each", got=got)
    n = next(iter(sizes.values())) // len(SEVERITIES)
    labels = _labels(root / _LABELS, n, n_classes)
    ids = tuple(str(row) for row in range(n))

    def read(name: str, severity: int) -> StoredSet:
        return StoredSet(labels, ids, _Rows(names[name], (severity - 1) * n))

    return StoredCorruptions(root, {name: list(SEVERITIES) for name in names}, n, read)


def _rows(path: Path) -> int:
    """Length of an array of images, after checks that read its header only."""
    array = _mapped(path)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise DataError(
            f"{path} holds no RGB images.", wanted="uint8 of shape (5 n, H, W, 3)",
            got=f"{array.dtype} of shape {array.shape}",
        )  # fmt: skip
    if len(array) % len(SEVERITIES):
        raise DataError(
            f"{path} does not hold five severities.", wanted="a number of rows that 5 divides", got=f"{len(array)} rows"
        )
    return len(array)


def _labels(path: Path, n: int, n_classes: int) -> NDArray[np.int64]:
    """Class number of each of the `n` images."""
    array = _mapped(path)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or len(array) not in (n, n * len(SEVERITIES)):
        raise DataError(
            f"{path} does not fit the images.", wanted=f"integers of shape ({n},) or ({n * len(SEVERITIES)},)",
            got=f"{array.dtype} of shape {array.shape}",
        )  # fmt: skip
    blocks = np.asarray(array).astype(np.int64).reshape(-1, n)
    if (blocks != blocks[0]).any():
        raise DataError(
            f"{path} has other labels at other severities.", wanted="the same images in each of the five blocks of rows"
        )
    low, high = int(blocks[0].min()), int(blocks[0].max())
    if low < 0 or high >= n_classes:
        raise DataError(
            f"{path} has labels that the run does not know.", wanted=f"class numbers from 0 to {n_classes - 1}",
            got=f"{low} to {high}",
        )  # fmt: skip
    labels: NDArray[np.int64] = blocks[0].copy()
    return labels


# --- folders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    """Pictures of one folder of classes."""

    root: Path
    paths: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        return read_image(self.root / self.paths[index])


def _open_tree(root: Path, classes: tuple[str, ...]) -> StoredCorruptions:
    types = {}
    for name in _folders(root):
        found = [severity for severity in SEVERITIES if (root / name / str(severity)).is_dir()]
        if found:
            types[name] = found
    if not types:
        raise DataError(f"{root} holds no corrupted images.", wanted=_LAYOUTS)
    number = {name: label for label, name in enumerate(classes)}
    for name, severities in types.items():
        for severity in severities:
            _check_classes(root / name / str(severity), number)
    first = next(iter(types))
    ids = _files(root / first / str(types[first][0]))
    if not ids:
        raise DataError(f"{root / first / str(types[first][0])} has no images.", wanted=_LAYOUTS)
    labels = np.array([number[path.split("/", 1)[0]] for path in ids], dtype=np.int64)

    def read(name: str, severity: int) -> StoredSet:
        folder = root / name / str(severity)
        here = _files(folder)
        if here != ids:
            odd = sorted(set(here) ^ set(ids))
            raise DataError(
                f"{folder} has other images than {root / first / str(types[first][0])}.",
                wanted=f"the same {len(ids)} images in every type and severity",
                got=f"{len(here)} images; in one of them only: {_listed(odd)}",
            )
        return StoredSet(labels, ids, _Files(folder, here))

    return StoredCorruptions(root, types, len(ids), read)


def _check_classes(folder: Path, known: dict[str, int]) -> None:
    found = _folders(folder)
    if not found:
        raise DataError(f"{folder} has no class folders.", wanted=_LAYOUTS)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise DataError(
            f"{folder} has classes that the run does not know.", wanted=f"names such as {_listed(sorted(known))}",
            got=_listed(unknown), fix="Name the class folders as the run's data does.",
        )  # fmt: skip


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be listed: {error}") from error


def _files(folder: Path) -> tuple[str, ...]:
    """Images of every class folder as CLASS/IMAGE, sorted."""
    found = []
    for name in _folders(folder):
        with os.scandir(folder / name) as entries:
            found += [
                f"{name}/{entry.name}"
                for entry in entries
                if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
            ]
    return tuple(sorted(found))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN]) + more)
