"""Score units against a label-shuffle null, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError
from auditor.selectivity.base import FloatArray, IntArray, Metric, dead_units
from auditor.selectivity.index import ClassSelectivityIndex
from auditor.selectivity.resample import bootstrap_moments, class_members, observed_moments, shuffled_moments
from auditor.stats.intervals import bootstrap_interval, check_confidence, empirical_p
from auditor.stats.moments import check_finite

UNIT_BLOCK = 1024
NULL_QUANTILE = 0.95
# Permutations of a rarely firing unit's few responses tie with what was observed but for rounding (single precision).
TIE = 1e-6


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Selectivity of every unit; all arrays have shape (U,).

    Attributes
    ----------
    value : ndarray of float64
        The metric. NaN for dead units, and for units with negative responses where the metric cannot take them;
        everything below but `preferred` is NaN there too.
    preferred : ndarray of int64
        Preferred class, -1 for dead units.
    low, high : ndarray of float64
        Confidence interval of the population value; see :func:`score_units`.
    null_mean, null_high : ndarray of float64
        Mean and 95 % quantile over label shuffles.
    excess : ndarray of float64
        ``value - null_mean``.
    p : ndarray of float64
        One-sided Monte Carlo p value of `value` against the shuffles.
    layer_mean : dict of str to float
        ``estimate``, ``low``, ``high``, ``null_mean``, ``null_high`` of the mean over defined units.
    layer_boot : ndarray of float64, shape (n_boot,)
        Bootstrap replicates of that mean, NaN where no unit is defined. Sites scored on the same images with the same
        seed share their resamples, so replicates can be averaged or subtracted one by one.
    """

    value: FloatArray
    preferred: IntArray
    low: FloatArray
    high: FloatArray
    null_mean: FloatArray
    null_high: FloatArray
    excess: FloatArray
    p: FloatArray
    layer_mean: dict[str, float]
    layer_boot: FloatArray


class _LayerMean:
    """Mean over units per replicate, summed over blocks of units."""

    def __init__(self, n: int) -> None:
        self.total = np.zeros(n)
        self.defined = np.zeros(n)

    def add(self, replicates: FloatArray) -> None:
        self.total += np.nansum(replicates, axis=1)
        self.defined += (~np.isnan(replicates)).sum(axis=1)

    @property
    def replicates(self) -> FloatArray:
        return np.divide(self.total, self.defined, out=np.full_like(self.total, np.nan), where=self.defined > 0)

    @property
    def means(self) -> FloatArray:
        return self.total[self.defined > 0] / self.defined[self.defined > 0]


