"""Class-conditional mean activity selectivity: the index against all other images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray, Metric, pick_class, preferred_class
from auditor.selectivity.index import EPS


class CCMAS(Metric):
    """The class selectivity index with the rest averaged over images, not over classes.

    ``(mu_max - mu_others) / (mu_max + mu_others + eps)``, where ``mu_others`` is the mean response to all images of
    the other classes. Equal to the class selectivity index where every class has as many images.

    Parameters
    ----------
    eps : float
        Guards the division.
    """

    name: ClassVar[str] = "ccmas"
    label: ClassVar[str] = "CCMAS"
    reference: ClassVar[str] = "Gale et al. 2020, Are there any 'object detectors' in the hidden layers of CNNs?"

    def __init__(self, *, eps: float = EPS) -> None:
        self.eps = eps

    def score(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> tuple[FloatArray, IntArray]:
        """Score every unit; see :meth:`auditor.selectivity.base.Metric.score`."""
        preferred = preferred_class(mean, count)
        present = (np.asarray(count) > 0)[..., None]
        largest = np.where(present, mean, -np.inf).max(axis=-2)
        weight = np.broadcast_to(_weights(count), mean.shape)
        n_in = np.take_along_axis(weight, np.maximum(preferred, 0)[..., None, :], axis=-2)[..., 0, :]
        result = self._against_others(mean, count, largest, n_in)
        return np.maximum(result, 0.0), preferred

    def values_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> FloatArray:
        """CCMAS of the given class; negative where the other images respond more."""
        n_in = np.asarray(count, dtype=np.float64)[..., np.maximum(preferred, 0)]
        return self._against_others(mean, count, pick_class(mean, count, preferred), n_in)

    def _against_others(
        self, mean: FloatArray, count: NDArray[np.generic], chosen: FloatArray, n_in: FloatArray
    ) -> FloatArray:
        weight = _weights(count)
        kept = np.where(weight > 0, mean, 0.0)
        n_out = weight.sum(axis=-2) - n_in
        with np.errstate(invalid="ignore", divide="ignore"):
            others = np.maximum((weight * kept).sum(axis=-2) - n_in * chosen, 0.0) / n_out
            result: FloatArray = (chosen - others) / (chosen + others + self.eps)
        undefined = (kept.max(axis=-2) <= 0) | (kept.min(axis=-2) < 0) | (n_out <= 0)
        return np.where(undefined, np.nan, result)


def _weights(count: NDArray[np.generic]) -> FloatArray:
    return np.asarray(count, dtype=np.float64)[..., None]
