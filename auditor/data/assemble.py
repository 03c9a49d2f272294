"""What sources share when they put a data set together: names, ids and the division."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.data.base import LabelledData, printable
from auditor.data.splits import check_fractions, keep_division, stratified_splits
from auditor.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

EMBEDDED = "digits"
_LONGEST_SHOWN = 60
_MOST_UNNAMED = 1_000_000


def data_name(text: str) -> str:
    """Make a data set's name; that of the embedded digits, which have weights of their own, is not given to others."""
    return f"{EMBEDDED}-of-yours" if text == EMBEDDED else printable(text) or "data"


def class_names(names: Sequence[Any] | None, labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Class names as text, in the order of the labels.

    Of several names for one class (as ImageNet has) the first is taken; names that occur twice get their label added.
    Without names, the labels themselves are the names.

    Raises
    ------
    DataError
        If labels that nothing names are so large that they are no numbers of classes.
    """
    if names is None:
        if labels.max(initial=-1) >= _MOST_UNNAMED:
            raise DataError(
                "The labels are not class numbers.",
                wanted=f"numbers from 0, below {_MOST_UNNAMED:,}",
                got=str(labels.max()),
                fix="Number the classes from 0.",
            )
        return tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1))
    texts = [printable(str(name[0] if isinstance(name, tuple | list) and name else name)) for name in names]
    counts = {text: texts.count(text) for text in set(texts)} if len(set(texts)) < len(texts) else {}
    return tuple(f"{text} ({i})" if counts.get(text, 1) > 1 else text for i, text in enumerate(texts))


def row_ids(n: int, prefix: str) -> tuple[str, ...]:
    """Ids from positions, for data in a fixed order: ``test/00000012``."""
    return tuple(f"{prefix}/{row:08d}" for row in range(n))


def relative_ids(paths: Sequence[str], root: str | None) -> tuple[str, ...] | None:
    """Ids from file names below `root`, or None where they are not below it or not unique."""
    if root is None:
        return None
    try:
        ids = tuple(PurePath(path).relative_to(root).as_posix() for path in paths)
    except (TypeError, ValueError):
        return None
    return ids if len(set(ids)) == len(ids) else None


def integer_labels(values: ArrayLike, where: str) -> NDArray[np.int64]:
    """Check that labels are one whole number each.

    Raises
    ------
    DataError
        Saying what they are instead.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise DataError(
            f"The labels of {where} are not class numbers.",
            wanted="one integer for each image, from 0",
            got=f"{array.dtype} of shape {array.shape}",
            fix="Turn one-hot rows into numbers with argmax(1)." if array.ndim == 2 else None,
        )
    return array.astype(np.int64)


def assemble(
    *,
    name: str,
    origin: str,
    classes: Sequence[Any] | None,
    labels: NDArray[np.int64],
    ids: Sequence[str],
    read: Callable[[int], Image],
    fractions: Sequence[float],
    seed: int,
    n_train: int | None = None,
) -> LabelledData:
    """Check the parts of a data set and divide it.

    Parameters
    ----------
    name, origin, labels, ids, read
        As in :class:`LabelledData`.
    classes : sequence, optional
        See :func:`class_names`. Classes without images are kept, so that labels stay the outputs of a network that
        knows more classes; they count nowhere.
    fractions, seed
        See :func:`auditor.data.splits.stratified_splits`.
    n_train : int, optional
        The data come divided: the first so many images are for training, the others are divided into select and score.

    Raises
    ------
    DataError
        If there are no images, fewer than two classes with images, or labels without a class.
    """
    fractions = check_fractions(fractions)
    name = data_name(name)
    if len(labels) == 0 or n_train == len(labels):
        part = "no images" if len(labels) == 0 else "no images but those to train on"
        raise DataError(f"The data set {name!r} is empty.", wanted="labelled images", got=part)
    names = class_names(classes, labels)
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"The data set {name!r} has labels that name no class.",
            wanted=f"0 to {len(names) - 1}",
            got=f"{labels.min()} to {labels.max()}",
            fix="Labels count from 0." if labels.min() >= 0 else "Leave unlabelled images (label -1) out.",
        )
    present = np.unique(labels)
    if len(present) < 2:
        shown = names[int(present[0])]
        raise DataError(
            f"The data set {name!r} has images of one class only.",
            wanted="at least 2 classes",
            got=shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}...",
        )
    if n_train is None:
        splits = stratified_splits(labels, ids, fractions=fractions, seed=seed, classes=names)
    else:
        splits = keep_division(labels, ids, n_train, fractions=fractions, seed=seed, classes=names)
    return LabelledData(
        name=name,
        origin=printable(origin),
        classes=names,
        labels=labels,
        ids=tuple(ids),
        splits=splits,
        read=read,
    )
