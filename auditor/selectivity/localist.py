"""Localist units: one class apart from all others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.special import gammaln

from auditor.selectivity.base import FloatArray
from auditor.selectivity.responses import LabelledResponses, Measured, ResponseMetric, best_class


class Localist(ResponseMetric):
    """Whether the range of responses to some class is disjoint from the range of every other class: 1 or 0.

    Beside it ``gap``, in units of the response: the distance of the best class's range from the nearest other range,
    negative where they overlap (by that much, seen in the order of the ranges' lower ends).

    Notes
    -----
    The class may lie above, below or between the others. The null is analytic, so nothing is shuffled: a class of n of
    N images is apart by chance only if its images stand side by side in the order of responses, with probability
    ``(N - n + 1) / binom(N, n)``; ``null`` is the sum over classes, at most 1, an upper bound which is also the p value
    of a localist unit (that of any other unit is 1). There is no interval: it is a statement about this sample.
    """

    name: ClassVar[str] = "localist"
    label: ClassVar[str] = "localist (1 yes, 0 no)"
    reference: ClassVar[str] = "Bowers et al. 2014, Neural networks learn highly selective representations"
    signed: ClassVar[bool] = True

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        present = np.flatnonzero(data.count)
        by_class = [data.responses[data.members[k]] for k in present]
        low = np.stack([rows.min(axis=0) for rows in by_class]).astype(np.float64)
        high = np.stack([rows.max(axis=0) for rows in by_class]).astype(np.float64)
        order = np.lexsort((high, low), axis=0)
        low, high = np.take_along_axis(low, order, axis=0), np.take_along_axis(high, order, axis=0)
        gap = np.full(low.shape, np.inf)
        gap[1:] = low[1:] - np.maximum.accumulate(high, axis=0)[:-1]
        gap[:-1] = np.minimum(gap[:-1], low[1:] - high[:-1])
        each = np.full((data.n_classes, low.shape[1]), np.nan)
        np.put_along_axis(each, present[order], gap, axis=0)
        best, preferred = best_class(each)
        value = (best > 0).astype(np.float64)
        by_chance = chance_of_localist(data.count)
        return Measured(
            value,
            preferred,
            per_class=np.where(np.isnan(each), np.nan, each > 0),
            null_mean=np.full(len(value), by_chance),
            p=np.where(value > 0, by_chance, 1.0),
            extras={"gap": best},
        )

    def null(self, data: LabelledResponses, *, n: int, seed: int) -> FloatArray:
        """No draws: the null is analytic."""
        return np.empty((0, data.responses.shape[1]))


def chance_of_localist(count: np.ndarray) -> float:
    """Upper bound of the chance that random labels set some class apart, from the images of each class (C,)."""
    n = count[count > 0].astype(np.float64)
    total = n.sum()
    log_choices = gammaln(total + 1) - gammaln(n + 1) - gammaln(total - n + 1)
    return float(min(1.0, np.exp(np.log(total - n + 1) - log_choices).sum()))
