"""Controls: the ranking on other images, and before training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from auditor.api.audit_ranks import MAIN
from auditor.api.findings import Findings, Part, shown, verdict
from auditor.causal import Outcome, Verdict, combine, decide
from auditor.causal.correlation import layer_correlations
from auditor.causal.reliability import SplitHalf, ceiling, split_half
from auditor.stats.intervals import Interval


def controls(findings: Findings) -> tuple[Verdict, SplitHalf]:
    """Test whether selectivity reproduces on other images and is more than that of an untrained network."""
    settings, found = findings.settings, findings.controls
    assert found is not None
    halves = split_half(
        found.first, found.second, findings.codes, n_boot=settings.resamples, confidence=settings.confidence,
        seed=settings.seed,
    )  # fmt: skip
    important = _importance_halves(findings)
    learned = _learned(findings)
    findings.tables["reliability"] = pd.concat(
        [findings.named(each.table).assign(of=name) for name, each in (("selectivity", halves), (MAIN, important))],
        ignore_index=True,
    )
    findings.tables["controls"] = pd.DataFrame(
        {
            "unit_id": findings.run.selectivity["unit_id"].to_numpy(),
            "first_half": found.first,
            "second_half": found.second,
            "shuffled_labels": found.shuffled,
            "trained_excess": found.trained,
            "untrained_excess": found.untrained,
        }
    )
    shuffled = layer_correlations(
        found.shuffled, findings.importance(MAIN), findings.codes, n_boot=2, confidence=settings.confidence,
        seed=settings.seed,
    ).pooled()  # fmt: skip
    rho = Interval(*(np.asarray(value) for value in (shuffled.mean, shuffled.low, shuffled.high)))
    margin = settings.margins.reliability
    parts = [
        Part(_decided(halves.reliability, margin, findings), halves.reliability, margin, "a reliability"),
        Part(_decided(learned, 0.0, findings), learned, 0.0, "a gain of selectivity by training"),
    ]
    most = float(ceiling(halves.reliability.estimate, np.clip(important.reliability.estimate, None, 1.0)))
    limits = (
        f"The reliability of importance is {shown(important.reliability)}; no correlation of the two can be expected "
        + ("to show." if np.isnan(most) else f"above {most:.2f}, the square root of their product."),
        f"Selectivity for labels in random order correlates with importance by {shown(rho)} within layers: what of the "
        "correlation has nothing to do with classes.",
        "One split into halves, one untrained network: their choice is not in the intervals.",
    )
    return verdict(
        findings, parts, combine(part.outcome for part in parts),
        key="controls", title="Controls of the ranking",
        claim=f"The ranking by selectivity reproduces on other images (reliability over {margin:g}), and training made "
        "units more selective than random weights do.",
        sentence=f"The reliability of the ranking within layers is {shown(halves.reliability, '.3f')}; training raised "
        f"mean selectivity above shuffled labels by {shown(learned)}.",
        unit="reliability", n=f"{found.n_images} images of the select split, {len(findings.codes)} units",
        bounds=(-1, 1),
        limits=limits,
        details={
            "selectivity": halves.to_dict(), "importance": important.to_dict(),
            "ceiling": None if np.isnan(most) else most,
            "learned": [float(value) for value in learned], "shuffled_labels": shuffled.to_dict(),
        },
    ), halves  # fmt: skip


def _decided(interval: Interval, margin: float, findings: Findings) -> Outcome:
    estimate, low, high = (float(value) for value in interval)
    return decide(estimate, low, high, margin=margin, alpha=findings.settings.alpha)


def _importance_halves(findings: Findings) -> SplitHalf:
    """Reliability of importance, from halves of the score split, drawn within classes."""
    labels, rng = findings.measured.labels, np.random.default_rng([findings.settings.seed, 52])
    first = np.zeros(len(labels), dtype=bool)
    for number, label in enumerate(np.unique(labels)):
        members = rng.permutation(np.flatnonzero(labels == label))
        first[members[: (len(members) + number % 2) // 2]] = True
    effects = findings.per_image(MAIN)
    return split_half(
        effects[:, first].mean(1, dtype=np.float64), effects[:, ~first].mean(1, dtype=np.float64), findings.codes,
        n_boot=findings.settings.resamples, confidence=findings.settings.confidence, seed=findings.settings.seed,
    )  # fmt: skip


def _learned(findings: Findings) -> Interval:
    """Excess of the trained over the untrained network: mean over layers of means over units."""
    assert findings.controls is not None
    gain = pd.DataFrame(
        {"site": findings.codes, "gain": findings.controls.trained - findings.controls.untrained}
    ).dropna()
    layers = gain.groupby("site")["gain"].agg(["mean", "var", "count"])
    layers = layers[layers["count"] > 1]
    if layers.empty:
        return Interval(*[np.asarray(np.nan)] * 3)
    mean = float(layers["mean"].mean())
    spread = float(np.sqrt((layers["var"] / layers["count"]).sum()) / len(layers))
    half = float(ndtri((1 + findings.settings.confidence) / 2)) * spread
    return Interval(*(np.asarray(mean + shift) for shift in (0.0, -half, half)))
