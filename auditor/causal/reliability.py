"""Does a ranking reproduce? Split-half reliability, and the highest correlation that it leaves room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.causal.correlation import layer_correlations
from auditor.causal.pooling import Pooled
from auditor.errors import DataError
from auditor.stats import Interval

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SplitHalf:
    """Reliability of a measurement of units, from its values on two halves of the images.

    Attributes
    ----------
    table : DataFrame
        One row per layer: `site`, `n_units`, `rho` of the halves with `low`, `high` (units resampled); `reliability` of
        the whole (Spearman-Brown) with `reliability_low`, `reliability_high`; `reason` why undefined.
    halves : Pooled
        Random-effects mean of `rho` over layers.
    reliability : Interval
        Spearman-Brown correction of the mean and of its ends.
    """

    table: pd.DataFrame
    halves: Pooled
    reliability: Interval

    def to_dict(self) -> dict[str, object]:
        """Plain summary, without the table."""
        names = ("reliability", "reliability_low", "reliability_high")
        return {"halves": self.halves.to_dict(), **dict(zip(names, map(float, self.reliability), strict=True))}


def split_half(
    first: ArrayLike,
    second: ArrayLike,
    site_codes: ArrayLike,
    *,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> SplitHalf:
    """Rank correlation between halves, within layers and over all, and what it implies for the whole.

    Parameters
    ----------
    first, second : array_like, shape (U,)
        Selectivity (or importance) of each unit on either half of the images, the halves drawn at random within
        classes. Units with a missing one are left out.
    site_codes : array_like of int, shape (U,)
    n_boot : int
    confidence : float
    seed : int

    Returns
    -------
    SplitHalf

    Raises
    ------
    DataError, OptionError
        See :func:`auditor.causal.correlation.layer_correlations`.

    Notes
    -----
    Spearman (1910) and Brown (1910): an average of two parallel halves that correlate r has the reliability
    ``2 r / (1 + r)``. A score on all images is nearly such an average where it is linear in class means; a selectivity
    index is so in part only, so take the corrected value as an approximation. One split was made: another one would
    give another value, which the interval over units does not include.
    """
    found = layer_correlations(first, second, site_codes, n_boot=n_boot, confidence=confidence, seed=seed)
    table = found.table[["site", "n_units", "rho", "low", "high", "reason"]].copy()
    for place, (name, source) in enumerate((("", "rho"), ("_low", "low"), ("_high", "high"))):
        table.insert(5 + place, f"reliability{name}", spearman_brown(table[source]))
    halves = found.pooled()
    corrected = Interval(*(spearman_brown(value) for value in (halves.mean, halves.low, halves.high)))
    return SplitHalf(table=table, halves=halves, reliability=corrected)


def spearman_brown(rho: ArrayLike) -> FloatArray:
    """Reliability of the whole from the correlation of its halves, ``2 r / (1 + r)``.

    Negative correlations, which no parallel halves have, stay negative and are not taken below -1.
    """
    r = np.asarray(rho, dtype=np.float64)
    with np.errstate(divide="ignore"):
        corrected: FloatArray = np.maximum(2 * r / (1 + r), -1.0)
    return corrected


def ceiling(reliability_x: ArrayLike, reliability_y: ArrayLike) -> FloatArray:
    """Highest correlation that two measurements of such reliability can show: ``sqrt(r_xx r_yy)`` (Spearman 1904).

    Parameters
    ----------
    reliability_x, reliability_y : array_like
        Broadcast against each other; 1 for what is known without error.

    Returns
    -------
    ndarray of float64
        NaN where a reliability is 0 or less: such a ranking does not reproduce and can predict nothing.

    Raises
    ------
    DataError
        If a reliability is larger than 1.
    """
    x, y = np.asarray(reliability_x, dtype=np.float64), np.asarray(reliability_y, dtype=np.float64)
    if (x > 1).any() or (y > 1).any():
        raise DataError("A reliability is larger than 1.", wanted="numbers up to 1")
    with np.errstate(invalid="ignore"):
        highest: FloatArray = np.where((x > 0) & (y > 0), np.sqrt(np.abs(x * y)), np.nan)
    return highest


def disattenuated(rho: Interval, reliability_x: ArrayLike, reliability_y: ArrayLike) -> Interval:
    """Correlation that measurements without error would show, ``rho / sqrt(r_xx r_yy)`` (Spearman 1904).

    Parameters
    ----------
    rho : Interval
        Correlation and the ends of its interval.
    reliability_x, reliability_y : array_like
        Taken as known: the interval leaves out that they are estimates, so it is too narrow where they are unsure.

    Returns
    -------
    Interval
        NaN where a reliability is 0 or less. Not cut at 1: an estimate above it says that a reliability is
        underestimated or that the errors of the two measurements are correlated (both made on the same images), in
        which case the formula does not hold. It was derived for product-moment correlations and is an approximation
        for ranks.

    Raises
    ------
    DataError
        If a reliability is larger than 1.
    """
    highest = ceiling(reliability_x, reliability_y)
    return Interval(*(np.asarray(value, dtype=np.float64) / highest for value in rho))
