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
    responses: FloatArray, labels: NDArray[np.int64], n_classes: int, *, n: int, variance: bool, seed: int
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

    Yields
    ------
    mean, variance : ndarray, shape (block, C, U)
        `variance` is empty unless asked for.
    """
    n_images, n_units = responses.shape
    rng = np.random.default_rng([seed, 0])
    count = np.bincount(labels, minlength=n_classes)
    dense = n_classes <= DENSE_CLASSES
    centre = responses.mean(axis=0) if variance else np.zeros(n_units)
    columns: NDArray[np.floating] = responses
    if variance:
        centred = responses - centre
        columns = np.hstack([centred, centred**2])
    elif precise_in_float32(responses):
        columns = responses.astype(np.float32)  # half the time
    per_row = n_images * n_classes * columns.itemsize if dense else n_images * 20
    per_row += 4 * n_classes * columns.shape[1] * 8
    size = int(np.clip(BLOCK_BYTES // per_row, 1, n))
    for start in range(0, n, size):
        block = min(size, n - start)
        drawn = rng.permuted(np.broadcast_to(labels, (block, n_images)), axis=1)
        sums = (_dense_sums if dense else _sparse_sums)(columns, drawn, n_classes)
        yield _moments_from_sums(sums.astype(np.float64, copy=False), count, centre, variance=variance)


def precise_in_float32(responses: FloatArray) -> bool:
    """Whether class means keep about six digits of what tells them apart in single precision.

    Nothing cancels in sums of one sign, and the means differ visibly where the responses do.
    """
    if responses.size == 0 or responses.min() < 0 or responses.max() > 1e30:
        return False
    return bool((responses.std(axis=0) >= 0.02 * responses.mean(axis=0)).all())


def _dense_sums(columns: NDArray[np.floating], drawn: NDArray[np.int64], n_classes: int) -> NDArray[np.floating]:
    block, n_images = drawn.shape
    onehot = np.zeros((block, n_classes, n_images), dtype=columns.dtype)
    np.put_along_axis(onehot, drawn[:, None, :], 1, axis=1)
    flat = onehot.reshape(block * n_classes, n_images)
    sums: NDArray[np.floating] = (flat @ columns).reshape(block, n_classes, columns.shape[1])
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
    responses: FloatArray, members: list[NDArray[np.int64]], *, n: int, variance: bool, seed: int
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

    Yields
    ------
    mean, variance : ndarray, shape (block, C, U)
        `variance` is empty unless asked for.
    """
    n_units, n_classes = responses.shape[1], len(members)
    rng = np.random.default_rng([seed, 1])
    count = np.array([len(rows) for rows in members])
    centre = responses.mean(axis=0) if variance else np.zeros(n_units)
    width = 2 * n_units if variance else n_units
    size = int(np.clip(BLOCK_BYTES // (8 * (count.max() * 3 + 4 * n_classes * width)), 1, n))
    # By class, not by shuffle: a resample mixes images of one class only, which is n_classes times less work.
    streams = rng.spawn(n_classes)
    for start in range(0, n, size):
        block = min(size, n - start)
        sums = np.zeros((block, n_classes, width))
        for k, rows in enumerate(members):
            if len(rows) == 0:
                continue
            columns = responses[rows]
            if variance:
                columns = columns - centre
                columns = np.hstack([columns, columns**2])
            sums[:, k] = _resample_weights(streams[k], block, len(rows)) @ columns
        yield _moments_from_sums(sums, count, centre, variance=variance)


def _resample_weights(rng: np.random.Generator, block: int, size: int) -> FloatArray:
    drawn = rng.integers(size, size=(block, size)) + np.arange(block)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=block * size).reshape(block, size).astype(np.float64)


def _moments_from_sums(sums: FloatArray, count: NDArray[np.int64], centre: FloatArray, *, variance: bool) -> Moments:
    n_units = len(centre)
    each = count[:, None].astype(np.float64)
    # A class without images has sums of 0: its mean is reported as 0 and ignored by every metric.
    mean = sums[..., :n_units] / np.maximum(each, 1)
    if not variance:
        return mean, np.empty(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.maximum(sums[..., n_units:] - each * mean**2, 0.0) / (each - 1)
    return mean + centre * (each > 0), np.where(each > 1, spread, np.nan)
