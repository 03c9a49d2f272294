"""Closed-form intervals of quantities that are too slow to resample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri

from auditor.stats.intervals import check_confidence, wilson

FloatArray = NDArray[np.float64]
STEPS = 60


def auc_interval(
    auc: ArrayLike, variance: ArrayLike, n_in: ArrayLike, n_out: ArrayLike, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Interval of a ROC-AUC on the scale of log odds, ``logit(auc) +- z sqrt(variance) / (auc (1 - auc))``.

    Where the variance is 0 or missing (the class is apart from the rest, or has one image): :func:`newcombe_interval`.

    Parameters
    ----------
    auc, variance : array_like
        Area, and its sampling variance after DeLong, DeLong & Clarke-Pearson (1988).
    n_in, n_out : array_like
        Images inside and outside the class. All four broadcast against each other.
    confidence : float

    Returns
    -------
    low, high : ndarray of float64
    """
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    area, spread = np.asarray(auc, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    usable = (spread > 0) & (area > 0) & (area < 1)
    low, high = newcombe_interval(area, n_in, n_out, confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = z * np.sqrt(spread) / (area * (1 - area))
        return np.where(usable, expit(logit(area) - half), low), np.where(usable, expit(logit(area) + half), high)


def newcombe_interval(
    auc: ArrayLike, n_in: ArrayLike, n_out: ArrayLike, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Score interval of a ROC-AUC on Hanley & McNeil's variance (Newcombe 2006, Statistics in Medicine 25, method 5).

    The ends are the areas ``t`` with ``|auc - t| = z sqrt(V(t))``, where
    ``V(t) = t (1 - t) (1 + m (1 - t) / (2 - t) + m t / (1 + t)) / (n_in n_out)`` and ``m = (n_in + n_out) / 2 - 1``.
    Unlike DeLong's it has a length at areas of 0 and 1.

    Parameters
    ----------
    auc, n_in, n_out : array_like
        Area and numbers of images inside and outside the class; broadcast against each other.
    confidence : float

    Returns
    -------
    low, high : ndarray of float64
    """
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    area, a, b = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (auc, n_in, n_out)))
    weight = (a + b) / 2 - 1

    def half(t: FloatArray) -> FloatArray:
        spread = 1 + weight * (1 - t) / (2 - t) + weight * t / (1 + t)
        result: FloatArray = z * np.sqrt(np.maximum(t * (1 - t) * spread, 0) / (a * b))
        return result

    ends = []
    for sign in (-1.0, 1.0):
        near, far = area.copy(), np.full(area.shape, 0.0 if sign < 0 else 1.0)
        for _ in range(STEPS):  # bisection: at `near` the area is within reach, at `far` it is not
            middle = (near + far) / 2
            reached = sign * (middle - area) <= half(middle)
            near, far = np.where(reached, middle, near), np.where(reached, far, middle)
        ends.append(near)
    return ends[0], ends[1]


def difference_interval(
    hits: ArrayLike, n_hits: ArrayLike, alarms: ArrayLike, n_alarms: ArrayLike, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Interval of the difference of two independent proportions (Newcombe 1998, hybrid of two Wilson intervals)."""
    p, p_low, p_high = wilson(hits, n_hits, confidence)
    q, q_low, q_high = wilson(alarms, n_alarms, confidence)
    low = p - q - np.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + np.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return low, high
