"""What the tests of an audit share: their data, and how they phrase a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.audit_controls import Controls
from auditor.api.audit_measure import Measured, ablation_settings
from auditor.api.audit_settings import AuditSettings
from auditor.api.run import Run
from auditor.api.selection import preferred_classes
from auditor.causal import Outcome, Verdict, images_needed, reason, reversal
from auditor.stats.intervals import Interval

Floats = NDArray[np.float64]
IMPORTANCE = {
    "loss_change": "loss (nats)",
    "target_logit_drop": "logit of the label",
    "kl": "KL divergence (nats)",
    "accuracy_drop": "lost accuracy",
}
"""Measures of a unit's importance, the first one being that of the verdicts."""


@dataclass
class Findings:
    """Data of the tests, and the tables that they leave.

    Attributes
    ----------
    run : Run
    settings : AuditSettings
    measured : Measured
    controls : Controls or None
    tables : dict of str to DataFrame
        By file name without ending.
    """

    run: Run
    settings: AuditSettings
    measured: Measured
    controls: Controls | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """Layer of each unit, in network order."""
        return pd.factorize(self.run.selectivity["site"])[0].astype(np.int64)

    @cached_property
    def sites(self) -> list[str]:
        """Names of the layers, by code."""
        return [str(name) for name in pd.unique(self.run.selectivity["site"])]

    @cached_property
    def preferred(self) -> NDArray[np.int64]:
        """Preferred class of each unit, -1 without."""
        names = preferred_classes(self.run.selectivity, ablation_settings(self.settings, self.run))
        return pd.Index(self.run.classes).get_indexer(pd.Index(names)).astype(np.int64)

    @cached_property
    def covariates(self) -> Floats:
        """Mean activation and firing rate, shape (U, 2): what partial correlations hold fixed."""
        values: Floats = self.run.selectivity[["mean", "firing_rate"]].to_numpy(dtype=np.float64)
        return values

    def per_image(self, name: str) -> NDArray[np.float32]:
        """Effect of each unit on each image, shape (U, N); larger is worse."""
        if name == "accuracy_drop":
            right = self.measured.intact == self.measured.labels
            lost: NDArray[np.float32] = right.astype(np.float32) - (
                self.measured.units.prediction == self.measured.labels
            )
            return lost
        values: NDArray[np.float32] = getattr(self.measured.units, name)
        return values

    def importance(self, name: str) -> Floats:
        """Mean effect of each unit, shape (U,)."""
        means: Floats = self.per_image(name).mean(1, dtype=np.float64)
        return means

    def named(self, table: pd.DataFrame) -> pd.DataFrame:
        """Put names of layers for the codes in column `site`."""
        return table.assign(site=[self.sites[code] for code in table["site"]])


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes
    ----------
    outcome : Outcome
    interval : Interval
        In the direction of the claim, in the unit shown.
    margin : float
    what : str
        Name of the effect, with its article.
    p, p_below : float or None
        See :func:`auditor.causal.decide`.
    held : tuple of str, optional
        Why the outcome is inconclusive although the rule decides, as a clause; and what would have decided, as a
        sentence.
    """

    outcome: Outcome
    interval: Interval
    margin: float
    what: str
    p: float | None = None
    p_below: float | None = None
    held: tuple[str, str] | None = None


def verdict(
    findings: Findings,
    parts: list[Part],
    outcome: Outcome,
    *,
    key: str,
    title: str,
    claim: str,
    sentence: str,
    unit: str,
    n: str,
    n_images: int | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    limits: tuple[str, ...] = (),
    needed: str | None = None,
    details: dict[str, Any] | None = None,
) -> Verdict:
    """Make a verdict whose effect is that of the part that decided it: the first with the outcome of the whole."""
    alpha = findings.settings.alpha
    first = next((part for part in parts if part.outcome == outcome), parts[0])
    estimate, low, high = (float(value) for value in first.interval)
    why = reason(estimate, low, high, margin=first.margin, p=first.p, p_below=first.p_below, alpha=alpha)
    if first.held is not None:
        why = f"{why}, but {first.held[0]}"
    held = None if first.held is None else first.held[1]
    unsure = first.p_below is not None and first.p_below > alpha
    if held is None and first.outcome is Outcome.INCONCLUSIVE and low < high < first.margin and unsure:
        held = (
            f"The same numbers ({shown(first.interval)}) would have refuted the claim if at most {alpha:g} of the "
            f"random sets fell as far short of the margin; {first.p_below:.2g} do."
        )
    if outcome is Outcome.INCONCLUSIVE and needed is None and n_images is not None:
        images = images_needed(estimate, low, high, n_images, margin=first.margin)
        if images is not None and images > n_images:
            needed = (
                f"About {images:,} images in place of {n_images:,} would decide if the estimate stayed as it is "
                "(in half of all repetitions)."
            )
    return Verdict(
        key=key, title=title, claim=claim, outcome=outcome, sentence=sentence, effect=estimate, low=low, high=high,
        unit=unit, margin=first.margin, p=first.p, alpha=alpha, n=n,
        reversed_by=held if held is not None else reversal(
            first.outcome, estimate, low, high, margin=first.margin, unit=unit if " of " in unit else "", p=first.p,
            alpha=alpha, what=first.what, bounds=bounds,
        ),
        limits=limits, needed=needed if outcome is Outcome.INCONCLUSIVE else None,
        details={"decided_by": first.what.split(" ", 1)[-1], "reason": why, **(details or {})},
    )  # fmt: skip


def shown(interval: Interval, form: str = "+.3f") -> str:
    """``0.41 [0.38, 0.44]``, or that there is no such number."""
    estimate, low, high = (float(value) for value in interval)
    if np.isnan(estimate):
        return "not measured"
    return f"{estimate:{form}} [{low:{form}}, {high:{form}}]"


def effect_text(verdict: Verdict) -> str:
    """Effect of a verdict with its interval and unit."""
    if verdict.effect != verdict.effect:
        return "not measured"
    form = "+.2f" if " of " in verdict.unit else "+.3f"
    effect = f"{verdict.effect:{form}}"
    if verdict.low == verdict.low:
        effect += f" [{verdict.low:{form}}, {verdict.high:{form}}]"
    return f"{effect} {verdict.unit}".strip()


def wider(first: Interval, second: Interval) -> Interval:
    """The estimate of the first with the outer ends of both."""
    return Interval(
        first.estimate,
        np.asarray(min(float(first.low), float(second.low))),
        np.asarray(max(float(first.high), float(second.high))),
    )
