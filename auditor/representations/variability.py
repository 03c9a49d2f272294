"""How much a quantity varies over images or over units, as a coefficient of variation with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from auditor.errors import DataError, OptionError
from auditor.stats import check_confidence

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Variability:
    """A mean coefficient of variation.

    Attributes
    ----------
    estimate, low, high : float
        Mean of `each` and its interval; NaN where nothing is defined.
    each : ndarray of float64
        One coefficient per unit (over images) or per image (over units); NaN where the mean is 0.
    n_undefined : int
        How many of `each` are NaN; they are left out.
    confidence : float
    """

    estimate: float
    low: float
    high: float
    each: FloatArray
    n_undefined: int
    confidence: float

    def to_dict(self) -> dict[str, float | int]:
        """Everything but `each`."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "n_undefined": self.n_undefined,
            "confidence": self.confidence,
        }


def coefficient_of_variation(values: ArrayLike, axis: int, *, confidence: float = 0.95) -> Variability:
    """Standard deviation (``ddof=1``) over mean along one axis, averaged over the other.

    Parameters
    ----------
    values : array_like, shape (images, units)
        Non-negative, such as norms of input-unit gradients.
    axis : {0, 1}
        0: over images, for each unit. 1: over units, for each image.
    confidence : float

    Returns
    -------
    Variability

    Raises
    ------
    DataError
        If there are fewer than two values along `axis`, or one is negative or not finite.
    OptionError
        If `axis` or `confidence` is out of range.

    Notes
    -----
    Both images and units are samples. The interval is normal, on a logarithmic scale; its variance is the sum of two
    jackknife variances, one leaving out images, one units, which errs on the wide side as the variance that only a
    combination of image and unit has is counted in both. Of n values the coefficient is at most ``sqrt(n)``, so for few
    of them with heavy tails it comes out too small.
    """
    check_confidence(confidence)
    if axis not in (0, 1):
        raise OptionError("Values are images by units.", wanted="axis 0 or 1", got=repr(axis))
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[axis] < 2 or table.shape[1 - axis] < 1:
        raise DataError(
            "A coefficient of variation needs two values at least.",
            wanted=f"shape (images, units) with 2 or more along axis {axis}",
            got=f"shape {table.shape}",
        )
    if not np.isfinite(table).all() or table.min() < 0:
        raise DataError("A coefficient of variation needs finite values that are not negative.")
    table = table if axis == 0 else table.T
    each = _coefficients(table.mean(axis=0), ((table - table.mean(axis=0)) ** 2).sum(axis=0), len(table))
    defined = ~np.isnan(each)
    missing = int((~defined).sum())
    if not defined.any():
        return Variability(np.nan, np.nan, np.nan, each, missing, confidence)
    table, kept = table[:, defined], each[defined]
    estimate = float(kept.mean())
    variance = _jackknife_variance(_left_out(table))
    if len(kept) > 1:
        variance += float(kept.var(ddof=1)) / len(kept)
    if estimate == 0:
        return Variability(estimate, np.nan, np.nan, each, missing, confidence)
    ratio = float(np.exp(ndtri((1 + confidence) / 2) * np.sqrt(variance) / estimate))
    return Variability(estimate, estimate / ratio, estimate * ratio, each, missing, confidence)


def _coefficients(mean: FloatArray, squares: FloatArray, n: int) -> FloatArray:
    spread = np.sqrt(np.maximum(squares, 0.0) / (n - 1))
    result: FloatArray = np.divide(spread, mean, out=np.full_like(mean, np.nan), where=mean > 0)
    return result


def _left_out(table: FloatArray) -> FloatArray:
    """Mean coefficient without each row, shape (n,); NaN where none is defined."""
    n = len(table)
    if n < 3:
        return np.full(n, np.nan)
    mean = table.mean(axis=0)
    apart = table - mean
    squares = (apart**2).sum(axis=0) - apart**2 * (n / (n - 1))
    # Rounding can leave a hair of a column whose only value other than 0 is the one left out.
    means = mean - apart / (n - 1)
    each = _coefficients(np.where(means > 1e-12 * mean, means, 0.0), squares, n - 1)
    counted = (~np.isnan(each)).sum(axis=1)
    result: FloatArray = np.divide(np.nansum(each, axis=1), counted, out=np.full(n, np.nan), where=counted > 0)
    return result


def _jackknife_variance(left_out: FloatArray) -> float:
    n = len(left_out)
    return (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
