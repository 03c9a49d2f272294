"""The verdict rule: supported, refuted or inconclusive, and what would have reversed it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from auditor.errors import DataError, OptionError


class Outcome(StrEnum):
    """What the data say about a claim that was declared beforehand."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


def decide(
    estimate: float,
    low: float,
    high: float,
    *,
    margin: float,
    p: float | None = None,
    p_below: float | None = None,
    alpha: float = 0.05,
) -> Outcome:
    """Judge the claim that an effect is larger than `margin`.

    - supported: the whole interval lies above the margin and, where there is a p value, ``p <= alpha``;
    - refuted: the whole interval lies below the margin and, where it is given, ``p_below <= alpha``;
    - inconclusive: everything else.

    A claim that nothing could refute is no claim (Leavitt & Morcos 2020), so absence of evidence (an interval that
    includes the margin) and evidence of absence (an interval below it) are told apart as in equivalence and
    non-inferiority tests (Lakens 2017): with a two-sided interval of confidence 1 - a, an effect that equals the
    margin is wrongly called supported, or wrongly refuted, with probability at most a / 2 each. The corner cases:

    - The interval lies above the margin but p is large: the effect is certain on these images, yet other sets of units
      do the same. Inconclusive.
    - The interval lies below the margin but above 0: the effect exists and is smaller than what was declared to
      matter. Refuted, whatever p says.
    - The interval touches the margin: it does not lie on one side of it. Inconclusive.
    - The interval has no width: every image gave the same value, and a spread of 0 says nothing about how rare the
      images are that would differ. Inconclusive.
    - An estimate, an end or p is NaN: not measured. Inconclusive.

    Parameters
    ----------
    estimate, low, high : float
        Effect and its interval, positive in the direction of the claim.
    margin : float
        Smallest effect that counts, declared beforehand; 0 asks for the direction only, a negative one (minus the
        tolerated loss) makes this a non-inferiority test.
    p : float or None
        Of a test that the claim needs besides the interval: that other sets of units do not do the same.
    p_below : float or None
        Of a test that a refutation needs besides the interval. An interval over images is about the units at hand;
        where the claim is about all such units, their choice is one more source of error for either outcome. See
        :meth:`auditor.causal.nested.NestedTest.p_beyond`.
    alpha : float

    Returns
    -------
    Outcome

    Raises
    ------
    OptionError
        If `margin` is not finite or `alpha` is not within (0, 1).
    DataError
        If the interval is reversed or p is not within [0, 1].
    """
    return _judge(estimate, low, high, margin, p, p_below, alpha)[0]


def reason(
    estimate: float,
    low: float,
    high: float,
    *,
    margin: float,
    p: float | None = None,
    p_below: float | None = None,
    alpha: float = 0.05,
) -> str:
    """Say which part of the rule of :func:`decide` made its outcome, as a clause without a full stop."""
    return _judge(estimate, low, high, margin, p, p_below, alpha)[1]


def _judge(
    estimate: float, low: float, high: float, margin: float, p: float | None, p_below: float | None, alpha: float
) -> tuple[Outcome, str]:
    if not math.isfinite(margin):
        raise OptionError("The margin must be a number.", wanted="the smallest effect that counts", got=repr(margin))
    if not 0 < alpha < 1:
        raise OptionError("The significance level must lie between 0 and 1.", wanted="such as 0.05", got=repr(alpha))
    if low > high:
        raise DataError("The ends of an interval are reversed.", wanted="low <= high", got=f"{low:g} and {high:g}")
    for value in (p, p_below):
        if value is not None and not math.isnan(value) and not 0 <= value <= 1:
            raise DataError("A p value must lie between 0 and 1.", got=repr(value))
    if any(math.isnan(x) for x in (estimate, low, high)):
        return Outcome.INCONCLUSIVE, "the effect or its interval could not be computed"
    if low == high:
        return Outcome.INCONCLUSIVE, "no spread was observed, so the interval says nothing"
    if low <= margin <= high:
        return Outcome.INCONCLUSIVE, "the interval includes the margin"
    above = low > margin
    side, needed = ("above", p) if above else ("below", p_below)
    lies = f"the whole interval lies {side} the margin"
    lies += ", though above 0: smaller than declared to matter" if not above and low > 0 else ""
    if needed is not None and math.isnan(needed):
        return Outcome.INCONCLUSIVE, f"{lies}, but the p value could not be computed"
    if needed is not None and needed > alpha:
        return Outcome.INCONCLUSIVE, f"{lies}, but p = {needed:.3g} is larger than {alpha:g}"
    return (Outcome.SUPPORTED if above else Outcome.REFUTED), lies


