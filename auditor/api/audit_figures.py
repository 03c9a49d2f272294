"""The figures of an audit, from the tables on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auditor.api.selection import main_metric
from auditor.registry import registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from auditor.api.audit_result import Audit

_LOSS = "increase of the loss (nats)"


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes
    ----------
    key : str
        File name without ending.
    title : str
    caption : str
        What it shows and how to read it.
    draw : callable
    """

    key: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def drawings(audit: Audit) -> Iterator[Drawing]:
    """Yield the figures whose hypotheses were tested, in the order of the report."""
    run, tested = audit.run, {verdict.key for verdict in audit.verdicts}
    metric = registry().metric(main_metric(run.layers)).label
    yield Drawing(
        "selectivity", "Selectivity by layer",
        "Selectivity of the units of each layer on the select split, and what units show whose labels are shuffled.",
        run.plot,
    )  # fmt: skip
    if "necessity" in tested:
        yield Drawing(
            "necessity", "Silencing sets of units",
            "What silencing the most selective units costs, against matched random sets and the least selective units. "
            "Lines are means over images; bands of the selective and least selective sets are intervals over images, "
            "the band of random sets is the middle 95 % of the draws.",
            lambda: _curves(audit, kept=False),
        )  # fmt: skip
    if "correlation" in tested:
        yield Drawing(
            "density", "Importance against selectivity",
            "Every unit, by selectivity above shuffled labels and by what silencing it alone does to the loss.",
            lambda: _density(audit, metric),
        )  # fmt: skip
        yield Drawing(
            "correlations", "Selectivity and importance within layers",
            "Rank correlation of selectivity with importance (change of the loss) in each layer, and its mean.",
            lambda: _forest(audit),
        )  # fmt: skip
    if "own_class" in tested:
        yield Drawing(
            "own_class", "Damage by class",
            "What silencing a unit does to images of the class it prefers and to the others, and how often an image of "
            "the preferred class suffers more, against preferred classes permuted within the layer.",
            lambda: _own_class(audit),
        )  # fmt: skip
    if "sufficiency" in tested:
        yield Drawing(
            "sufficiency", "Keeping sets of units",
            "What is lost where only these units are kept and all others silenced.",
            lambda: _curves(audit, kept=True),
        )  # fmt: skip
    if "metrics" in tested:
        yield Drawing(
            "metrics", "Other definitions of selectivity",
            "Mean rank correlation with importance within layers, by definition of selectivity.",
            lambda: _metrics(audit),
        )  # fmt: skip
        if len(audit.table("metrics")) > 1:
            yield Drawing(
                "metric_agreement", "Agreement of the definitions",
                "Mean within-layer rank correlation between definitions of selectivity.",
                lambda: _agreement(audit),
            )  # fmt: skip
    if "controls" in tested:
        yield Drawing(
            "reliability", "Reliability of the ranking",
            "Selectivity of each unit above shuffled labels, on either half of the images.",
            lambda: _reliability(audit, metric),
        )  # fmt: skip


def _curves(audit: Audit, *, kept: bool) -> Figure:
    from auditor.report.audit_curves import necessity_curves

    accuracy = audit.declaration["measure"] == "accuracy"
    label = "accuracy lost (percentage points)" if accuracy else _LOSS
    name = "sufficiency" if kept else "necessity"
    return necessity_curves(
        audit.table(f"{name}_curve"), measure_label=label, total_units=len(audit.units), kept=kept,
        confidence=audit.confidence,
    )  # fmt: skip


def _density(audit: Audit, metric: str) -> Figure:
    from auditor.report.density import importance_density

    return importance_density(
        audit.units, score="score", importance="loss_change", score_label=f"{metric} above shuffled labels",
        importance_label=_LOSS, confidence=audit.confidence,
    )  # fmt: skip


def _forest(audit: Audit) -> Figure:
    from auditor.report.correlations import correlation_forest

    table = audit.table("correlations")
    pooled = audit.table("correlations_pooled").query("importance == 'loss_change' and not partial")
    mean = {str(key): float(value) for key, value in pooled.iloc[0].items() if key not in ("importance", "partial")}
    return correlation_forest(
        table[table["importance"] == "loss_change"].reset_index(drop=True), mean,
        label="Spearman correlation of selectivity with the change of the loss",
        margin=audit.declaration["margins"]["correlation"], confidence=audit.confidence,
    )  # fmt: skip


def _own_class(audit: Audit) -> Figure:
    from auditor.report.own_class import own_class_figure

    overall = next(v for v in audit.verdicts if v.key == "own_class").details["overall"]
    return own_class_figure(
        audit.table("own_class"), {key: np.nan if value is None else value for key, value in overall.items()},
        measure_label=_LOSS, contrast="excess",
        contrast_label="probability that the preferred class suffers more, minus 0.5", confidence=audit.confidence,
    )  # fmt: skip


def _metrics(audit: Audit) -> Figure:
    from auditor.report.metric_dependence import metric_forest

    table = audit.table("metrics")
    return metric_forest(
        table.assign(metric=table["label"]),
        label="Spearman correlation with the change of the loss, mean over layers",
        margin=audit.declaration["margins"]["correlation"],
        confidence=audit.confidence,
    )


def _agreement(audit: Audit) -> Figure:
    from auditor.report.metric_dependence import agreement_matrix

    table = audit.table("metrics")
    names = dict(zip(table["metric"].astype(str), table["label"].astype(str), strict=True))
    return agreement_matrix(audit.table("metric_agreement"), labels=names, confidence=audit.confidence)


def _reliability(audit: Audit, metric: str) -> Figure:
    from auditor.report.reliability import reliability_figure

    halves, table = audit.table("controls"), audit.table("reliability")
    found = next(v for v in audit.verdicts if v.key == "controls").details["selectivity"]["halves"]
    return reliability_figure(
        halves["first_half"], halves["second_half"], audit.run.selectivity["site"].tolist(), rho=found["mean"],
        low=found["low"], high=found["high"], label=f"{metric} above shuffled labels",
        by_layer=table[table["of"] == "selectivity"].reset_index(drop=True), confidence=audit.confidence,
    )  # fmt: skip
