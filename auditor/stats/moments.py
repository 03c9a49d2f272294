"""Streaming moments per class and unit, mergeable across shards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError

FloatArray = NDArray[np.float64]
_FIELDS = ("count", "mean", "m2", "minimum", "maximum", "nonzero")


class ClassMoments:
    """Count, mean and squared deviation of each unit's responses to each class, in one pass.

    Parameters
    ----------
    n_classes, n_units : int

    Attributes
    ----------
    count : ndarray of int64, shape (C,)
        Images of each class.
    mean, m2 : ndarray of float64, shape (C, U)
        Mean, and sum of squared deviations from it. Zero for classes without images.
    minimum, maximum : ndarray of float64, shape (U,)
        Extremes over all images; +inf and -inf before the first.
    nonzero : ndarray of int64, shape (U,)
        Images with a response other than 0.

    Notes
    -----
    Updates and merges use the pairwise formula of Chan, Golub & LeVeque (1983), so they agree with the one-shot
    result to rounding whatever the batches are.
    """

    def __init__(self, n_classes: int, n_units: int) -> None:
        self.count = np.zeros(n_classes, dtype=np.int64)
        self.mean = np.zeros((n_classes, n_units))
        self.m2 = np.zeros((n_classes, n_units))
        self.minimum = np.full(n_units, np.inf)
        self.maximum = np.full(n_units, -np.inf)
        self.nonzero = np.zeros(n_units, dtype=np.int64)

    def update(self, responses: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch.

        Parameters
        ----------
        responses : array_like, shape (B, U)
        labels : array_like of int, shape (B,)

        Raises
        ------
        DataError
            If a response is not finite, a label is out of range or the shapes do not fit. Nothing is added then.
        """
        batch = np.asarray(responses, dtype=np.float64)
        classes = np.asarray(labels)
        n_classes, n_units = self.mean.shape
        if batch.ndim != 2 or batch.shape[1] != n_units or classes.shape != batch.shape[:1]:
            raise DataError(
                "Responses and labels do not fit.",
                wanted=f"responses (B, {n_units}) and labels (B,)",
                got=f"{batch.shape} and {classes.shape}",
            )
        if len(batch) == 0:
            return
        if not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0 or classes.max() >= n_classes:
            raise DataError("A label is out of range.", wanted=f"integers from 0 to {n_classes - 1}")
        check_finite(batch)
        for k in np.unique(classes):
            rows = batch[classes == k]
            mean = rows.mean(axis=0)
            self._combine(int(k), len(rows), mean, ((rows - mean) ** 2).sum(axis=0))
        np.minimum(self.minimum, batch.min(axis=0), out=self.minimum)
        np.maximum(self.maximum, batch.max(axis=0), out=self.maximum)
        self.nonzero += (batch != 0).sum(axis=0)

    def merge(self, other: ClassMoments) -> None:
        """Add what `other` has seen; `other` is unchanged.

        Raises
        ------
        DataError
            If the numbers of classes or units differ.
        """
        if other.mean.shape != self.mean.shape:
            raise DataError(
                "Moments of different shape cannot be merged.", wanted=str(self.mean.shape), got=str(other.mean.shape)
            )
        for k in np.flatnonzero(other.count):
            self._combine(int(k), int(other.count[k]), other.mean[k], other.m2[k])
        self.minimum = np.minimum(self.minimum, other.minimum)
        self.maximum = np.maximum(self.maximum, other.maximum)
        self.nonzero = self.nonzero + other.nonzero

    def _combine(self, k: int, n: int, mean: FloatArray, m2: FloatArray) -> None:
        before = int(self.count[k])
        total = before + n
        delta = mean - self.mean[k]
        self.mean[k] += delta * (n / total)
        self.m2[k] += m2 + delta**2 * (before * n / total)
        self.count[k] = total

    @property
    def n(self) -> int:
        """Images seen."""
        return int(self.count.sum())

    @property
    def variance(self) -> FloatArray:
        """Variance (``ddof=1``), shape (C, U); NaN where a class has fewer than two images."""
        each = self.count[:, None]
        return np.where(each > 1, self.m2 / np.maximum(each - 1, 1), np.nan)

    @property
    def overall_mean(self) -> FloatArray:
        """Mean over all images, shape (U,); NaN before the first."""
        if self.n == 0:
            return np.full(self.mean.shape[1], np.nan)
        result: FloatArray = self.count @ self.mean / self.n
        return result

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copy of everything needed to go on later; see :meth:`from_state`."""
        return {name: getattr(self, name).copy() for name in _FIELDS}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[np.generic]]) -> ClassMoments:
        """Inverse of :meth:`state`.

        Raises
        ------
        DataError
            If a field is missing or has another shape.
        """
        missing = [name for name in _FIELDS if name not in state]
        if missing or state["mean"].ndim != 2:
            raise DataError("This is no state of class moments.", wanted=", ".join(_FIELDS), got=", ".join(state))
        moments = cls(*state["mean"].shape)
        for name in _FIELDS:
            target = getattr(moments, name)
            if state[name].shape != target.shape:
                raise DataError(
                    f"The field {name!r} of the moments does not fit.",
                    wanted=str(target.shape),
                    got=str(state[name].shape),
                )
            target[...] = state[name]
        return moments


def check_finite(responses: FloatArray) -> None:
    """Raise if a response (N, U) is NaN or infinite.

    Raises
    ------
    DataError
        Naming the first few such units.
    """
    bad = ~np.isfinite(responses).all(axis=0)
    if bad.any():
        units = np.flatnonzero(bad)
        names = ", ".join(str(u) for u in units[:5]) + (", ..." if len(units) > 5 else "")
        raise DataError(
            f"Responses of {len(units)} unit(s) are not finite: {names}.",
            wanted="finite numbers",
            fix="Check the model's weights and the precision it runs in.",
        )