def combine(outcomes: Iterable[Outcome]) -> Outcome:
    """Outcome of a claim that holds only if all its parts do.

    An intersection-union test (Berger 1982): supported where every part is, and then wrongly so with no more than the
    probability of one part, so no correction for several parts is due. Refuted where any part is; with k parts that
    all hold, the probability of a wrong refutation is up to k times that of one.

    Raises
    ------
    DataError
        If there are no parts.
    """
    parts = [Outcome(outcome) for outcome in outcomes]
    if not parts:
        raise DataError("There are no outcomes to combine.")
    if Outcome.REFUTED in parts:
        return Outcome.REFUTED
    return Outcome.INCONCLUSIVE if Outcome.INCONCLUSIVE in parts else Outcome.SUPPORTED


def reversal(
    outcome: Outcome,
    estimate: float,
    low: float,
    high: float,
    *,
    margin: float,
    unit: str = "",
    p: float | None = None,
    alpha: float = 0.05,
    what: str = "an effect",
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """Say what observation would have reversed an outcome, with numbers.

    The thresholds are for an interval that reaches as far to either side of the estimate as the one found.

    Parameters
    ----------
    outcome : Outcome
        Of these numbers.
    estimate, low, high, margin, p, alpha
        As for :func:`decide`.
    unit : str
        Such as "points of accuracy".
    what : str
        Name of the effect, with its article.
    bounds : tuple of float
        Values the effect can take, (-1, 1) for a correlation; a threshold outside is called out of reach.

    Returns
    -------
    str
        One or two sentences.
    """
    unit = f" {unit}" if unit else ""
    if any(math.isnan(x) for x in (estimate, low, high)):
        return (
            f"The effect or its interval could not be computed; any interval on one side of {margin:.3g}{unit} decides."
        )
    above, below = margin + (estimate - low), margin - (high - estimate)
    wanted_p = "" if p is None else f" and p at most {alpha:g}"
    support = (
        f"{what} above {above:.3g}{unit}{wanted_p} would have supported the claim"
        if above < bounds[1]
        else f"no {what.split(' ', 1)[-1]} could have supported the claim with an interval this wide"
    )
    refute = (
        f"{what} below {below:.3g}{unit} would have refuted it"
        if below > bounds[0]
        else f"no {what.split(' ', 1)[-1]} could have refuted it with an interval this wide"
    )
    found = f"found: {estimate:.3g} [{low:.3g}, {high:.3g}]{unit}" + ("" if p is None else f", p = {p:.3g}")
    if outcome is Outcome.SUPPORTED:
        lost = f"{what} of at most {above:.3g}{unit}" + ("" if p is None else f", or p above {alpha:g},")
        text = f"{lost} would have left the claim open, and {refute}"
    elif outcome is Outcome.REFUTED:
        text = f"{what} of at least {below:.3g}{unit} would have left the claim open, and {support}"
    else:
        text = f"{support}, and {refute}"
    return f"{text[0].upper()}{text[1:]} (margin {margin:.3g}{unit}; {found})."


@dataclass(frozen=True)
class Verdict:
    """Outcome of one declared claim, with everything needed to doubt it.

    Attributes
    ----------
    key : str
        Short stable name, such as ``necessity``.
    title : str
    claim : str
        What was claimed, as a plain statement.
    outcome : Outcome
    sentence : str
        One plain sentence with effect and interval.
    effect, low, high : float
        In `unit`; NaN where not measured.
    unit : str
        Such as "points of accuracy".
    margin : float
        Smallest effect that counts, in `unit`.
    p : float or None
    alpha : float
    n : str
        What was counted, such as "899 images, 200 random sets".
    reversed_by : str
        The observation that would have reversed the outcome.
    limits : tuple of str
        Sentences.
    needed : str or None
        How many images, draws or units would decide, where the outcome is inconclusive.
    details : dict
        Plain values.
    """

    key: str
    title: str
    claim: str
    outcome: Outcome
    sentence: str
    effect: float
    low: float
    high: float
    unit: str
    margin: float
    p: float | None
    alpha: float
    n: str
    reversed_by: str
    limits: tuple[str, ...] = ()
    needed: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold: numbers that are NaN or infinite become None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("effect", "low", "high", "p"):
            if values[name] is not None and not math.isfinite(values[name]):
                values[name] = None
        return values | {"outcome": str(self.outcome), "limits": list(self.limits), "details": dict(self.details)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Inverse of :meth:`to_dict`; a missing effect or end comes back as NaN.

        Raises
        ------
        DataError
            If a field is missing or unknown, or there is no such outcome.
        """
        names = {f.name for f in fields(cls)}
        optional = {"limits", "needed", "details"}
        if not names - optional <= set(values) <= names or values["outcome"] not in set(Outcome):
            raise DataError("This is no verdict.", wanted=", ".join(sorted(names)), got=", ".join(sorted(values)))
        numbers = {name: math.nan if values[name] is None else values[name] for name in ("effect", "low", "high")}
        plain = {"outcome": Outcome(values["outcome"]), "limits": tuple(values.get("limits", ()))}
        return cls(**{**values, **numbers, **plain, "details": dict(values.get("details", {}))})
