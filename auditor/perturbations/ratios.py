"""Accuracy under stress beside accuracy on the same images as they are: ratios, differences, and their intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from auditor.errors import DataError
from auditor.stats.intervals import Interval, check_confidence, paired_mean_interval, paired_proportion_interval, wilson

Floats = NDArray[np.float64]
Right = NDArray[np.bool_]


def relative_accuracy(stressed: ArrayLike, clean: ArrayLike, confidence: float = 0.95) -> Interval:
    """Ratio of two accuracies on the same images: Bonett & Price (2006), hybrid of Wilson's score intervals.

    Images that both get wrong say nothing of a ratio and are left out. With ``n`` others, of which ``a`` and ``b`` are
    right under stress and as they are, Wilson's intervals of ``a / n`` and ``b / n`` are taken at ``z k``, where ``k``
    holds how far the two vary together, and the limits are ``low_a / high_b`` and ``high_a / low_b``.

    Parameters
    ----------
    stressed, clean : array_like of bool, shape (..., N)
        Whether each image is classified correctly; broadcast against each other.
    confidence : float

    Returns
    -------
    Interval
        Each of shape (...). NaN where no image is right as it is.

    Raises
    ------
    DataError
        If they are not of the same images.
    """
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    first, second = _pairs(stressed, clean)
    a, b = first.sum(-1).astype(np.float64), second.sum(-1).astype(np.float64)
    n = (first | second).sum(-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt((2 * n - a - b + 2) / ((a + 1) * (b + 1)))
        apart = sum(np.sqrt((1 - (count + 1) / (n + 2)) / (count + 1)) for count in (a, b))
        (low_a, high_a), (low_b, high_b) = (_wilson(count, n, z * spread / apart) for count in (a, b))
        ratio, low, high = a / b, low_a / high_b, high_a / low_b
    undefined = b == 0
    return Interval(*(np.where(undefined, np.nan, values) for values in (ratio, low, high)))


def mean_share(shares: ArrayLike, per_image: int, confidence: float = 0.95) -> Interval:
    """Mean over images of the share of conditions that each withstands: Wilson's interval at the effective number.

    Conditions of one image are not independent. The number of independent trials that would have the variance seen over
    images takes the place of n; it is n at least (an image withstands all or none) and ``n * per_image`` at most.

    Parameters
    ----------
    shares : array_like of float, shape (N,)
        In [0, 1].
    per_image : int
        Conditions of each image.
    confidence : float

    Returns
    -------
    Interval
        Within [0, 1], and of some width also where every image withstands everything.
    """
    values = np.asarray(shares, dtype=np.float64)
    n, mean = len(values), float(values.mean()) if len(values) else np.nan
    if n < 2:
        return Interval(np.asarray(mean), np.asarray(np.nan), np.asarray(np.nan))
    spread = float(values.var(ddof=1))
    most = n * per_image
    effective = n if mean in (0.0, 1.0) else most if spread == 0 else n * mean * (1 - mean) / spread
    trials = min(max(effective, n), most)
    return wilson(mean * trials, trials, confidence)


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike, confidence: float = 0.95) -> Interval:
    """Ratio of two means over the same images, with the delta method's Student t interval.

    Parameters
    ----------
    numerator, denominator : array_like of float, shape (N,)
        Of each image.
    confidence : float

    Returns
    -------
    Interval
        NaN where the denominator's mean is 0; the ends are NaN with fewer than two images.
    """
    over, under = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if over.shape != under.shape or over.ndim != 1:
        raise DataError("A ratio needs both sides of the same images.", got=f"{over.shape} and {under.shape}")
    if not len(over) or under.mean() == 0:
        return Interval(*[np.asarray(np.nan)] * 3)
    ratio = over.mean() / under.mean()
    shift = paired_mean_interval((over - ratio * under) / under.mean(), confidence)
    return Interval(np.asarray(ratio), ratio + shift.low - shift.estimate, ratio + shift.high - shift.estimate)


def ratio_of_samples(numerator: ArrayLike, denominator: ArrayLike, confidence: float = 0.95) -> Interval:
    """Ratio of two means over different images, with the delta method's interval (Welch-Satterthwaite t).

    Parameters
    ----------
    numerator, denominator : array_like of float, shapes (N,) and (M,)
    confidence : float

    Returns
    -------
    Interval
        NaN where the denominator's mean is 0; the ends are NaN with fewer than two images on a side.
    """
    level = (1 + check_confidence(confidence)) / 2
    over, under = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if not len(over) or not len(under) or under.mean() == 0:
        return Interval(*[np.asarray(np.nan)] * 3)
    ratio = over.mean() / under.mean()
    if min(len(over), len(under)) < 2:
        return Interval(np.asarray(ratio), np.asarray(np.nan), np.asarray(np.nan))
    parts = np.array([over.var(ddof=1) / len(over), ratio**2 * under.var(ddof=1) / len(under)]) / under.mean() ** 2
    variance = parts.sum()
    df = variance**2 / (parts**2 / [len(over) - 1, len(under) - 1]).sum() if variance > 0 else np.inf
    half = float(stdtrit(df, level) if np.isfinite(df) else ndtri(level)) * np.sqrt(variance)
    return Interval(np.asarray(ratio), np.asarray(ratio - half), np.asarray(ratio + half))


def corruption_error(errors: ArrayLike, reference: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Interval]:
    """Mean corruption error (Hendrycks & Dietterich 2019): the errors of each type in units of a reference's.

    Parameters
    ----------
    errors, reference : array_like of bool, shape (T, S, N)
        Whether a network, and the reference, get image n wrong under type t at severity s.
    confidence : float

    Returns
    -------
    by_type : ndarray of float64, shape (T,)
        Sum of the errors over severities, divided by the reference's; NaN where the reference has none.
    mean : Interval
        Mean over types; the delta method's Student t interval over images, which all types share.

    Raises
    ------
    DataError
        If they are not of the same images and corruptions.
    """
    mine, other = (np.asarray(array, dtype=np.float64) for array in (errors, reference))
    if mine.shape != other.shape or mine.ndim != 3:
        raise DataError(
            "Network and reference were not measured on the same corrupted images.",
            wanted=str(mine.shape),
            got=str(other.shape),
        )
    mine, other = mine.mean(axis=1), other.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_type = np.where(other.mean(axis=1) > 0, mine.mean(axis=1) / other.mean(axis=1), np.nan)
        influence = (mine - by_type[:, None] * other) / other.mean(axis=1)[:, None]
    spread = paired_mean_interval(influence.mean(axis=0), confidence)
    mean = by_type.mean()
    return by_type, Interval(
        np.asarray(mean), mean + spread.low - spread.estimate, mean + spread.high - spread.estimate
    )


def accuracy_change(after: ArrayLike, before: ArrayLike, confidence: float = 0.95) -> Interval:
    """Difference of two accuracies on the same images (Bonett & Price 2012)."""
    first, second = _pairs(after, before)
    gained, lost = (first & ~second).sum(-1), (second & ~first).sum(-1)
    return paired_proportion_interval(gained, lost, first.shape[-1], confidence)


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[Right, Right]:
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape[-1:] != two.shape[-1:] or not one.ndim or not two.ndim:
        raise DataError("Accuracies of different images do not pair.", got=f"{one.shape} and {two.shape}")
    pair = np.broadcast_arrays(one, two)
    return pair[0], pair[1]


def _wilson(count: Floats, n: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Wilson's limits at a z that differs from one proportion to the next."""
    half = z * np.sqrt(z**2 + 4 * count * (1 - count / n))
    low, high = ((2 * count + z**2 + sign * half) / (2 * (n + z**2)) for sign in (-1, 1))
    return np.where(count == 0, 0.0, low), np.where(count == n, 1.0, high)
