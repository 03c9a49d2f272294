"""Whether runs with another selectivity are no worse, or worse, than their controls: paired by seed or by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtr

from auditor.causal.verdict import Outcome, decide
from auditor.errors import DataError, OptionError
from auditor.stats.intervals import check_confidence, paired_mean_interval, paired_proportion_interval

FloatArray = NDArray[np.float64]
Claim = Literal["no worse", "worse"]


@dataclass(frozen=True)
class PairedTest:
    """Accuracy of treated runs against that of their controls.

    Attributes
    ----------
    claim : {"no worse", "worse"}
        That the treated lose less than the margin, or more than it.
    over : {"seeds", "images"}
        What was sampled. "images" compares one pair of networks: its interval says nothing about other seeds.
    difference : float
        Mean accuracy, treated minus control.
    low, high : float
        Two-sided interval of `difference`; NaN with fewer than two pairs.
    margin : float
        Loss of accuracy that is tolerated ("no worse") or has to be exceeded ("worse"); not negative.
    p : float
        One-sided p value of the claim; NaN where the differences have no spread.
    n : int
        Seeds or images.
    confidence, alpha : float
    """

    claim: Claim
    over: Literal["seeds", "images"]
    difference: float
    low: float
    high: float
    margin: float
    p: float
    n: int
    confidence: float
    alpha: float

    @property
    def outcome(self) -> Outcome:
        """Verdict on the claim: :func:`decide` with the interval and p.

        An interval of confidence 0.95 that excludes the margin is a one-sided test at 2.5 %, so of the two conditions
        of *supported* the interval is the stricter unless ``alpha < (1 - confidence) / 2``.
        """
        if self.claim == "no worse":
            return decide(self.difference, self.low, self.high, margin=-self.margin, p=self.p, alpha=self.alpha)
        return decide(-self.difference, -self.high, -self.low, margin=self.margin, p=self.p, alpha=self.alpha)

    def to_dict(self) -> dict[str, object]:
        """Plain values, the outcome included."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"outcome": str(self.outcome)}


def non_inferiority(
    treated: ArrayLike,
    control: ArrayLike,
    *,
    margin: float,
    confidence: float = 0.95,
    alpha: float = 0.05,
    images: tuple[ArrayLike, ArrayLike] | None = None,
) -> PairedTest:
    """Test that treated runs lose less accuracy than `margin` against controls of the same seeds.

    Parameters
    ----------
    treated, control : array_like of float, shape (S,)
        Accuracy of each run; position s of both has the same seed.
    margin : float
        Tolerated loss of accuracy, not negative.
    confidence, alpha : float
    images : tuple of two array_like of bool, shape (N,), optional
        Whether each image is classified correctly by the treated and by the control network. Used where S is 1; the
        result then says ``over="images"``.

    Returns
    -------
    PairedTest
        Student t interval and t test over seeds. With one seed and no `images`, interval and p are NaN.

    Raises
    ------
    DataError
        If shapes differ, there are no runs, or an accuracy is not finite.
    OptionError
        If `margin` is negative or a level is not within (0, 1).
    """
    return _over_seeds("no worse", treated, control, margin, confidence, alpha, images)


def harm(
    treated: ArrayLike,
    control: ArrayLike,
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    alpha: float = 0.05,
    images: tuple[ArrayLike, ArrayLike] | None = None,
) -> PairedTest:
    """Test that treated runs lose more accuracy than `margin` against controls of the same seeds.

    Parameters and errors as for :func:`non_inferiority`, of which this is the counterpart.

    Returns
    -------
    PairedTest
    """
    return _over_seeds("worse", treated, control, margin, confidence, alpha, images)


