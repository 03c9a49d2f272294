"""The class selectivity index."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray, Metric, pick_class, preferred_class

EPS = 1e-7


class ClassSelectivityIndex(Metric):
    """How much more a unit responds to its preferred class than to the others.

    ``(mu_max - mu_rest) / (mu_max + mu_rest + eps)``, where ``mu_max`` is the largest class mean and ``mu_rest`` the
    unweighted mean of the other class means. An equal response to k of C classes and none to the rest gives
    ``(C - k) / (C + k - 2)``.

    Parameters
    ----------
    eps : float
        Guards the division.

    Notes
    -----
    Defined for non-negative responses. A maximum of noisy means is taken, so a unit without class signal has a
    positive index; read it beside its label-shuffle null. Units with a negative class mean are NaN.
    """

    name: ClassVar[str] = "index"
    label: ClassVar[str] = "class selectivity index"
    reference: ClassVar[str] = "Morcos et al. 2018, On the importance of single directions for generalization"

    def __init__(self, *, eps: float = EPS) -> None:
        self.eps = eps

    def score(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> tuple[FloatArray, IntArray]:
        """Score every unit; see :meth:`auditor.selectivity.base.Metric.score`."""
        return self.values(mean, variance, count), preferred_class(mean, count)

    def values(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Values only, without the search for the preferred class."""
        present = np.asarray(count) > 0
        n_classes = present.sum(axis=-1)[..., None]
        if present.all():
            total, largest, smallest = mean.sum(axis=-2), mean.max(axis=-2), mean.min(axis=-2)
        else:
            keep = present[..., None]
            total = np.where(keep, mean, 0.0).sum(axis=-2)
            largest = np.where(keep, mean, -np.inf).max(axis=-2)
            smallest = np.where(keep, mean, np.inf).min(axis=-2)
        with np.errstate(invalid="ignore", divide="ignore"):
            # A sum that rounding left below its largest term would make the rest negative and the index exceed 1.
            rest = np.maximum(total - largest, 0.0) / (n_classes - 1)
            result: FloatArray = (largest - rest) / (largest + rest + self.eps)
        undefined = (largest <= 0) | (smallest < 0) | (n_classes < 2)
        result[np.broadcast_to(undefined, result.shape)] = np.nan
        return np.maximum(result, 0.0, out=result)

    def values_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> FloatArray:
        """Index of the given class; negative where the other classes respond more."""
        present = np.asarray(count) > 0
        n_classes = present.sum(axis=-1)[..., None]
        kept = mean if present.all() else np.where(present[..., None], mean, 0.0)
        chosen = pick_class(kept, count, preferred)
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = (kept.sum(axis=-2) - chosen) / (n_classes - 1)
            result: FloatArray = (chosen - rest) / (chosen + rest + self.eps)
        undefined = (kept.max(axis=-2) <= 0) | (kept.min(axis=-2) < 0) | (n_classes < 2)
        return np.where(undefined, np.nan, np.clip(result, -1.0, 1.0))
