"""Put an audit into the form in which the report page takes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from auditor.api.audit_figures import Drawing
from auditor.api.audit_result import Audit
from auditor.api.evidence import Example, UnitEvidence, unit_evidence
from auditor.api.findings import effect_text
from auditor.api.forward import Execution
from auditor.api.methods import REFERENCES, methods
from auditor.api.notable import notable_units
from auditor.api.selection import INDEX, main_metric, scored_by
from auditor.causal import Verdict
from auditor.registry import registry
from auditor.report.documents import anchor
from auditor.report.page import (
    ClassResponse,
    Column,
    Fact,
    FigureBlock,
    FileLink,
    Measure,
    Reference,
    ReportPage,
    Thumbnail,
    UnitCard,
    VerdictBlock,
)
from auditor.report.style import svg_text
from auditor.report.thumbnails import region, thumbnail

CARDS = 16
_MEASURES = (
    ("loss_change", "change of the loss", "nats", 1.0, 4),
    ("target_logit_drop", "drop of the label's logit", "", 1.0, 3),
    ("kl", "KL divergence from the intact output", "nats", 1.0, 4),
    ("accuracy_change", "change of accuracy", "points", 100.0, 2),
    ("balanced_accuracy_change", "change of balanced accuracy", "points", 100.0, 2),
    ("preferred_accuracy_change", "change of accuracy on the preferred class", "points", 100.0, 2),
    ("other_accuracy_change", "change of accuracy on the others", "points", 100.0, 2),
)


def page(audit: Audit, execution: Execution) -> ReportPage:
    """Collect what the report shows.

    Parameters
    ----------
    audit : Audit
    execution : Execution
        Of the passes over the images of the notable units.
    """
    run, results = audit.run, audit.results
    base = os.path.relpath(audit.path, run.path).replace(os.sep, "/")
    accuracy = results["accuracy"]
    facts = [
        Fact("Model", str(run.manifest.identity["model"]["spec"])),
        Fact("Data", f"{run.manifest.identity['data']['name']}, {len(run.classes)} classes"),
        Fact("Units", f"{results['n_units']:,} in {len(run.sites)} layers"),
        Fact("Images", f"{int(run.selectivity['n_images'].iloc[0]):,} to choose, {results['n_images']:,} to test"),
        Fact(
            "Accuracy", f"{accuracy['estimate']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}] on the test images"
        ),
        Fact("Declared", f"{_when(audit)}, sha256 {audit.manifest.digest()[:16]}"),
    ]
    units, columns = _table(audit)
    return ReportPage(
        title=f"Audit of {run.name}",
        subtitle="Are the neurons that are easy to interpret causally important?",
        answer=audit.answer,
        facts=facts,
        verdicts=[_block(verdict) for verdict in audit.verdicts],
        figures=[_figure(drawing, base) for drawing in audit.drawings()],
        units=units,
        columns=columns,
        cards=_cards(audit, execution),
        methods=methods(audit),
        references=[Reference(text, url) for text, url in REFERENCES],
        files=[
            FileLink(path.name, f"{base}/{path.name}") for path in sorted(audit.path.iterdir())
            if path.suffix in (".csv", ".parquet", ".json")
        ],
        footer=f"auditor {audit.manifest.provenance['versions'].get('auditor', '')}, run {run.name}",
        interval=_level(audit.confidence),
    )  # fmt: skip


def _level(confidence: float) -> str:
    return f"{100 * confidence:g} % interval"


def _own_level(audit: Audit) -> str:
    """What to say of the run's intervals, where theirs is not the level that the page names."""
    own = _level(audit.run.confidence)
    return "" if own == _level(audit.confidence) else f", {own}"


def _when(audit: Audit) -> str:
    created = datetime.fromisoformat(audit.manifest.provenance["created"])
    return f"{created:%Y-%m-%d %H:%M} UTC"


def _block(verdict: Verdict) -> VerdictBlock:
    return VerdictBlock(
        key=verdict.key, title=verdict.title, claim=verdict.claim, outcome=str(verdict.outcome),  # type: ignore[arg-type]
        sentence=verdict.sentence, effect=effect_text(verdict), margin=f"{verdict.margin:g}",
        p=None if verdict.p is None or verdict.p != verdict.p else f"{verdict.p:.3g}", n=verdict.n,
        reversed_by=verdict.reversed_by, limits=verdict.limits, needed=verdict.needed,
    )  # fmt: skip


def _figure(drawing: Drawing, base: str) -> FigureBlock:
    files = [FileLink(kind.upper(), f"{base}/figures/{drawing.key}.{kind}") for kind in ("png", "svg", "pdf")]
    svg = svg_text(drawing.draw(), prefix=f"fig-{drawing.key}", label=drawing.title)
    return FigureBlock(drawing.key, drawing.title, svg, drawing.caption, f"{drawing.title}. {drawing.caption}", files)


