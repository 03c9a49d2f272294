"""What a selectivity metric of class moments is: moments in, one number and one preferred class per unit out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class AnyMetric(ABC):
    """What both kinds of metric say about themselves. A plugin subclasses :class:`Metric` or `ResponseMetric`.

    Attributes
    ----------
    name : str
        Name on the command line and prefix of table columns.
    label : str
        Axis label of figures.
    reference : str
        The paper that defines it.
    signed : bool
        True if the metric is defined for units with negative responses.
    bounds : tuple of float
        Smallest and largest value the metric can take.
    chance : float
        Value of a unit without class signal, given enough images.
    has_null : bool
        False for a metric that does not depend on the labels; its null, excess and p are NaN.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    reference: ClassVar[str]
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float] = 0.0
    has_null: ClassVar[bool] = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Metric(AnyMetric):
    """A metric of class moments: class means, variances and counts are all it sees. Null and intervals come for free.

    Attributes
    ----------
    needs_variance : bool
        True if :meth:`score` reads `variance`. Where False it may be an empty array, which saves time in nulls.
    """

    needs_variance: ClassVar[bool] = False

    @abstractmethod
    def score(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> tuple[FloatArray, IntArray]:
        """Score every unit.

        Parameters
        ----------
        mean : ndarray, shape (..., C, U)
            Mean response to each class.
        variance : ndarray, shape (..., C, U)
            Variance (``ddof=1``) of the responses to each class; empty where `needs_variance` is False.
        count : ndarray, shape (..., C)
            Images per class. Classes without images are ignored, whatever their mean says.

        Returns
        -------
        values : ndarray of float64, shape (..., U)
            NaN where the metric is undefined: a dead unit (every class mean is 0), or fewer than two classes.
        preferred : ndarray of int64, shape (..., U)
            Index of the preferred class; -1 where there is none (no class has images).
        """

    def values(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Return only the values of :meth:`score`; nulls call this thousands of times, so override it where faster."""
        return self.score(mean, variance, count)[0]

    def values_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> FloatArray:
        """Score every unit with its preferred class given, not searched for.

        No maximum is taken, so there is no upward bias: intervals and held-out scores rest on it. A plugin may leave
        it out; its intervals then come from the bias-corrected bootstrap, which covers less well.

        Parameters
        ----------
        mean, variance, count : ndarray
            As for :meth:`score`.
        preferred : ndarray of int64, shape (U,)

        Returns
        -------
        ndarray of float64, shape (..., U)
            May lie below `chance`, and is NaN where `preferred` is negative or a class without images.

        Raises
        ------
        NotImplementedError
            If the metric has no such form.
        """
        raise NotImplementedError(f"{self!r} has no value for a given class.")

    def values_and_at(
        self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic], preferred: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Both :meth:`values` and :meth:`values_at`; override it where they share work."""
        return self.values(mean, variance, count), self.values_at(mean, variance, count, preferred)

    @property
    def has_fixed_class(self) -> bool:
        """Whether the metric overrides :meth:`values_at`."""
        return type(self).values_at is not Metric.values_at


def preferred_class(mean: FloatArray, count: NDArray[np.generic]) -> IntArray:
    """Class with the largest mean among those that have images, lowest index on ties.

    Parameters
    ----------
    mean : ndarray, shape (..., C, U)
    count : ndarray, shape (..., C)

    Returns
    -------
    ndarray of int64, shape (..., U)
        -1 where no class has images.
    """
    present = np.broadcast_to((np.asarray(count) > 0)[..., None], mean.shape)
    best = np.where(present, mean, -np.inf).argmax(axis=-2).astype(np.int64)
    return np.where(present.any(axis=-2), best, -1)


def dead_units(mean: FloatArray, count: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which units have a mean of exactly 0 for every class that has images; shape (..., U)."""
    present = (np.asarray(count) > 0)[..., None]
    dead: NDArray[np.bool_] = ((mean == 0) | ~present).all(axis=-2)
    return dead


def pick_class(values: FloatArray, count: NDArray[np.generic], preferred: IntArray) -> FloatArray:
    """Take each unit's entry of its preferred class.

    Parameters
    ----------
    values : ndarray, shape (..., C, U)
    count : ndarray, shape (..., C)
    preferred : ndarray of int64, shape (U,)

    Returns
    -------
    ndarray of float64, shape (..., U)
        NaN where there is no preferred class, or no image of it.
    """
    index = np.maximum(preferred, 0)
    known = (np.asarray(count) > 0)[..., index] & (preferred >= 0)
    picked: FloatArray = values[..., index, np.arange(len(index))]
    return picked if known.all() else np.where(known, picked, np.nan)
