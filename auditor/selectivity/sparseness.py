"""Lifetime sparseness: a control that knows no classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray, Metric, preferred_class


class LifetimeSparseness(Metric):
    """How unevenly a unit's response is spread over images: 0 for the same response to all, 1 for a response to one.

    ``(1 - mean(r)^2 / mean(r^2)) / (1 - 1 / N)`` over all N images.

    Notes
    -----
    Defined for non-negative responses. It does not depend on the labels, so there is no null; resamples of the
    interval keep the number of images of each class. The preferred class is the one with the largest mean.
    """

    name: ClassVar[str] = "sparseness"
    label: ClassVar[str] = "lifetime sparseness"
    reference: ClassVar[str] = "Vinje & Gallant 2000, Sparse coding and decorrelation in primary visual cortex"
    needs_variance: ClassVar[bool] = True
    has_null: ClassVar[bool] = False

    def score(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> tuple[FloatArray, IntArray]:
        """Score every unit; see :meth:`auditor.selectivity.base.Metric.score`."""
        return self.values(mean, variance, count), preferred_class(mean, count)

    def values(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Values only, without the search for the preferred class."""
        n = np.asarray(count, dtype=np.float64)[..., None]
        total = n.sum(axis=-2)
        kept = np.where(n > 0, mean, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = np.where(n > 0, n * kept**2, 0.0) + np.where(n > 1, variance * (n - 1), 0.0)
            average = (n * kept).sum(axis=-2) / total
            ratio = average**2 / (squares.sum(axis=-2) / total)
            result: FloatArray = np.clip((1.0 - ratio) / (1.0 - 1.0 / total), 0.0, 1.0)
        few = (np.asarray(count) > 0).sum(axis=-1)[..., None] < 2
        undefined = (kept.max(axis=-2) <= 0) | (kept.min(axis=-2) < 0) | few
        return np.where(undefined, np.nan, result)

    def values_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> FloatArray:
        """Sparseness again: it is the same whatever the class."""
        return np.where(preferred >= 0, self.values(mean, variance, count), np.nan)
