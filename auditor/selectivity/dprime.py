"""Sensitivity index d': defined for signed responses too."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray, Metric, dead_units, pick_class, preferred_class


class DPrime(Metric):
    """How far the responses to one class stand from those to all other images, in standard deviations.

    ``(mu_in - mu_out) / sqrt((var_in + var_out) / 2)`` for each class against all images of the others; the unit's
    value is the largest over classes, and that class is the preferred one (which need not have the largest mean).

    Notes
    -----
    Classes with fewer than two images cannot be the preferred one but do count among the others. NaN where no class
    has a spread: a constant unit. A maximum is taken, so noise scores above 0; read it beside its null.
    """

    name: ClassVar[str] = "dprime"
    label: ClassVar[str] = "d'"
    reference: ClassVar[str] = "Green & Swets 1966, Signal Detection Theory and Psychophysics"
    signed: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    needs_variance: ClassVar[bool] = True

    def score(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> tuple[FloatArray, IntArray]:
        """Score every unit; see :meth:`auditor.selectivity.base.Metric.score`."""
        each = self._each_class(mean, variance, count)
        best: FloatArray = each.max(axis=-2)
        undefined = ~np.isfinite(best) | dead_units(mean, count)
        # Without any spread there is still a class of the largest mean.
        preferred = np.where(np.isfinite(best), each.argmax(axis=-2), preferred_class(mean, count))
        return np.where(undefined, np.nan, best), preferred.astype(np.int64)

    def values_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> FloatArray:
        """Sensitivity to the given class; negative where the other images respond more."""
        chosen = pick_class(self._each_class(mean, variance, count), count, preferred)
        return np.where(np.isfinite(chosen), chosen, np.nan)

    @staticmethod
    def _each_class(mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Sensitivity to every class, shape (..., C, U); -inf where undefined."""
        n_in = np.asarray(count, dtype=np.float64)[..., None]
        present = n_in > 0
        n_all = n_in.sum(axis=-2, keepdims=True)
        n_out = n_all - n_in
        with np.errstate(invalid="ignore", divide="ignore"):
            grand = np.where(present, n_in * mean, 0.0).sum(axis=-2, keepdims=True) / n_all
            # Around the grand mean, so that taking a class out of the totals cancels little.
            centred = np.where(present, mean - grand, 0.0)
            mean_out = -n_in * centred / n_out
            squares = n_in * centred**2 + np.where(n_in > 1, variance, 0.0) * (n_in - 1)
            squares_out = squares.sum(axis=-2, keepdims=True) - squares - n_out * mean_out**2
            spread = (variance + np.maximum(squares_out, 0.0) / (n_out - 1)) / 2
            each = (centred - mean_out) / np.sqrt(spread)
        # Rounding leaves a constant unit a spread of about eps times its mean.
        tiny = (8 * np.finfo(np.float64).eps * np.abs(grand)) ** 2
        usable = (n_in > 1) & (n_out > 1) & (spread > tiny)
        return np.where(usable, each, -np.inf)
