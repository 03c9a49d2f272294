"""Whether an attack may have failed for want of a useful gradient (Athalye, Carlini & Wagner 2018).

A robust network and one that hides its gradients both look good under a weak attack. What tells them apart: more room
and more steps must not help the network, many steps must do what one does, and examples made on another network must
not do more damage than those made on the network itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.perturbations.ratios import accuracy_change
from auditor.stats.intervals import Interval

Outcome = Literal["passed", "failed", "not checked"]
Right = NDArray[np.bool_]
ENOUGH = 8.0
"""An attack of so many 255ths that changes nothing has failed; of less, it may be too small to tell."""


@dataclass(frozen=True)
class Check:
    """One check of one network.

    Attributes
    ----------
    name : str
        ``epsilon``, ``falls``, ``steps``, ``iterations`` or ``transfer``.
    outcome : {"passed", "failed", "not checked"}
    change : float
        The change of accuracy that decided: the largest rise, or of "falls" the fall from clean to the largest
        epsilon; NaN where not checked.
    low, high : float
        Its interval over images, at a confidence that is divided among the comparisons of the check.
    comparisons : int
    detail : str
        What was compared with what.
    """

    name: str
    outcome: Outcome
    change: float
    low: float
    high: float
    comparisons: int
    detail: str

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def not_checked(name: str, why: str) -> Check:
    """Check that could not be made."""
    return Check(name, "not checked", np.nan, np.nan, np.nan, 0, why)


def never_rises(name: str, curves: Mapping[str, Mapping[float, Right]], what: str, confidence: float) -> Check:
    """Check that accuracy does not rise beyond noise from one strength of an attack to the next.

    Parameters
    ----------
    name : str
        Of the check.
    curves : mapping of str to mapping of float to ndarray of bool, shape (N,)
        For each attack, by strength, which images are still classified correctly.
    what : str
        Of the strength, for people (``"epsilon"``).
    confidence : float
        For all comparisons together (Bonferroni).
    """
    pairs = [
        (f"{attack}, {what} {low:g} to {high:g}", curve[high], curve[low])
        for attack, curve in curves.items()
        for low, high in zip(sorted(curve)[:-1], sorted(curve)[1:], strict=True)
    ]
    return _no_rise(name, pairs, confidence)


def falls(curves: Mapping[str, Mapping[float, Right]], clean: Right, confidence: float) -> Check:
    """Check that every attack lowers accuracy at the largest epsilon.

    Parameters
    ----------
    curves : mapping of str to mapping of float to ndarray of bool, shape (N,)
        By epsilon, in 255ths.
    clean : ndarray of bool, shape (N,)
    confidence : float
    """
    if not curves:
        return not_checked("falls", "no attack")
    level = 1 - (1 - confidence) / len(curves)
    found = []
    for attack, curve in curves.items():
        largest = max(curve)
        change = accuracy_change(curve[largest], clean, level)
        found.append((float(change.high), change, attack, largest))
    _, change, attack, largest = max(found, key=lambda one: one[0])
    detail = f"{attack}, clean to epsilon {largest:g}"
    # Where few images are right as they are, even a fall to none lies within noise.
    few = (change.estimate < 0 or not clean.any()) and accuracy_change(clean & False, clean, level).high >= 0
    outcome: Outcome = "passed" if change.high < 0 else "not checked" if few or largest < ENOUGH else "failed"
    if outcome == "not checked":
        why = "the attack may be too small" if largest < ENOUGH else f"{int(clean.sum())} images are right without it"
        detail += f": no fall beyond noise, but {why}"
    return _check("falls", outcome, change, len(curves), detail)


def iterations(one: Mapping[float, Right], many: Mapping[float, Right], confidence: float) -> Check:
    """Check that an attack of many steps does no less damage than one of a single step, at each common epsilon."""
    pairs = [(f"PGD against FGSM, epsilon {e:g}", many[e], one[e]) for e in sorted(set(one) & set(many))]
    return _no_rise("iterations", pairs, confidence)


def transfer(white: Right, transferred: Right, source: str, confidence: float) -> Check:
    """Check that examples made on another network do not lower accuracy more than those made on this one.

    Parameters
    ----------
    white, transferred : ndarray of bool, shape (N,)
        Images that survive the attack on the network itself, and the same attack on another.
    source : str
        Name of the other network.
    confidence : float
    """
    return _no_rise("transfer", [(f"white-box against examples made on {source}", white, transferred)], confidence)


def verdict(checks: list[Check]) -> Outcome:
    """Outcome for a network: failed if any check failed, passed if all that were made passed, and one was."""
    outcomes = {check.outcome for check in checks}
    return "failed" if "failed" in outcomes else "passed" if "passed" in outcomes else "not checked"


def _no_rise(name: str, pairs: list[tuple[str, Right, Right]], confidence: float) -> Check:
    """Check that none of (detail, after, before) is a rise whose interval lies above 0."""
    if not pairs:
        return not_checked(name, "nothing to compare")
    level = 1 - (1 - confidence) / len(pairs)
    found = [(detail, accuracy_change(after, before, level)) for detail, after, before in pairs]
    detail, worst = max(found, key=lambda one: (float(one[1].low), float(one[1].estimate)))
    outcome: Outcome = "failed" if worst.low > 0 else "passed"
    return _check(name, outcome, worst, len(pairs), detail)


def _check(name: str, outcome: Outcome, change: Interval, comparisons: int, detail: str) -> Check:
    return Check(name, outcome, float(change.estimate), float(change.low), float(change.high), comparisons, detail)
