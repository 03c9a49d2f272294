"""Class moments of shuffled and of resampled data, as matrix products in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
Moments = tuple[FloatArray, FloatArray]

BLOCK_BYTES = 96 * 2**20
# One dense product beats a sparse one by a constant factor but does n_classes times the work.
DENSE_CLASSES = 40
# Columns of a sparse product that stay in the cache.
SPARSE_COLUMNS = 64


def class_members(labels: NDArray[np.int64], n_classes: int) -> list[NDArray[np.int64]]:
    """Row indices of each class, in order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=n_classes))[:-1])


def observed_moments(responses: FloatArray, members: list[NDArray[np.int64]]) -> Moments:
    """Mean and variance (``ddof=1``) of each class.

    Parameters
    ----------
    responses : ndarray of float64, shape (N, U)
    members : list of ndarray
        Row indices of each class.

    Returns
    -------
    mean, variance : ndarray, shape (C, U)
        The mean of a class without images is 0; the variance of one with fewer than two is NaN.
    """
    shape = (len(members), responses.shape[1])
    mean, variance = np.zeros(shape), np.full(shape, np.nan)
    for k, rows in enumerate(members):
        if len(rows):
            mean[k] = responses[rows].mean(axis=0)
        if len(rows) > 1:
            variance[k] = responses[rows].var(axis=0, ddof=1)
    return mean, variance