def _table(audit: Audit) -> tuple[pd.DataFrame, list[Column]]:
    units = audit.units.copy()
    metrics = [name for name in audit.run.manifest.identity["selectivity"]["metrics"] if name in units]
    for name, _, _, scale, _ in _MEASURES:
        if scale != 1.0:
            ends = [f"{name}{end}" for end in ("", "_low", "_high")]
            units[ends] = units[ends] * scale
    label = registry().metric(main_metric(audit.run.layers)).label
    columns = [
        Column("unit_id", "unit"),
        Column("site", "layer", choice=True),
        Column("preferred", "prefers", kind="class", choice=True),
        Column("chosen", "chosen", kind="flag", help="Among the units that were silenced together.", choice=True),
        Column("significant", "selective", kind="flag", choice=True,
               help="Selective beyond shuffled labels at the declared false-discovery rate."),
        Column("score", "score", kind="number", help=f"What ranks the units: {label} above shuffled labels."),
    ]  # fmt: skip
    units["significant"] = _by_its_metric(audit, units, "{}_q") <= audit.declaration["q"]
    units["preferred"] = _by_its_metric(audit, units, "{}_preferred")
    for name, text, unit, _, digits in _MEASURES:
        if name in units:
            columns.append(
                Column(name, text, kind="number", unit=unit, digits=digits, low=f"{name}_low", high=f"{name}_high")
            )
    columns += [
        Column("mean", "mean activation", kind="number", help="Over the images that chose; no interval."),
        Column("firing_rate", "firing rate", kind="number", help="Share of images with a response; no interval."),
    ]
    for name in metrics:
        low, high = f"{name}_low", f"{name}_high"
        bounded = low in units and high in units
        columns.append(
            Column(name, registry().metric(name).label + (_own_level(audit) if bounded else ""), kind="number",
                   low=low if bounded else None, high=high if bounded else None)
        )  # fmt: skip
    return units, columns


def _by_its_metric(audit: Audit, units: pd.DataFrame, form: str) -> pd.Series:
    """A column for each unit by the metric that its layer is judged by, such as ``{}_q``."""
    by = units["site"].map(scored_by(audit.run.layers))
    found = units[_column(INDEX, form)]
    for metric in set(by) - {INDEX}:
        found = found.where(by != metric, units[_column(metric, form)])
    return found


def _column(metric: str, form: str) -> str:
    return "preferred" if (metric, form) == (INDEX, "{}_preferred") else form.format(metric)


def _cards(audit: Audit, execution: Execution) -> list[UnitCard]:
    units = audit.units
    chosen = notable_units(audit.run.selectivity, units, n=CARDS)
    if chosen.empty:
        return []
    seen = unit_evidence(audit.run, chosen["unit_id"].tolist(), execution=execution, seed=audit.declaration["seed"])
    rows = {str(row["unit_id"]): row for row in units.to_dict("records")}
    whys = dict(zip(chosen["unit_id"], chosen["why"], strict=True))
    return [_card(evidence, rows[evidence.unit_id], str(whys[evidence.unit_id]), audit) for evidence in seen]


def _card(evidence: UnitEvidence, row: dict[Any, Any], why: str, audit: Audit) -> UnitCard:
    metric = scored_by(audit.run.layers)[str(row["site"])]
    name = registry().metric(metric).label + _own_level(audit)
    facts = [
        Fact("Layer", str(row["site"])),
        Fact("Prefers", str(row[_column(metric, "{}_preferred")])),
        Fact(name, f"{row[metric]:.3f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"),
        Fact("With shuffled labels", f"{row[f'{metric}_null']:.3f} (q = {row[f'{metric}_q']:.2g})"),
        Fact("Mean activation", f"{row['mean']:.3g} (no interval)"),
        Fact("Firing rate", f"{row['firing_rate']:.1%} (no interval)"),
        *([Fact("Regions", evidence.region_note.removeprefix("Region: "))] if evidence.region_note else []),
        *(Fact("Note", note) for note in evidence.notes),
    ]
    importance = [
        Measure(text, row[key] * scale, row[f"{key}_low"] * scale, row[f"{key}_high"] * scale, unit, digits)
        for key, text, unit, scale, digits in _MEASURES
        if key in row
    ]
    tuning = [
        ClassResponse(label, float(mean), float(se), label == facts[1].value)
        for label, mean, se in zip(evidence.class_names, evidence.mean, evidence.se, strict=True)
    ]
    return UnitCard(
        evidence.unit_id, anchor(evidence.unit_id), why, facts, importance, tuning, _pictures(evidence.top),
        _pictures(evidence.random),
    )  # fmt: skip


def _pictures(examples: Sequence[Example]) -> list[Thumbnail]:
    return [
        Thumbnail(
            thumbnail(one.image), one.class_name, one.sample_id, one.response,
            None if one.region is None else region(one.image, one.region),
        )
        for one in examples
    ]  # fmt: skip
