"""What scoring finds, and the steps that all metrics share."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import AnyMetric, FloatArray, IntArray
from auditor.stats.intervals import bootstrap_interval, empirical_p

NULL_QUANTILE = 0.95
# Permutations of a rarely firing unit's few responses tie with what was observed but for rounding (single precision).
TIE = 1e-6


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Selectivity of every unit; arrays have shape (U,) unless said otherwise.

    Attributes
    ----------
    value : ndarray of float64
        The metric. NaN for dead units, and for units with negative responses where the metric cannot take them;
        everything below but `preferred` is NaN there too.
    preferred : ndarray of int64
        Preferred class, -1 for dead units.
    low, high : ndarray of float64
        Confidence interval of the population value; see :func:`auditor.selectivity.scoring.score_units`.
    null_mean, null_high : ndarray of float64
        Mean and 95 % quantile over label shuffles; the quantile is NaN where the null is analytic.
    excess : ndarray of float64
        ``value - null_mean``.
    p : ndarray of float64
        One-sided p value of `value`: Monte Carlo over the shuffles, or from the analytic null.
    layer_mean : dict of str to float
        ``estimate``, ``low``, ``high``, ``null_mean``, ``null_high`` of the mean over defined units. For a
        :class:`~auditor.selectivity.responses.ResponseMetric` the ends of the interval are NaN, because images are not
        resampled; for one of ranks ``null_high`` is too.
    layer_boot : ndarray of float64, shape (n_boot,)
        Bootstrap replicates of that mean, NaN where no unit is defined or images are not resampled. Sites scored on
        the same images with the same seed share their resamples, so replicates can be averaged or subtracted one by
        one.
    extras : dict of str to ndarray
        Further columns of the metric, such as a threshold; NaN where `value` is.
    per_class : ndarray of float64, shape (C, U), optional
        The metric for each class, where it has such a form.
    n_shuffles : int
        Label shuffles that `p` rests on: fewer than asked for where a metric states a maximum, 0 where the null is
        analytic or absent.
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
    extras: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    per_class: FloatArray | None = None
    n_shuffles: int = 0


class LayerMean:
    """Mean over units per replicate, summed over blocks of units."""

    def __init__(self, n: int) -> None:
        self.total = np.zeros(n)
        self.defined = np.zeros(n)

    def add(self, replicates: FloatArray) -> None:
        """Add units; `replicates` has shape (n, units)."""
        self.total += np.nansum(replicates, axis=1)
        self.defined += (~np.isnan(replicates)).sum(axis=1)

    @property
    def replicates(self) -> FloatArray:
        """Mean of each replicate, NaN where no unit is defined."""
        return np.divide(self.total, self.defined, out=np.full_like(self.total, np.nan), where=self.defined > 0)

    @property
    def means(self) -> FloatArray:
        """Means of the replicates that have a defined unit."""
        return self.total[self.defined > 0] / self.defined[self.defined > 0]


def null_summary(value: FloatArray, null: FloatArray) -> dict[str, FloatArray]:
    """Mean, quantile, excess and p value of (U,) values against draws of shape (n, U)."""
    if null.size == 0:
        missing = np.full(len(value), np.nan)
        return {"null_mean": missing, "null_high": missing, "excess": missing, "p": missing}
    null_mean = null.mean(axis=0) if not np.isnan(null).any() else np.nanmean(null, axis=0)
    null_high = bootstrap_interval(null, value, 2 * NULL_QUANTILE - 1, method="percentile").high
    p = empirical_p(value - TIE * np.maximum(1.0, np.abs(value)), null)
    return {"null_mean": null_mean, "null_high": null_high, "excess": value - null_mean, "p": p}


def reach_chance(
    low: FloatArray, high: FloatArray, p: FloatArray, chance: FloatArray | float, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Extend intervals to chance where the test does not reject it at the same level."""
    kept = p > 1 - confidence
    # NaN compares false, and fmin/fmax would turn a missing end into chance.
    return np.where(kept & (low > chance), chance, low), np.where(kept & (high < chance), chance, high)


def layer_summary(
    metric: AnyMetric, value: FloatArray, null_means: FloatArray, boot_means: FloatArray, confidence: float
) -> dict[str, float]:
    """Estimate, interval and null of the mean over units."""
    estimate = float(np.nanmean(value)) if not np.isnan(value).all() else float("nan")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = float(z * boot_means.std(ddof=1)) if len(boot_means) > 1 else float("nan")
    lowest, highest = metric.bounds
    return {
        "estimate": estimate,
        "low": max(estimate - half, lowest) if half == half else half,
        "high": min(estimate + half, highest) if half == half else half,
        "null_mean": float(null_means.mean()) if len(null_means) else float("nan"),
        "null_high": float(np.quantile(null_means, NULL_QUANTILE)) if len(null_means) else float("nan"),
    }
