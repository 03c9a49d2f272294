"""Division of a data set into train, select and score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.data.base import SPLITS
from auditor.errors import DataError, OptionError

DEFAULT_FRACTIONS = (0.5, 0.25, 0.25)


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Return `fractions` as a tuple if they can divide a data set.

    Raises
    ------
    OptionError
        Unless there are three, none negative, ``select`` above 0, with sum 1 (within 1e-6). Without a score split
        nothing can be claimed of chosen units, but a profile can be made.
    """
    values = tuple(float(fraction) for fraction in fractions)
    usable = (
        len(values) == len(SPLITS)
        and all(math.isfinite(value) and value >= 0 for value in values)
        and values[1] > 0
        and abs(sum(values) - 1) <= 1e-6
    )
    if not usable:
        raise OptionError(
            "The data cannot be divided by these fractions.",
            wanted="three numbers for train, select and score with sum 1, none negative, select above 0",
            got=", ".join(f"{value:g}" for value in values) or "none",
        )
    return values[0], values[1], values[2]


def stratified_splits(
    labels: NDArray[np.int64],
    ids: Sequence[str],
    *,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int,
    classes: Sequence[str] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Divide every class by the same fractions. Classes without any image are passed over.

    Within a class, images are ordered by a hash of seed and id. So the division depends on the names of the images and
    not on the order in which they were found, and adding images moves few of the others to another split.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
        Label of every image.
    ids : sequence of str
        Stable name of every image.
    fractions : sequence of float
        Shares of train, select and score.
    seed : int
        Another seed, another division.
    classes : sequence of str, optional
        Class names for messages.

    Returns
    -------
    dict of str to ndarray of int64
        Sorted indices for each of :data:`~auditor.data.base.SPLITS`.

    Raises
    ------
    OptionError
        If the fractions cannot be used.
    DataError
        If a class has one image, which cannot be both in select and in score.
    """
    train, select, score = check_fractions(fractions)
    held_out = int(score > 0)
    labels = np.asarray(labels, dtype=np.int64)
    if labels.shape != (len(ids),):
        raise DataError("There must be one label for each image.", wanted=f"{len(ids)} labels", got=f"{labels.shape}")
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    n_classes = len(classes) if classes is not None else int(labels.max(initial=-1)) + 1
    for label in range(n_classes):
        rows = np.flatnonzero(labels == label).tolist()
        if not rows:
            continue
        if len(rows) < 1 + held_out:
            raise DataError(
                f"The class {classes[label] if classes is not None else label!r} has too few images to be divided.",
                wanted="at least 2 images in every class: one to choose units on, one to score them on",
                got=str(len(rows)),
                fix="Add images to the class, remove it, or profile without a score split (--fractions 0,1,0).",
            )
        rows.sort(key=lambda row: hashlib.sha256(f"{seed}:{ids[row]}".encode("utf-8", "surrogateescape")).digest())
        end_select = min(max(math.floor(len(rows) * (train + select) + 0.5), 1), len(rows) - held_out)
        end_train = min(math.floor(len(rows) * train + 0.5), end_select - 1)
        for split, part in zip(SPLITS, (rows[:end_train], rows[end_train:end_select], rows[end_select:]), strict=True):
            parts[split] += part
    return {split: np.array(sorted(rows), dtype=np.int64) for split, rows in parts.items()}


def keep_division(
    labels: NDArray[np.int64],
    ids: Sequence[str],
    n_train: int,
    *,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int,
    classes: Sequence[str] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Train on the first `n_train` images and divide the others into select and score.

    Parameters
    ----------
    labels, ids, seed, classes
        As for :func:`stratified_splits`.
    n_train : int
    fractions : sequence of float
        Only the shares of select and score count, by their ratio.
    """
    _, select, score = check_fractions(fractions)
    share = select / (select + score)
    labels = np.asarray(labels, dtype=np.int64)
    rest = stratified_splits(
        labels[n_train:], ids[n_train:], fractions=(0.0, share, 1 - share), seed=seed, classes=classes
    )
    train = np.arange(n_train, dtype=np.int64)
    return {split: train if split == "train" else rest[split] + n_train for split in SPLITS}
