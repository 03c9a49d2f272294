"""Where along a regularizer's weight selectivity is halved, and what that costs: interpolated within every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError
from auditor.stats.intervals import Interval, check_confidence, paired_mean_interval

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Halving:
    """The alpha at which selectivity has fallen to a share of what it is at alpha 0.

    Attributes
    ----------
    factor : float
        The share, such as 0.5.
    alpha : ndarray of float64, shape (S,)
        Per seed; NaN where it is not reached.
    cost : ndarray of float64, shape (S,)
        Per seed, accuracy there minus accuracy at alpha 0 (a loss is negative); NaN where it is not reached.
    lowest : ndarray of float64, shape (S,)
        Per seed, the lowest selectivity of all negative alphas as a share of that at alpha 0.
    confidence : float
    """

    factor: float
    alpha: FloatArray
    cost: FloatArray
    lowest: FloatArray
    confidence: float

    @property
    def n_reached(self) -> int:
        """Seeds in which it is reached."""
        return int(np.isfinite(self.alpha).sum())

    def interval(self, what: str = "alpha") -> Interval:
        """Mean of ``alpha`` or ``cost`` over the seeds in which it is reached, with its Student t interval.

        The ends are NaN with fewer than two such seeds, everything is with none. Where some seeds do not get there,
        this describes the others only.
        """
        values = self.alpha if what == "alpha" else self.cost
        return paired_mean_interval(values[np.isfinite(values)], self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN stays NaN."""
        found: dict[str, Any] = {"factor": self.factor, "n_seeds": len(self.alpha), "n_reached": self.n_reached}
        for what in ("alpha", "cost"):
            mean, low, high = (float(value) for value in self.interval(what))
            found[what] = {"mean": mean, "low": low, "high": high, "by_seed": getattr(self, what).tolist()}
        return found | {"lowest_share": self.lowest.tolist(), "confidence": self.confidence}


def halving(
    alphas: ArrayLike, index: ArrayLike, accuracy: ArrayLike, *, factor: float = 0.5, confidence: float = 0.95
) -> Halving:
    """Find the weakest negative alpha that lowers selectivity to `factor` of its value at alpha 0.

    Within every seed, from alpha 0 downward, the first pair of neighbouring alphas is taken of which the second has at
    most `factor` times the selectivity at alpha 0. Between the two the logarithm of selectivity and the accuracy are
    linear in alpha. Nothing is extrapolated.

    Parameters
    ----------
    alphas : array_like of float, shape (A,)
        Each once, 0 among them, in any order; positive ones are not used.
    index, accuracy : array_like of float, shape (S, A)
        Mean selectivity and accuracy of the network of each seed and alpha. NaN where there is none: its neighbours
        become neighbours. Selectivity above a shuffle floor may be 0 or negative; between such a value and its
        neighbour selectivity itself is interpolated linearly, for it has no logarithm.
    factor : float
        Within (0, 1).
    confidence : float

    Returns
    -------
    Halving
        A seed without a network at alpha 0, or with selectivity there that is not positive, does not reach it.

    Raises
    ------
    DataError
        If the shapes do not fit, or 0 is not among the alphas exactly once.
    OptionError
        If `factor` or `confidence` is not within (0, 1).
    """
    check_confidence(confidence)
    if not 0 < factor < 1:
        raise OptionError("Selectivity is lowered to a share of itself.", wanted="a factor in (0, 1)", got=str(factor))
    places = np.asarray(alphas, dtype=np.float64)
    values, right = (np.asarray(table, dtype=np.float64) for table in (index, accuracy))
    if places.ndim != 1 or values.ndim != 2 or values.shape != right.shape or values.shape[1] != len(places):
        raise DataError(
            "Selectivity and accuracy must have one row per seed and one column per alpha.",
            wanted=f"(seeds, {places.size})",
            got=f"{values.shape} and {right.shape}",
        )
    if (places == 0).sum() != 1 or len(np.unique(places)) != len(places):
        raise DataError("Every alpha must be there once, and 0 among them.", got=str(places.tolist()))
    down = np.argsort(-places, kind="stable")
    down = down[places[down] <= 0]
    found = [_first(places[down], mine[down], other[down], factor) for mine, other in zip(values, right, strict=True)]
    alpha, cost, lowest = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return Halving(factor, alpha, cost, lowest, confidence)


def _first(alphas: FloatArray, index: FloatArray, accuracy: FloatArray, factor: float) -> tuple[float, float, float]:
    """Alpha, cost and lowest share of one seed; `alphas` fall from 0."""
    nowhere = (np.nan, np.nan)
    there = np.isfinite(index) & np.isfinite(accuracy)
    if not there[0] or index[0] <= 0:
        return (*nowhere, np.nan)
    alphas, index, accuracy = alphas[there], index[there], accuracy[there]
    lowest = float(index[1:].min() / index[0]) if len(index) > 1 else np.nan
    goal = factor * index[0]
    below = np.flatnonzero(index <= goal)
    if len(below) == 0:
        return (*nowhere, lowest)
    end = int(below[0])
    high, low = float(index[end - 1]), float(index[end])
    way = np.log(high / goal) / np.log(high / low) if low > 0 else (high - goal) / (high - low)
    alpha, right = (float(line[end - 1] + way * (line[end] - line[end - 1])) for line in (alphas, accuracy))
    return alpha, right - float(accuracy[0]), lowest
