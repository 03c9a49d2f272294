"""Average precision of one class against the rest."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

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
from auditor.stats.intervals import wilson


class AveragePrecision(RankMetric):
    """Mean of the precision at each image of the best class, going down the unit's order of responses.

    Equal to ``sklearn.metrics.average_precision_score`` of that class against the rest: images that tie pass the
    threshold together, nothing is interpolated.

    Notes
    -----
    Chance is the share of the class (column ``prevalence``), so large classes have a head start; the null has it too.
    The null is exact and as large as asked for; each group of tied images of a unit adds to its time. The interval is
    analytic, with the class held fixed: Wilson's with the images of the class as trials, the score form of the
    binomial interval of Boyd, Eng & Page (2013). In the simulations described at
    :class:`~auditor.selectivity.auc.AUC` it covers the population value for 94-100 % of units.
    """

    name: ClassVar[str] = "average_precision"
    label: ClassVar[str] = "average precision of the best class"
    reference: ClassVar[str] = "Boyd, Eng & Page 2013, Area under the precision-recall curve"
    signed: ClassVar[bool] = True

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        n_images, n_units = data.responses.shape
        each = np.full((data.n_classes, n_units), np.nan)
        for k in np.flatnonzero(data.count):
            images, hits = data.ranks.thresholds(data.members[k])
            each[k] = (hits / images).mean(axis=1)
        value, preferred = best_class(each)
        n_in = data.count[preferred]
        _, low, high = wilson(np.clip(value, 0, 1) * n_in, n_in, confidence)
        share = n_in / n_images
        return Measured(
            value, preferred, low=low, high=high, chance=share, per_class=each, extras={"prevalence": share}
        )

    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Best average precision under random label sequences."""
        count = np.bincount(labels, minlength=n_classes)
        place = np.arange(1, len(labels) + 1)[:, None]
        null = np.empty((n, ties.n_units))
        for which, drawn in label_sequences(labels, n=n, seed=seed):
            best = np.full((ties.n_units, drawn.shape[1]), -np.inf)
            for k in np.flatnonzero(count):
                hits = cumulative_hits(drawn, int(k))
                worth = np.where(drawn == k, hits[1:] / place, 0.0)
                total = sums_with_ties(ties, hits, worth, lambda passed, _, end: passed / end)
                np.maximum(best, total / count[k], out=best)
            null[which] = best.T
        return null
