"""Sensitivity index d': defined for signed responses too."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray, Metric, dead_units, pick_class, preferred_class

# Entries of one array that are worked on together; half a megabyte of them.
PART = 2**16


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

    def values(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Values only, of a few draws at a time: what is worked on stays in the processor's cache."""
        return self._in_parts(mean, variance, count, None)[0]

    def values_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> FloatArray:
        """Sensitivity to the given class; negative where the other images respond more."""
        return self.values_and_at(mean, variance, count, preferred)[1]

    def values_and_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Both at once, at the cost of one."""
        return self._in_parts(mean, variance, count, preferred)

    def _in_parts(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray | None
    ) -> tuple[FloatArray, FloatArray]:
        shape = mean.shape[:-2]
        means, variances = (each.reshape(-1, *each.shape[-2:]) for each in (mean, variance))
        # Usually all draws have the same counts.
        counts = None if np.ndim(count) == 1 else np.broadcast_to(count, mean.shape[:-1]).reshape(means.shape[:-1])
        best, chosen = np.empty((2, len(means), mean.shape[-1]))
        size = max(1, PART // max(1, means[:1].size))
        for start in range(0, len(means), size):
            part = slice(start, start + size)
            number = np.asarray(count) if counts is None else counts[part]
            each = self._each_class(means[part], variances[part], number)
            top = each.max(axis=-2)
            best[part] = np.where(np.isfinite(top) & ~dead_units(means[part], number), top, np.nan)
            if preferred is not None:
                picked = pick_class(each, number, preferred)
                chosen[part] = np.where(np.isfinite(picked), picked, np.nan)
        return best.reshape(*shape, -1), chosen.reshape(*shape, -1)

    @staticmethod
    def _each_class(mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Sensitivity to every class, shape (..., C, U); -inf where undefined."""
        n_in = np.asarray(count, dtype=np.float64)[..., None]
        n_all = n_in.sum(axis=-2, keepdims=True)
        n_out = n_all - n_in
        if not (n_in > 1).all():  # what absent and single images leave undefined must not spread to the others
            mean, variance = np.where(n_in > 0, mean, 0.0), np.where(n_in > 1, variance, 0.0)
        weights = np.swapaxes(n_in, -1, -2)
        with np.errstate(invalid="ignore", divide="ignore"):
            grand = (weights / n_all) @ mean
            # Around the grand mean, so that taking a class out of the totals cancels little.
            each = np.where(n_in > 0, mean - grand, 0.0)
            squares = each * each
            total = weights @ squares + np.maximum(weights - 1, 0.0) @ variance
            # The sum of squares of the other classes around their own mean; in place, there are many of them.
            squares *= n_in + n_in**2 / n_out
            np.subtract(total, squares, out=squares)
            inside = variance * np.maximum(n_in - 1, 0.0)
            squares -= inside
            np.maximum(squares, 0.0, out=squares)
            squares /= 2 * (n_out - 1)
            np.divide(variance, 2, out=inside)
            squares += inside
            # Rounding leaves a constant unit a spread of about eps times its mean.
            tiny = (8 * np.finfo(np.float64).eps * np.abs(grand)) ** 2
            usable = (n_in > 1) & (n_out > 1) & (squares > tiny)
            np.sqrt(squares, out=squares)
            each *= n_all / n_out
            each /= squares
        np.copyto(each, -np.inf, where=~usable)
        return each