def score_units(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    n_classes: int,
    metric: Metric,
    n_shuffles: int = 1000,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> UnitScores:
    """Score the units of one site.

    Parameters
    ----------
    responses : array_like, shape (N, U)
    labels : array_like of int, shape (N,)
    n_classes : int
    metric : Metric
    n_shuffles : int
        Label permutations of the null, the same ones for every unit and site of the same labels and seed. 0 leaves
        the null out.
    n_boot : int
        Bootstrap resamples of the images within each class. 0 leaves the intervals out.
    confidence : float
    seed : int

    Returns
    -------
    UnitScores

    Raises
    ------
    DataError
        If shapes do not fit, a label is out of range, fewer than two classes have images or a response is not finite.
    OptionError
        If a count of draws is negative or `confidence` is not within (0, 1).

    Notes
    -----
    *Unit interval.* The percentile bootstrap of the metric with the preferred class held fixed, because resampling the
    maximum adds its upward bias a second time; it is extended to chance where the shuffle test does not reject chance
    at the same level, and to the value itself. With gamma responses (indices 0 to 0.9, one or two preferred classes,
    units firing on 5 to 100 % of images) the 95 % interval covers the population index for 92-99 % of units at 45
    images a class and for 93-96 % at 1,000.

    *Interval of the layer mean.* Estimate +- z times the bootstrap standard deviation of the mean with the maximum
    taken anew. It covers what the same measurement would give on other images of the same number (in 89-99 % of
    simulated layers), sampling floor included, not the floor-free mean: read it beside ``null_mean``.
    """
    data, classes = _checked(responses, labels, n_classes)
    check_confidence(confidence)
    if n_shuffles < 0 or n_boot < 0:
        raise OptionError("Numbers of shuffles and of bootstrap draws cannot be negative.")
    null_layer, boot_layer = _LayerMean(n_shuffles), _LayerMean(n_boot)
    blocks = [
        _score_block(
            np.asarray(data[:, start : start + UNIT_BLOCK], dtype=np.float64),
            classes,
            n_classes=n_classes,
            metric=metric,
            confidence=confidence,
            seed=seed,
            null_layer=null_layer,
            boot_layer=boot_layer,
        )
        for start in range(0, data.shape[1], UNIT_BLOCK)
    ]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    value = joined["value"]
    null_means, z = null_layer.means, NormalDist().inv_cdf((1 + confidence) / 2)
    estimate = float(np.nanmean(value)) if not np.isnan(value).all() else float("nan")
    half = float(z * boot_layer.means.std(ddof=1)) if len(boot_layer.means) > 1 else float("nan")
    lowest, highest = metric.bounds
    layer_mean = {
        "estimate": estimate,
        "low": max(estimate - half, lowest) if half == half else half,
        "high": min(estimate + half, highest) if half == half else half,
        "null_mean": float(null_means.mean()) if len(null_means) else float("nan"),
        "null_high": float(np.quantile(null_means, NULL_QUANTILE)) if len(null_means) else float("nan"),
    }
    return UnitScores(**joined, layer_mean=layer_mean, layer_boot=boot_layer.replicates)


def _checked(responses: ArrayLike, labels: ArrayLike, n_classes: int) -> tuple[NDArray[np.floating], IntArray]:
    data, classes = np.asarray(responses), np.asarray(labels)
    if data.ndim != 2 or classes.shape != data.shape[:1] or data.shape[1] == 0:
        raise DataError(
            "Responses and labels do not fit.",
            wanted="responses (N, U) with at least one unit, and labels (N,)",
            got=f"{data.shape} and {classes.shape}",
        )
    integers = np.issubdtype(classes.dtype, np.integer)
    if not integers or ((classes < 0) | (classes >= n_classes)).any():
        raise DataError("A label is out of range.", wanted=f"integers from 0 to {n_classes - 1}")
    if len(np.unique(classes)) < 2:
        raise DataError("Selectivity needs images of at least two classes.", got=f"{len(np.unique(classes))}")
    return data, classes.astype(np.int64)


def _score_block(
    data: FloatArray,
    labels: IntArray,
    *,
    n_classes: int,
    metric: Metric,
    confidence: float,
    seed: int,
    null_layer: _LayerMean,
    boot_layer: _LayerMean,
) -> dict[str, NDArray[np.generic]]:
    check_finite(data)
    members = class_members(labels, n_classes)
    count = np.array([len(rows) for rows in members])
    mean, variance = observed_moments(data, members)
    value, preferred = metric.score(mean, variance, count)
    unusable = (data == 0).all(axis=0)
    preferred = np.where(unusable, -1, preferred)
    if not metric.signed:
        unusable = unusable | (data < 0).any(axis=0)
    value = np.where(unusable, np.nan, value)
    defined = np.flatnonzero(~np.isnan(value))
    result: dict[str, NDArray[np.generic]] = {"value": value, "preferred": preferred}
    columns = data[:, defined]
    null = _shuffled(columns, labels, n_classes, metric, seed, null_layer)
    null_columns = _null_summary(value[defined], null)
    low, high = _interval(
        columns,
        members,
        count,
        metric=metric,
        value=value[defined],
        preferred=preferred[defined],
        confidence=confidence,
        seed=seed,
        layer=boot_layer,
    )
    keeps_chance = null_columns["p"] > 1 - confidence
    # NaN compares false, and fmin/fmax would turn a missing end into chance.
    low = np.where(keeps_chance & (low > metric.chance), metric.chance, low)
    high = np.where(keeps_chance & (high < metric.chance), metric.chance, high)
    for name, values in {**null_columns, "low": low, "high": high}.items():
        full = np.full(len(value), np.nan)
        full[defined] = values
        result[name] = full
    return result


def _shuffled(
    columns: FloatArray, labels: IntArray, n_classes: int, metric: Metric, seed: int, layer: _LayerMean
) -> FloatArray:
    n, count = len(layer.total), np.bincount(labels, minlength=n_classes)
    null = np.empty((n, columns.shape[1]))
    done = 0
    if n and columns.shape[1]:
        needs = metric.needs_variance
        for mean, variance in shuffled_moments(columns, labels, n_classes, n=n, variance=needs, seed=seed):
            null[done : done + len(mean)] = metric.values(mean, variance, count)
            done += len(mean)
        layer.add(null)
    return null


def _null_summary(value: FloatArray, null: FloatArray) -> dict[str, FloatArray]:
    if null.size == 0:
        missing = np.full(len(value), np.nan)
        return {"null_mean": missing, "null_high": missing, "excess": missing, "p": missing}
    null_mean = null.mean(axis=0) if not np.isnan(null).any() else np.nanmean(null, axis=0)
    null_high = bootstrap_interval(null, value, 2 * NULL_QUANTILE - 1, method="percentile").high
    p = empirical_p(value - TIE * np.maximum(1.0, np.abs(value)), null)
    return {"null_mean": null_mean, "null_high": null_high, "excess": value - null_mean, "p": p}


def _interval(
    columns: FloatArray,
    members: list[IntArray],
    count: IntArray,
    *,
    metric: Metric,
    value: FloatArray,
    preferred: IntArray,
    confidence: float,
    seed: int,
    layer: _LayerMean,
) -> tuple[FloatArray, FloatArray]:
    n = len(layer.total)
    if n == 0 or columns.shape[1] == 0:
        return np.full(len(value), np.nan), np.full(len(value), np.nan)
    free, fixed, done = np.empty((n, len(value))), np.empty((n, len(value))), 0
    for mean, variance in bootstrap_moments(columns, members, n=n, variance=metric.needs_variance, seed=seed):
        rows = slice(done, done + len(mean))
        free[rows] = metric.values(mean, variance, count)
        if metric.has_fixed_class:
            fixed[rows] = metric.values_at(mean, variance, count, preferred)
        done += len(mean)
    layer.add(free)
    if metric.has_fixed_class:
        ends = bootstrap_interval(fixed, value, confidence, method="percentile")
    else:
        ends = bootstrap_interval(free, value, confidence, method="bc")
    # A skewed bootstrap can miss the value it started from; an error bar must not.
    low, high = np.fmin(ends.low, value), np.fmax(ends.high, value)
    return np.clip(low, *metric.bounds), np.clip(high, *metric.bounds)


def heldout_index(mean_score: FloatArray, preferred: IntArray, count: NDArray[np.generic]) -> FloatArray:
    """Class selectivity index on another split, with each unit's class fixed by the first.

    No maximum is taken on these data, so units without class signal average 0: there is no upward bias.

    Parameters
    ----------
    mean_score : ndarray, shape (C, U)
        Class means on the other split.
    preferred : ndarray of int64, shape (U,)
        Preferred class on the first split; negative means none.
    count : ndarray, shape (C,)
        Images per class on the other split.

    Returns
    -------
    ndarray of float64, shape (U,)
        From -1 to 1. NaN for units that are dead or negative there, or whose class has no image there.
    """
    means = np.asarray(mean_score, dtype=np.float64)
    values = ClassSelectivityIndex().values_at(means, np.empty(0), count, np.asarray(preferred))
    return np.where(dead_units(means, count), np.nan, values)
