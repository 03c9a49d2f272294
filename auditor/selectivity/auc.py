"""Area under the ROC curve of one class against the rest."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.analytic import auc_interval
from auditor.selectivity.base import FloatArray, IntArray
from auditor.selectivity.ranks import Ties
from auditor.selectivity.responses import (
    LabelledResponses,
    Measured,
    RankMetric,
    best_class,
    cumulative_hits,
    label_sequences,
    sums_with_ties,
)


class AUC(RankMetric):
    """Chance that an image of the best class excites the unit more than one of the others does; ties count half.

    Equal to ``sklearn.metrics.roc_auc_score`` of that class against the rest.

    Notes
    -----
    The null is exact and as large as asked for; each group of tied images of a unit adds to its time. The interval is
    analytic, with the class held fixed: DeLong's on the scale of log odds; see
    :func:`auditor.selectivity.analytic.auc_interval`. With gamma responses (areas 0.51 to 0.92, units firing on 30 or
    100 % of images) it covers the population area for 92-98 % of units.
    """

    name: ClassVar[str] = "auc"
    label: ClassVar[str] = "ROC-AUC of the best class"
    reference: ClassVar[str] = "Hanley & McNeil 1982, The meaning and use of the area under a ROC curve"
    signed: ClassVar[bool] = True
    chance: ClassVar[float] = 0.5

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        n_images, n_units = data.responses.shape
        heights = n_images - (data.ranks.more + data.ranks.at_least + 1) / 2
        areas = np.full((data.n_classes, n_units), np.nan)
        for k in np.flatnonzero(data.count):
            areas[k] = _area(heights[:, data.members[k]].sum(axis=1), int(data.count[k]), n_images)
        value, preferred = best_class(areas)
        n_in = data.count[preferred]
        low, high = auc_interval(value, _variance(data, preferred), n_in, n_images - n_in, confidence)
        return Measured(value, preferred, low=low, high=high, per_class=areas)

    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Area of the best class under random label sequences."""
        n_images, count = len(labels), np.bincount(labels, minlength=n_classes)
        height = n_images - np.arange(1.0, n_images + 1)[:, None]
        null = np.empty((n, ties.n_units))
        for which, drawn in label_sequences(labels, n=n, seed=seed):
            best = np.zeros((ties.n_units, drawn.shape[1]))
            for k in np.flatnonzero(count):
                hits = cumulative_hits(drawn, int(k))
                worth = np.where(drawn == k, height, 0.0)
                total = sums_with_ties(ties, hits, worth, lambda _, start, end: n_images - (start + end + 1) / 2)
                np.maximum(best, _area(total, int(count[k]), n_images), out=best)
            null[which] = best.T
        return null


def _area(heights: FloatArray, n_in: int, n_images: int) -> FloatArray:
    """Area from the sum over a class of how many images each of its images exceeds, ties counting half."""
    return (heights - n_in * (n_in - 1) / 2) / (n_in * (n_images - n_in))


def _variance(data: LabelledResponses, chosen: IntArray) -> FloatArray:
    """Sampling variance of the area of each unit's chosen class (DeLong et al. 1988); NaN for a class of one image."""
    more, at_least = data.ranks.more, data.ranks.at_least
    n_units, n_images = more.shape
    inside = data.labels[None, :] == chosen[:, None]
    n_in = inside.sum(axis=1)
    row = np.arange(n_units)[:, None] * (n_images + 1)
    passed = np.bincount((row + at_least)[inside], minlength=n_units * (n_images + 1)).reshape(n_units, -1)
    np.cumsum(passed, axis=1, out=passed)  # images of the class among the so many most active
    above = (np.take_along_axis(passed, more, axis=1) + np.take_along_axis(passed, at_least, axis=1)) / 2
    others_above = (more + at_least) / 2 - above
    with np.errstate(invalid="ignore", divide="ignore"):
        n_out = n_images - n_in
        spread_in = _variance_where(others_above, inside, n_in) / n_out**2
        spread_out = _variance_where(above, ~inside, n_out) / n_in**2
        variance: FloatArray = spread_in / n_in + spread_out / n_out
    return variance


def _variance_where(values: FloatArray, where: NDArray[np.bool_], n: IntArray) -> FloatArray:
    """Variance (``ddof=1``) of the selected entries of each row."""
    mean = values.sum(axis=1, where=where) / n
    squares: FloatArray = np.square(values - mean[:, None]).sum(axis=1, where=where)
    return squares / (n - 1)