def non_inferiority_images(
    correct_treated: ArrayLike,
    correct_control: ArrayLike,
    *,
    margin: float,
    confidence: float = 0.95,
    alpha: float = 0.05,
) -> PairedTest:
    """Test that one network loses less accuracy than `margin` against another on the same images.

    Interval and p value are those of the adjusted Wald statistic (Bonett & Price 2012).

    Parameters
    ----------
    correct_treated, correct_control : array_like of bool, shape (N,)
    margin : float
    confidence, alpha : float

    Returns
    -------
    PairedTest
        With ``over="images"``: it holds for this pair of networks, not for other seeds.

    Raises
    ------
    DataError
        If shapes differ, there are no images, or values are not 0 or 1.
    OptionError
        If `margin` is negative or a level is not within (0, 1).
    """
    return _over_images("no worse", correct_treated, correct_control, margin, confidence, alpha)


def harm_images(
    correct_treated: ArrayLike,
    correct_control: ArrayLike,
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    alpha: float = 0.05,
) -> PairedTest:
    """Test that one network loses more accuracy than `margin` against another on the same images.

    Parameters and errors as for :func:`non_inferiority_images`, of which this is the counterpart.

    Returns
    -------
    PairedTest
    """
    return _over_images("worse", correct_treated, correct_control, margin, confidence, alpha)


def _over_seeds(
    claim: Claim,
    treated: ArrayLike,
    control: ArrayLike,
    margin: float,
    confidence: float,
    alpha: float,
    images: tuple[ArrayLike, ArrayLike] | None,
) -> PairedTest:
    _check_levels(margin, confidence, alpha)
    first, second = _pairs(treated, control, "runs")
    if len(first) == 1 and images is not None:
        return _over_images(claim, *images, margin, confidence, alpha)
    differences = first - second
    n = len(differences)
    interval = paired_mean_interval(differences, confidence)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    t = (float(interval.estimate) + margin) / (spread / np.sqrt(n)) if spread > 0 else np.nan
    return PairedTest(
        claim=claim,
        over="seeds",
        difference=float(interval.estimate),
        low=float(interval.low),
        high=float(interval.high),
        margin=margin,
        # Small where the loss is clearly below the margin, or for harm clearly above it.
        p=float(stdtr(n - 1, -t if claim == "no worse" else t)) if spread > 0 else float("nan"),
        n=n,
        confidence=confidence,
        alpha=alpha,
    )


def _over_images(
    claim: Claim, treated: ArrayLike, control: ArrayLike, margin: float, confidence: float, alpha: float
) -> PairedTest:
    _check_levels(margin, confidence, alpha)
    first, second = _pairs(treated, control, "images")
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise DataError("Correct or not is 0 or 1 for each image.", fix="Pass prediction == label.")
    n, only_first, only_second = len(first), int((first > second).sum()), int((second > first).sum())
    interval = paired_proportion_interval(only_first, only_second, n, confidence)
    share_first, share_second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = share_first - share_second
    z = (centre + margin) / np.sqrt((share_first + share_second - centre**2) / (n + 2))
    return PairedTest(
        claim=claim,
        over="images",
        difference=float(interval.estimate),
        low=float(interval.low),
        high=float(interval.high),
        margin=margin,
        p=float(ndtr(-z if claim == "no worse" else z)),
        n=n,
        confidence=confidence,
        alpha=alpha,
    )


def _check_levels(margin: float, confidence: float, alpha: float) -> None:
    check_confidence(confidence)
    if not 0 <= margin < np.inf:
        raise OptionError("The margin is a loss of accuracy.", wanted="a number that is not negative", got=repr(margin))
    if not 0 < alpha < 1:
        raise OptionError("The significance level must lie between 0 and 1.", wanted="such as 0.05", got=repr(alpha))


def _pairs(treated: ArrayLike, control: ArrayLike, what: str) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(treated, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise DataError(
            f"The {what} of treated and control do not pair.",
            wanted=f"two lists of as many {what}",
            got=f"{first.shape} and {second.shape}",
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("An accuracy is not finite.", fix="Leave out runs that failed, with their pairs.")
    return first, second
