"""Test whether the effect of a selected set of units is larger than that of matched random sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError
from auditor.stats.intervals import check_confidence, empirical_p, paired_mean_interval

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SetTest:
    """Effect of a selected set against random sets.

    Attributes
    ----------
    observed : float
        Mean effect of the selected set over images.
    null : ndarray of float64, shape (n_sets,)
        The same for each random set.
    null_mean, null_low, null_high : float
        Mean, 2.5 % and 97.5 % quantiles of `null`.
    effect : float
        ``observed - null_mean``.
    low, high : float
        Student t interval of `effect` over images, paired by image; the sets are taken as given.
    p_greater, p_two_sided : float
        Monte Carlo p values of `observed` among `null`: one-sided, and twice the smaller tail.
    n_images, n_sets : int
    confidence : float
    """

    observed: float
    null: FloatArray
    null_mean: float
    null_low: float
    null_high: float
    effect: float
    low: float
    high: float
    p_greater: float
    p_two_sided: float
    n_images: int
    n_sets: int
    confidence: float = 0.95

    def to_dict(self) -> dict[str, float | int | list[float]]:
        """Plain values, the null included."""
        values: dict[str, float | int | list[float]] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "null"
        }
        return values | {"null": [float(x) for x in self.null]}

    def summary(self) -> str:
        """One line for people."""
        return (
            f"effect {self.observed:.4g} against {self.null_mean:.4g} [{self.null_low:.4g}, {self.null_high:.4g}] for "
            f"{self.n_sets} matched random sets: difference {self.effect:.4g} [{self.low:.4g}, {self.high:.4g}], "
            f"p = {self.p_greater:.3g} (greater), {self.p_two_sided:.3g} (two-sided), {self.n_images} images"
        )


def set_test(selected_effect: ArrayLike, random_effects: ArrayLike, *, confidence: float = 0.95) -> SetTest:
    """Test a selected set against matched random sets on the same images.

    The p values ask whether the selected set stands out among random sets; their smallest value is
    ``1 / (n_sets + 1)``. The interval asks how well the images at hand determine the difference from the average
    random set. They answer different questions, so one may exclude no effect where the other does not.

    Parameters
    ----------
    selected_effect : array_like, shape (N,)
        Effect of silencing the selected set, for each image (loss change, say).
    random_effects : array_like, shape (n_sets, N)
        The same for each random set.
    confidence : float

    Returns
    -------
    SetTest

    Raises
    ------
    DataError
        If shapes do not fit, there are no sets or images, or an effect is not finite.
    OptionError
        If `confidence` is not within (0, 1).
    """
    check_confidence(confidence)
    selected = np.asarray(selected_effect, dtype=np.float64)
    random = np.asarray(random_effects, dtype=np.float64)
    if selected.ndim != 1 or random.ndim != 2 or random.shape[1] != len(selected) or random.size == 0:
        raise DataError(
            "Effects of the selected and of the random sets do not fit.",
            wanted="(N,) and (n_sets, N), neither empty",
            got=f"{selected.shape} and {random.shape}",
        )
    if not (np.isfinite(selected).all() and np.isfinite(random).all()):
        raise DataError("An effect is not finite.", fix="Leave out images whose loss overflows, or compute in float32.")
    null = random.mean(axis=1)
    observed = float(selected.mean())
    difference = paired_mean_interval(selected - random.mean(axis=0), confidence)
    null_low, null_high = np.quantile(null, [0.025, 0.975])
    return SetTest(
        observed=observed,
        null=null,
        null_mean=float(null.mean()),
        null_low=float(null_low),
        null_high=float(null_high),
        effect=float(difference.estimate),
        low=float(difference.low),
        high=float(difference.high),
        p_greater=float(empirical_p(observed, null)),
        p_two_sided=float(empirical_p(observed, null, alternative="two-sided")),
        n_images=len(selected),
        n_sets=len(null),
        confidence=confidence,
    )