def shuffled_moments(
    responses: FloatArray,
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    n: int,
    variance: bool,
    seed: int,
    single: bool = True,
) -> Iterator[Moments]:
    """Yield moments under `n` random permutations of the labels, some at a time.

    The permutations depend on `labels` and `seed` only, so they are the same for every set of units.

    Parameters
    ----------
    responses : ndarray of float64, shape (N, U)
    labels : ndarray of int64, shape (N,)
    n_classes : int
    n : int
        Number of permutations.
    variance : bool
        Whether to compute variances too.
    seed : int
    single : bool
        Whether to multiply in single precision where that keeps about six digits; half the time.

    Yields
    ------
    mean, variance : ndarray, shape (block, C, U)
        `variance` is empty unless asked for.
    """
    n_images = len(responses)
    rng = np.random.default_rng([seed, 0])
    count = np.bincount(labels, minlength=n_classes)
    dense = n_classes <= DENSE_CLASSES
    columns, centre, scale = _columns(responses, variance=variance, single=single)
    total, largest = columns.sum(axis=0, dtype=np.float64), int(count.argmax())
    per_row = n_images * n_classes * columns.itemsize if dense else n_images * 20
    per_row += 4 * n_classes * columns.shape[1] * 8
    size = int(np.clip(BLOCK_BYTES // per_row, 1, n))
    for start in range(0, n, size):
        block = min(size, n - start)
        drawn = rng.permuted(np.broadcast_to(labels, (block, n_images)), axis=1)
        if dense:
            sums = _dense_sums(columns, drawn, n_classes, total, left_out=largest)
        else:
            sums = _sparse_sums(columns, drawn, n_classes).astype(np.float64, copy=False)
        yield _moments_from_sums(sums, count, centre, scale, variance=variance)


def _columns(
    responses: FloatArray, *, variance: bool, single: bool
) -> tuple[NDArray[np.floating], FloatArray, FloatArray]:
    """Columns whose class sums give the moments, and what they were centred and divided by."""
    zero, one = np.zeros(responses.shape[1]), np.ones(responses.shape[1])
    if not variance:
        return responses.astype(np.float32) if single and precise_in_float32(responses) else responses, zero, one
    centre, scale = responses.mean(axis=0), one
    centred = responses - centre
    if single:  # in standard deviations, squares neither overflow nor vanish
        spread = centred.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        centred = (centred / scale).astype(np.float32)
    return np.hstack([centred, centred**2]), centre, scale


def precise_in_float32(responses: FloatArray) -> bool:
    """Whether class means keep about six digits of what tells them apart in single precision.

    Nothing cancels in sums of one sign, and the means differ visibly where the responses do.
    """
    if responses.size == 0 or responses.min() < 0 or responses.max() > 1e30:
        return False
    return bool((responses.std(axis=0) >= 0.02 * responses.mean(axis=0)).all())


def _dense_sums(
    columns: NDArray[np.floating], drawn: NDArray[np.int64], n_classes: int, total: FloatArray, *, left_out: int
) -> FloatArray:
    """Sums of each class; those of the largest one are what the others leave of the total."""
    block, n_images = drawn.shape
    place = np.arange(n_classes)
    place[left_out:] = np.roll(place[left_out:], 1)  # the class left out comes last
    onehot = np.zeros((n_classes, block, n_images), dtype=columns.dtype)
    onehot.reshape(-1)[(place * drawn.size)[drawn.ravel()] + np.arange(drawn.size)] = 1
    found = (onehot[:-1].reshape(-1, n_images) @ columns).reshape(n_classes - 1, block, -1)
    sums = np.empty((block, n_classes, columns.shape[1]))
    for k in range(n_classes):
        if k != left_out:
            sums[:, k] = found[place[k]]
    sums[:, left_out] = total - found.sum(axis=0, dtype=np.float64)
    if columns.size and columns.min() >= 0:
        np.maximum(sums[:, left_out], 0.0, out=sums[:, left_out])  # rounding must not make a sum of zeros negative
    return sums


def _sparse_sums(columns: NDArray[np.floating], drawn: NDArray[np.int64], n_classes: int) -> NDArray[np.floating]:
    block, n_images = drawn.shape
    order = np.argsort(drawn, axis=1, kind="stable")
    counts = np.bincount(drawn[0], minlength=n_classes)
    ends = np.concatenate([[0], np.cumsum(np.tile(counts, block))])
    ones = np.ones(block * n_images, dtype=columns.dtype)
    matrix = sparse.csr_array((ones, order.ravel(), ends), shape=(block * n_classes, n_images))
    parts = [
        matrix @ np.ascontiguousarray(columns[:, start : start + SPARSE_COLUMNS])
        for start in range(0, columns.shape[1], SPARSE_COLUMNS)
    ]
    return np.hstack(parts).reshape(block, n_classes, columns.shape[1])


def bootstrap_moments(
    responses: FloatArray,
    members: list[NDArray[np.int64]],
    *,
    n: int,
    variance: bool,
    seed: int,
    single: bool = True,
) -> Iterator[Moments]:
    """Yield moments of `n` resamples of the images, drawn with replacement within each class.

    Parameters
    ----------
    responses : ndarray of float64, shape (N, U)
    members : list of ndarray
        Row indices of each class.
    n : int
        Number of resamples.
    variance : bool
        Whether to compute variances too.
    seed : int
    single : bool
        Whether to multiply in single precision where that keeps about six digits; half the time.

    Yields
    ------
    mean, variance : ndarray, shape (block, C, U)
        `variance` is empty unless asked for.
    """
    n_classes = len(members)
    rng = np.random.default_rng([seed, 1])
    count = np.array([len(rows) for rows in members])
    columns, centre, scale = _columns(responses, variance=variance, single=single)
    width = columns.shape[1]
    size = int(np.clip(BLOCK_BYTES // (8 * (count.max() * 3 + 4 * n_classes * width)), 1, n))
    # By class, not by shuffle: a resample mixes images of one class only, which is n_classes times less work.
    streams = rng.spawn(n_classes)
    for start in range(0, n, size):
        block = min(size, n - start)
        sums = np.zeros((block, n_classes, width))
        for k, rows in enumerate(members):
            if len(rows) == 0:
                continue
            weights = _resample_weights(streams[k], block, len(rows)).astype(columns.dtype)
            sums[:, k] = weights @ columns[rows]
        yield _moments_from_sums(sums, count, centre, scale, variance=variance)


def _resample_weights(rng: np.random.Generator, block: int, size: int) -> NDArray[np.int64]:
    drawn = rng.integers(size, size=(block, size)) + np.arange(block)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=block * size).reshape(block, size)


def _moments_from_sums(
    sums: FloatArray, count: NDArray[np.int64], centre: FloatArray, scale: FloatArray, *, variance: bool
) -> Moments:
    n_units = len(centre)
    each = count[:, None].astype(np.float64)
    # A class without images has sums of 0: its mean is reported as 0 and ignored by every metric.
    mean = sums[..., :n_units] / np.maximum(each, 1)
    if not variance:
        return mean, np.empty(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.maximum(sums[..., n_units:] - each * mean**2, 0.0) / (each - 1)
    return mean * scale + centre * (each > 0), np.where(each > 1, spread * scale**2, np.nan)
