"""From labels as they are written to class numbers and names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.base import printable
from auditor.errors import DataError

_LISTS = ("classes.txt", "classnames.txt", "dataset.json")


def classes_beside(folder: Path | None) -> tuple[str, ...] | None:
    """Class names from the first of ``classes.txt``, ``classnames.txt`` and ``dataset.json`` that a folder has.

    A ``dataset.json`` without class names is passed over.
    """
    if folder is None:
        return None
    path = next((folder / name for name in _LISTS if (folder / name).is_file()), None)
    if path is None or (path.name == _LISTS[-1] and "classes" not in _json(path)):
        return None
    return read_classes(path)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one on each line, or from the list ``classes`` of a ``.json``.

    Raises
    ------
    DataError
        If the file holds no such names.
    """
    if path.suffix != ".json":
        return tuple(_bytes(path).decode("utf-8-sig", "replace").rstrip("\r\n").splitlines())
    names = _json(path).get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _unusable(path, "it has no list of text named classes")
    return tuple(names)


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    return record if isinstance(record, dict) else {}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


def _unusable(path: Path, reason: str) -> DataError:
    return DataError(
        f"{printable(str(path))} cannot be read as a list of classes: {printable(reason)}.",
        wanted='text, one name on each line, or JSON {"classes": [...]}',
    )


def number_classes(
    parts: Sequence[NDArray[Any]], listed: Sequence[str] | None
) -> tuple[Sequence[str] | None, NDArray[np.int64]]:
    """Make labels numbers.

    Integers stay what they are; text is numbered by the list of classes, or without one by its order.

    Parameters
    ----------
    parts : sequence of ndarray
        Labels of the parts of the data, integers or text.
    listed : sequence of str, optional
        Class names in the order of the labels.

    Returns
    -------
    classes : sequence of str or None
        None where labels are numbers and nothing names them.
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    DataError
        If labels are partly numbers, partly text, or a text is not in the list.
    """
    kinds = {"number" if part.dtype.kind in "iu" else "text" for part in parts}
    if len(kinds) > 1:
        raise DataError("The labels are partly numbers, partly text.", wanted="one kind in all files")
    values = np.concatenate(parts)
    if kinds == {"number"}:
        return listed, values.astype(np.int64)
    found, labels = np.unique(values, return_inverse=True)
    if listed is None:
        return found.tolist(), labels.astype(np.int64)
    number_of = {name: number for number, name in enumerate(listed)}
    unknown = [name for name in found.tolist() if name not in number_of]
    if unknown:
        raise DataError(
            f"The class {printable(unknown[0])!r} is not in the list of classes.", got=f"{len(listed)} names"
        )
    return listed, np.array([number_of[name] for name in found.tolist()], dtype=np.int64)[labels]
