"""Bounds on the mean of a finite population that hold at all sample sizes at once, by betting.

Let a population of N numbers, none negative, be drawn one by one without replacement, and let its mean be at most m.
Before draw i, with a sum of S seen so far, the mean of those left is at most ``m_i = (N m - S) / (N - i + 1)``.
So a fraction f of one's capital, staked on the next number y at the odds ``y / m_i``, is expected to bring back no more
than was staked: the capital ``prod_i (1 - f + f y_i / m_i)`` is a nonnegative supermartingale. By Ville's inequality it
ever reaches 1 / alpha with probability at most alpha, whatever the population and however one chooses when to look.
This is the betting martingale without replacement of Waudby-Smith & Ramdas (2024, "Estimating means of bounded random
variables by betting", J. R. Stat. Soc. B 86), after their "Confidence sequences for sampling without replacement"
(NeurIPS 2020). The right fraction is not known, so the capital is split evenly over several (their diversified Kelly
bet): a mean of supermartingales is one. No bound from above is needed, and none on the variance.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from auditor.errors import DataError, OptionError
from auditor.stats.intervals import Interval, check_confidence, paired_mean_interval

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Fractions staked. Kelly's best is about excess / variance in units of the null mean, which spans orders of magnitude;
# a factor of 2 between neighbours loses little of its growth, and seven bets cost at most a factor of 7 in capital.
FRACTIONS = 0.5 ** np.arange(7)
# A capital beyond this is not told apart; it keeps products finite and can only lower them.
MOST_CAPITAL = 1e150
# Sums that differ by less, relative to the population's sum under the null, differ by rounding only.
ROUNDING = 1e-9
HALVINGS = 20
FEW = 64  # populations, of which several means are tried at once
# Pairs compared at once: their capital should stay in the processor's cache.
PAIRS = 1 << 13


def capital(outcomes: Iterable[FloatArray], mean: ArrayLike, n_population: int) -> FloatArray:
    """Capital won against the claim that a population of nonnegative numbers has at most this mean.

    Parameters
    ----------
    outcomes : iterable of ndarray of float64, each of shape S
        One array per draw, in the order of drawing (uniformly at random, without replacement); not negative.
    mean : array_like, broadcast to shape S
        The claimed mean of each population.
    n_population : int
        Size N of the population, at least the number of draws.

    Returns
    -------
    ndarray of float64, shape S
        What a capital of 1 has become. If the claim is true, it ever reaches ``1 / alpha`` with probability at most
        alpha over the order of drawing. Infinite where the claim is refuted: the numbers seen alone add up to more.
        It falls as `mean` rises.
    """
    claimed = np.asarray(mean, dtype=np.float64) * n_population
    total = np.zeros_like(claimed)
    owned = np.full((len(FRACTIONS), *claimed.shape), 1 / len(FRACTIONS))
    stakes = FRACTIONS.reshape(-1, *[1] * claimed.ndim)
    change = np.empty_like(owned)
    tiny = ROUNDING * np.abs(claimed)
    for drawn, outcome in enumerate(outcomes):
        left = claimed - total
        # Where nothing is left to be expected there are no odds, and nothing is staked.
        gain = np.divide(outcome * (n_population - drawn), left, out=np.ones_like(left), where=left > tiny) - 1
        np.multiply(stakes, gain, out=change)
        change += 1
        owned *= change
        np.minimum(owned, MOST_CAPITAL, out=owned)
        total = total + outcome
    final: FloatArray = np.where(total - claimed > tiny, np.inf, owned.sum(axis=0))
    return final


def check_bounds(bounds: tuple[ArrayLike, ArrayLike] | None, n_population: int) -> tuple[FloatArray, FloatArray]:
    """Both bounds, low and high, each of shape (N,); infinite where there are none.

    Raises
    ------
    OptionError
        Unless each is one finite number or N of them, low nowhere above high and somewhere below.
    """
    low, high = (np.asarray(side, dtype=np.float64) for side in bounds or (-np.inf, np.inf))
    finite = bounds is None or bool(np.isfinite(low).all() and np.isfinite(high).all())
    shapes = {low.shape, high.shape} <= {(), (n_population,)}
    if not (finite and shapes and np.all(low <= high) and np.any(low < high)):
        wanted = f"low < high, each a number or {n_population} of them"
        raise OptionError("The bounds cannot be used.", wanted=wanted, got=repr(bounds))
    return np.broadcast_to(low, n_population), np.broadcast_to(high, n_population)


def betting_interval(
    values: ArrayLike, bounds: tuple[ArrayLike, ArrayLike], n_population: int, confidence: float = 0.95
) -> Interval:
    """Confidence sequence of the mean of a finite population of bounded numbers, at the present sample size.

    The two ends are those means at which the capital of either bet, on more and on less, falls short of
    ``2 / (1 - confidence)``.

    Parameters
    ----------
    values : array_like, shape (..., n)
        The first n draws, in order, along the last axis; other axes are populations of their own.
    bounds : (low, high), each a number or shape (N,)
        Bounds of each number of the population, in the order of drawing. Where they are known beforehand for each by
        itself, and near it, the interval is narrower.
    n_population : int
        Size N of the population.
    confidence : float
        Probability, over the order of drawing, that the mean is inside at all sample sizes at once. Exact in the sense
        of "at least": no distribution is assumed.

    Returns
    -------
    Interval
        Sample means and ends, each of shape (...); all equal where n is N.

    Raises
    ------
    OptionError
        If the bounds or the confidence level cannot be used.
    DataError
        If there are no values, more than N, or one outside its bounds.
    """
    target = 2 / (1 - check_confidence(confidence))
    drawn = np.asarray(values, dtype=np.float64)
    n = drawn.shape[-1]
    bottom, top = check_bounds(bounds, n_population)
    if not 0 < n <= n_population or not np.all((drawn >= bottom[:n]) & (drawn <= top[:n])):
        raise DataError(
            "A confidence sequence needs values within their bounds.",
            wanted=f"1 to {n_population} values along the last axis, none outside its bounds",
            got=f"shape {drawn.shape}",
        )
    mean = drawn.mean(axis=-1)
    if n == n_population:
        return Interval(mean, mean, mean)
    lower = _least_mean(drawn, bottom, top.mean(), target)
    upper = -_least_mean(-drawn, -top, -bottom.mean(), target)
    return Interval(mean, lower, upper)


def _least_mean(values: FloatArray, bottom: FloatArray, most: float, target: float) -> FloatArray:
    """Largest mean up to which all are excluded: those at which the capital reaches `target`; shape (...)."""
    n = values.shape[-1]
    # Bounds of each number may be near it, or vary where it does not: half the capital is bet on the distance from
    # them, half on that from the outermost one.
    zeros = [bottom, np.full_like(bottom, bottom.min())][: 2 if np.ptp(bottom) > 0 else 1]
    bets = [(np.ascontiguousarray(np.moveaxis(values - zero[:n], -1, 0)), zero.mean()) for zero in zeros]
    # What was seen is certain, so the mean is no less than this.
    low: FloatArray = bottom.mean() + bets[0][0].sum(axis=0) / len(bottom)
    high = np.full_like(low, most)
    parts = 2 if low.size > FEW else 16
    inner = np.arange(1, parts).reshape(-1, *[1] * low.ndim) / parts
    for _ in range(round(HALVINGS / np.log2(parts))):
        between = low + inner * (high - low)
        won = np.mean([capital(outcomes[:, None], between - zero, len(bottom)) for outcomes, zero in bets], axis=0)
        excluded = (won >= target).sum(axis=0)
        low, high = low + excluded / parts * (high - low), low + (excluded + 1) / parts * (high - low)
    return low


def betting_excess(
    first: FloatArray, second: FloatArray, slack: float = 0.0, *, spread: FloatArray, alpha: float
) -> BoolArray:
    """Which means exceed which others for certain, by the capital won on the paired differences.

    A difference is at least minus the distance of its bounds, so with that added it is nonnegative.

    Parameters
    ----------
    first, second : ndarray of float64, shapes (A, n) and (B, n)
        Values on the same n draws from a population of N.
    slack : float
        Claim ``mean(first) > mean(second) - slack``.
    spread : ndarray of float64, shape (N,)
        Distance of the bounds of each number of the population, in the order of drawing.
    alpha : float
        Probability that a pair for which the claim is false is ever told to exceed, at any n.

    Returns
    -------
    ndarray of bool, shape (A, B)
    """
    rows, columns = np.ascontiguousarray(first.T), np.ascontiguousarray(second.T)
    null = float(spread.mean()) - slack
    step = max(PAIRS // max(len(second), 1), 1)
    exceeds = np.zeros((len(first), len(second)), dtype=bool)
    for start in range(0, len(first), step):
        part = rows[:, start : start + step, None]
        shifted = (part[i] - columns[i] + spread[i] for i in range(len(rows)))
        mean = np.full((part.shape[1], len(second)), null)
        exceeds[start : start + step] = capital(shifted, mean, len(spread)) * alpha >= 1
    return exceeds


def t_excess(
    first: FloatArray, second: FloatArray, slack: float = 0.0, *, n_population: int, alpha: float
) -> BoolArray:
    """Which means exceed which others, by Student's t of the paired differences; approximate, and at this n only.

    Parameters
    ----------
    first, second, slack
        See :func:`betting_excess`; n is at least 2.
    n_population : int
    alpha : float
        One-sided level of each pair.

    Returns
    -------
    ndarray of bool, shape (A, B)
    """
    n = first.shape[1]
    means = first.mean(axis=1), second.mean(axis=1)
    a, b = first - means[0][:, None], second - means[1][:, None]
    # Rounding of the product may leave a negative variance where two are alike.
    squares = np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * (a @ b.T), 0)
    error = np.sqrt(squares / (n - 1) / n * (1 - n / n_population))
    exceeds: BoolArray = means[0][:, None] - means[1] + slack > stdtrit(n - 1, 1 - alpha) * error
    return exceeds


def population_t_interval(values: ArrayLike, n_population: int, confidence: float = 0.95) -> Interval:
    """Student t interval of the mean of a finite population, n of N drawn without replacement.

    The standard error is ``sqrt((1 - n / N) / n)`` standard deviations (Cochran 1977, Sampling Techniques, chapter 2).

    Parameters
    ----------
    values : array_like, shape (..., n)
    n_population : int
        Size N.
    confidence : float

    Returns
    -------
    Interval
        Each of shape (...); the ends are NaN where n < 2 < N, the mean where n is N.
    """
    drawn = np.asarray(values, dtype=np.float64)
    mean, low, _ = paired_mean_interval(drawn, confidence)
    if drawn.shape[-1] >= n_population:
        return Interval(mean, mean, mean)
    half = (mean - low) * np.sqrt(1 - drawn.shape[-1] / n_population)
    return Interval(mean, mean - half, mean + half)
