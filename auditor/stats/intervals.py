"""Intervals, p values and corrections; every one is checked against an independent reference."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

from auditor.errors import DataError, OptionError

FloatArray = NDArray[np.float64]
BootstrapMethod = Literal["percentile", "basic", "bc"]
Alternative = Literal["greater", "less", "two-sided"]


class Interval(NamedTuple):
    """An estimate and the ends of its interval, each of the same shape."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


def check_confidence(confidence: float) -> float:
    """Return `confidence` if it lies strictly between 0 and 1.

    Raises
    ------
    OptionError
        Otherwise.
    """
    if not 0.0 < confidence < 1.0:
        raise OptionError(
            "The confidence level must lie between 0 and 1.",
            wanted="a number such as 0.95",
            got=repr(confidence),
            fix=f"Use {confidence / 100:g}." if 1 < confidence < 100 else None,
        )
    return float(confidence)


def wilson(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927), without continuity correction.

    Parameters
    ----------
    successes, n : array_like
        Number of successes and of trials; broadcast against each other.
    confidence : float

    Returns
    -------
    Interval
        NaN where `n` is 0.
    """
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    hits, total = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if np.any(hits < 0) or np.any(hits > total):
        raise OptionError("A count of successes must lie between 0 and the number of trials.")
    with np.errstate(invalid="ignore", divide="ignore"):
        share = hits / total
        centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # At the ends the limits are exactly 0 and 1; rounding would leave 1e-17.
    low = np.where(hits == 0, 0.0 * share, centre - half)
    high = np.where(hits == total, 1.0 + 0.0 * share, centre + half)
    return Interval(share, low, high)


def paired_mean_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student t interval of the mean of paired differences.

    Parameters
    ----------
    differences : array_like, shape (..., n)
        One difference per pair; the last axis is averaged.
    confidence : float

    Returns
    -------
    Interval
        Each of shape (...); the ends are NaN where n < 2, the estimate where n is 0.
    """
    check_confidence(confidence)
    values = np.asarray(differences, dtype=np.float64)
    n = values.shape[-1]
    if n == 0:
        empty = np.full(values.shape[:-1], np.nan)
        return Interval(empty, empty, empty)
    mean = values.mean(axis=-1)
    if n < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = stdtrit(n - 1, (1 + confidence) / 2) * values.std(axis=-1, ddof=1) / np.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired_proportion_interval(
    only_first: ArrayLike, only_second: ArrayLike, n: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Adjusted Wald interval of the difference of two paired proportions (Bonett & Price 2012).

    With `only_first` and `only_second` the discordant pairs, the estimate is ``(only_first - only_second) / n``; the
    interval adds one to each discordant cell, ``p = (cell + 1) / (n + 2)``, and is
    ``p1 - p2 +- z sqrt((p1 + p2 - (p1 - p2)^2) / (n + 2))``.

    Parameters
    ----------
    only_first, only_second : array_like of int
        Pairs that are a success only in the first, only in the second, condition.
    n : array_like of int
        All pairs.
    confidence : float

    Returns
    -------
    Interval
        Difference first minus second, within [-1, 1]. The interval's centre is shrunk towards 0, so with few pairs
        that are all discordant in one direction the plain estimate may lie at or past its end. NaN where `n` is 0.

    Raises
    ------
    OptionError
        If counts are negative or exceed `n`.
    """
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    first, second = np.asarray(only_first, dtype=np.float64), np.asarray(only_second, dtype=np.float64)
    total = np.asarray(n, dtype=np.float64)
    if np.any(first < 0) or np.any(second < 0) or np.any(first + second > total):
        raise OptionError("Discordant pairs must be counts that add up to at most the number of pairs.")
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = (first - second) / total
        p1, p2 = (first + 1) / (total + 2), (second + 1) / (total + 2)
        half = z * np.sqrt((p1 + p2 - (p1 - p2) ** 2) / (total + 2)) + 0.0 * estimate
    return Interval(estimate, np.maximum(p1 - p2 - half, -1.0), np.minimum(p1 - p2 + half, 1.0))


def spearman_interval(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval:
    """Spearman's rank correlation with the interval of Bonett & Wright (2000).

    On Fisher's z scale the standard error is ``sqrt((1 + rho^2 / 2) / (n - 3))``.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Finite, neither constant.
    confidence : float

    Returns
    -------
    Interval
        The ends are NaN where n < 4.

    Raises
    ------
    DataError
        If the shapes differ or a side is constant, where the correlation is not defined.
    """
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2 or not np.ptp(first) * np.ptp(second) > 0:
        raise DataError("A rank correlation needs two lists of equal length, neither constant.")
    from scipy.stats import rankdata  # slow to import, and only needed here

    rho = np.float64(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
    if len(first) < 4:
        return Interval(np.asarray(rho), np.asarray(np.nan), np.asarray(np.nan))
    half = z * np.sqrt((1 + rho**2 / 2) / (len(first) - 3))
    centre = np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15))
    return Interval(np.asarray(rho), np.asarray(np.tanh(centre - half)), np.asarray(np.tanh(centre + half)))


def bootstrap_interval(
    replicates: ArrayLike, estimate: ArrayLike, confidence: float = 0.95, *, method: BootstrapMethod = "bc"
) -> Interval:
    """Bootstrap interval from replicates along the first axis.

    Parameters
    ----------
    replicates : array_like, shape (B, ...)
        NaN replicates are left out.
    estimate : array_like, shape (...)
    confidence : float
    method : {"bc", "percentile", "basic"}
        Bias-corrected percentile (Efron 1981), percentile, or reversed percentile.

    Returns
    -------
    Interval
        NaN where no replicate is defined. With "bc", replicates that all lie on one side of the estimate give the
        interval from the outermost replicates.
    """
    tail = (1 - check_confidence(confidence)) / 2
    drawn, centre = np.asarray(replicates, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if method == "bc":
        low, high = _bias_corrected(drawn, centre, tail)
    elif method in ("percentile", "basic"):
        low, high = _quantiles(drawn, np.array([tail, 1 - tail]))
        if method == "basic":
            low, high = 2 * centre - high, 2 * centre - low
    else:
        raise OptionError("There is no such bootstrap method.", wanted="bc, percentile or basic", got=repr(method))
    undefined = np.isnan(centre)
    return Interval(centre, np.where(undefined, np.nan, low), np.where(undefined, np.nan, high))


def _quantiles(drawn: FloatArray, levels: FloatArray) -> FloatArray:
    if drawn.shape[0] == 0 or drawn.size == 0:
        return np.full((len(levels), *drawn.shape[1:]), np.nan)
    missing = np.isnan(drawn)
    if not missing.any():
        result: FloatArray = np.quantile(drawn, levels, axis=0)
        return result
    # nanquantile is slow and warns on all-NaN columns: sorting puts NaN last, and the counts do the rest.
    return np.stack([_sorted_quantile(np.sort(drawn, axis=0), (~missing).sum(axis=0), level) for level in levels])


def _sorted_quantile(ordered: FloatArray, n: NDArray[np.int64], level: ArrayLike) -> FloatArray:
    """Linear quantile of the first `n` of each sorted column."""
    position = np.clip(np.asarray(level) * (n - 1), 0, None)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(n - 1, 0))
    lower = np.take_along_axis(ordered, below[None], axis=0)[0]
    upper = np.take_along_axis(ordered, above[None], axis=0)[0]
    with np.errstate(invalid="ignore"):
        between = np.where(above > below, lower + (upper - lower) * (position - below), lower)
    return np.where(n > 0, between, np.nan)


def _bias_corrected(drawn: FloatArray, centre: FloatArray, tail: float) -> tuple[FloatArray, FloatArray]:
    if drawn.shape[0] == 0:
        return np.full(centre.shape, np.nan), np.full(centre.shape, np.nan)
    n = (~np.isnan(drawn)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = ((drawn < centre).sum(axis=0) + (drawn == centre).sum(axis=0) / 2) / n
        shift = ndtri(np.clip(below, 1 / (2 * n), 1 - 1 / (2 * n)))
    z = float(ndtri(1 - tail))
    ordered = np.sort(drawn, axis=0)
    shift = np.nan_to_num(shift)
    return _sorted_quantile(ordered, n, ndtr(2 * shift - z)), _sorted_quantile(ordered, n, ndtr(2 * shift + z))


def empirical_p(observed: ArrayLike, null: ArrayLike, *, alternative: Alternative = "greater") -> FloatArray:
    """Monte Carlo p value ``(r + 1) / (n + 1)`` (Davison & Hinkley 1997; never 0).

    Parameters
    ----------
    observed : array_like, shape (...)
    null : array_like, shape (n, ...)
        Draws under the null. Undefined (NaN) draws count as at least as extreme, which errs on the safe side.
    alternative : {"greater", "less", "two-sided"}
        "two-sided" doubles the smaller one-sided value, at most 1.

    Returns
    -------
    ndarray of float64, shape (...)
        NaN where `observed` is.
    """
    value, draws = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    n = draws.shape[0]
    if alternative not in ("greater", "less", "two-sided"):
        raise OptionError("There is no such alternative.", wanted="greater, less or two-sided", got=repr(alternative))
    upper = ((~(draws < value)).sum(axis=0) + 1) / (n + 1)
    lower = ((~(draws > value)).sum(axis=0) + 1) / (n + 1)
    p = {"greater": upper, "less": lower}.get(alternative)
    if p is None:
        p = np.minimum(2 * np.minimum(upper, lower), 1.0)
    return np.where(np.isnan(value), np.nan, p)


def bh_qvalues(p: ArrayLike) -> FloatArray:
    """Benjamini-Hochberg adjusted p values (1995); NaN stays NaN and does not count as a test.

    Parameters
    ----------
    p : array_like
        Any shape; all entries are one family.

    Returns
    -------
    ndarray of float64
        Same shape as `p`.
    """
    values = np.asarray(p, dtype=np.float64)
    result = np.full(values.shape, np.nan)
    tested = ~np.isnan(values)
    if tested.any():
        from scipy.stats import false_discovery_control  # slow to import, and only needed here

        result[tested] = false_discovery_control(values[tested], method="bh")
    return result
