"""Tests of whether selectivity predicts importance: within layers, for a unit's class, by any definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from auditor.api.findings import IMPORTANCE, Findings, Part, shown, verdict, wider
from auditor.api.selection import signed_metrics
from auditor.causal import Outcome, Verdict, combine, decide, units_needed
from auditor.causal.agreement import metric_agreement
from auditor.causal.correlation import LayerCorrelations, layer_correlations
from auditor.causal.own_class import OwnClassResult, own_class_damage
from auditor.causal.pooling import Pooled, pool_draws
from auditor.registry import registry
from auditor.stats.intervals import Interval

MAIN = next(iter(IMPORTANCE))


def correlation(findings: Findings) -> tuple[Verdict, LayerCorrelations]:
    """Test whether selective units are more important than others of their layer."""
    settings = findings.settings
    found: dict[str, LayerCorrelations] = {}
    for name in IMPORTANCE:
        found[name] = layer_correlations(
            findings.measured.score, findings.importance(name), findings.codes, covariates=findings.covariates,
            images=findings.per_image(name), labels=findings.measured.labels,
            n_boot=settings.resamples, confidence=settings.confidence, seed=settings.seed,
        )  # fmt: skip
    findings.tables["correlations"] = pd.concat(
        [findings.named(each.table).assign(importance=name) for name, each in found.items()], ignore_index=True
    )
    main = found[MAIN]
    plain, partial = (_over_both(main, partial=which) for which in (False, True))
    findings.tables["correlations_pooled"] = _pooled_table(found)
    margin = settings.margins.correlation
    parts = [
        _judged(findings, plain, margin, "a mean rank correlation"),
        _judged(findings, partial, margin, "a partial rank correlation"),
    ]
    pooled = main.pooled()
    sentence = (
        f"Within layers the rank correlation of selectivity with importance (loss) is {shown(plain)} on average, and "
        f"{shown(partial)} at equal mean activation and firing rate."
    )
    others = ", ".join(
        f"{IMPORTANCE[name]} {shown(_interval(each.pooled()))}" for name, each in found.items() if name != MAIN
    )
    significant = int((main.table["q"] <= settings.alpha).sum())
    limits = [
        f"By other measures of importance: {others} (over layers).",
        f"{significant} of {pooled.n_layers} layers have a correlation at a false-discovery rate of "
        f"{settings.alpha:g}; {pooled.i2:.0%} of its variance is between layers (I2).",
        "Units are silenced one at a time: what several do together is tested by the sets.",
    ]
    undefined = main.table[main.table["reason"] != ""]
    if len(undefined):
        limits.append(f"{len(undefined)} layers are left out or partly so ({undefined['reason'].iloc[0]}).")
    return verdict(
        findings, parts, combine(part.outcome for part in parts),
        key="correlation", title="Selectivity predicts importance",
        claim=f"Within layers, more selective units are more important: a rank correlation over {margin:g}, also at "
        "equal mean activation and firing rate.",
        sentence=sentence, unit="rank correlation",
        n=f"{pooled.n_units} units in {pooled.n_layers} layers, {len(findings.measured.labels)} images",
        bounds=(-1, 1), limits=tuple(limits), needed=_units(parts, pooled, margin),
        details={"pooled": pooled.to_dict(), "partial": main.pooled(partial=True).to_dict()},
    ), main  # fmt: skip


def own_class(findings: Findings) -> tuple[Verdict, OwnClassResult]:
    """Test whether silencing a unit damages the class it prefers more than others."""
    settings = findings.settings
    selective = np.isfinite(findings.measured.score)
    result = own_class_damage(
        findings.per_image(MAIN), findings.measured.labels, np.where(selective, findings.preferred, -1),
        findings.codes, n_null=settings.resamples, confidence=settings.confidence, seed=settings.seed,
    )  # fmt: skip
    units = result.units.copy()
    units.insert(0, "unit_id", findings.run.selectivity["unit_id"].to_numpy())
    findings.tables["own_class_units"] = units
    findings.tables["own_class"] = findings.named(result.layers)
    o = result.overall
    shift = o["excess_null_mean"]
    interval = wider(
        Interval(*(np.asarray(o[name] - shift) for name in ("excess", "excess_low", "excess_high"))),
        Interval(*(np.asarray(o[name] - shift) for name in ("excess", "excess_low_images", "excess_high_images"))),
    )
    margin = settings.margins.own_class
    part = _judged(findings, interval, margin, "an excess probability", p=o["excess_p"])
    # More images narrow the interval only where it is that over images.
    over_images = o["excess_high_images"] - o["excess_low_images"] >= o["excess_high"] - o["excess_low"]
    damaged = int((result.units["q"] <= settings.alpha).sum())
    return verdict(
        findings, [part], part.outcome,
        key="own_class", title="Damage to the preferred class",
        claim="Silencing a unit damages images of the class it prefers more than others: more often by over "
        f"{margin:g} than with preferred classes permuted within the layer.",
        sentence=f"An image of the preferred class loses more than another in {0.5 + o['excess']:.1%} of pairs, "
        f"against {0.5 + shift:.1%} with preferred classes permuted: {shown(interval)}.",
        unit="probability", n=f"{int(o['n_units'])} units, {len(findings.measured.labels)} images",
        n_images=len(findings.measured.labels) if over_images else None, bounds=(-0.5, 0.5),
        limits=(
            f"{damaged} of {int(o['n_units'])} units damage their class differently at a false-discovery rate of "
            f"{settings.alpha:g}; a class that is fragile under any ablation is among those.",
            "Averages over units weight large layers most; the table by layer shows where it holds.",
        ),
        details={"overall": o},
    ), result  # fmt: skip


def metric_dependence(findings: Findings) -> tuple[Verdict, pd.DataFrame, pd.DataFrame]:
    """Test whether the answer on correlation is the same for every definition of selectivity."""
    settings, units = findings.settings, findings.run.selectivity
    scored = [*findings.run.manifest.identity["selectivity"]["metrics"], *signed_metrics(findings.run.layers)]
    # The index is defined nowhere in a network whose layers all have signed responses.
    names = [n for n in dict.fromkeys(scored) if f"{n}_excess" in units and units[f"{n}_excess"].notna().any()]
    importance = findings.importance(MAIN)
    rows: list[dict[str, Any]] = []
    scores = units[[f"{name}_excess" for name in names]].set_axis(names, axis=1).astype(float)
    for name in names:
        each = layer_correlations(
            scores[name], importance, findings.codes, covariates=findings.covariates, images=findings.per_image(MAIN),
            labels=findings.measured.labels, n_boot=settings.resamples, confidence=settings.confidence,
            seed=settings.seed,
        )  # fmt: skip
        intervals = [_over_both(each, partial=which) for which in (False, True)]
        outcomes = [_judged(findings, one, settings.margins.correlation, "").outcome for one in intervals]
        row: dict[str, Any] = {"metric": name, "label": registry().metric(name).label, "n_units": each.pooled().n_units}
        for prefix, (estimate, low, high) in zip(("", "partial_"), intervals, strict=True):
            row |= {f"{prefix}rho": float(estimate), f"{prefix}low": float(low), f"{prefix}high": float(high)}
        rows.append(row | {"outcome": str(combine(outcomes))})
    table = pd.DataFrame(rows)
    agreement = metric_agreement(
        scores, findings.codes, n_boot=settings.resamples, confidence=settings.confidence, seed=settings.seed
    )
    findings.tables["metrics"], findings.tables["metric_agreement"] = table, agreement
    outcomes = [Outcome(value) for value in table["outcome"]]
    if {Outcome.SUPPORTED, Outcome.REFUTED} <= set(outcomes):
        outcome = Outcome.REFUTED
    elif len(set(outcomes)) == 1 and outcomes[0] is not Outcome.INCONCLUSIVE and len(outcomes) > 1:
        outcome = Outcome.SUPPORTED
    else:
        outcome = Outcome.INCONCLUSIVE
    known = [row for row in rows if np.isfinite(row["rho"])] or rows[:1]
    least, most = min(known, key=lambda row: row["rho"]), max(known, key=lambda row: row["rho"])
    counts = ", ".join(f"{outcomes.count(which)} {which}" for which in Outcome if which in outcomes)
    sentence = (
        f"Over {len(table)} definition{'s' if len(table) > 1 else ''} of selectivity the mean rank correlation with "
        f"importance runs from {_of(least)} ({least['metric']}) to {_of(most)} ({most['metric']}): {counts}."
    )
    spread = float(most["rho"] - least["rho"])
    return Verdict(
        key="metrics", title="Independence of the definition",
        claim="Whether selectivity predicts importance does not depend on how selectivity is measured.",
        outcome=outcome, sentence=sentence, effect=spread, low=float("nan"), high=float("nan"),
        unit="rank correlation, largest minus smallest; no interval", margin=settings.margins.correlation, p=None,
        alpha=settings.alpha, n=f"{len(table)} metrics, {len(units)} units",
        reversed_by="One metric that supports the claim and one that refutes it would have refuted independence; "
        "the same definite answer by all would have supported it.",
        limits=(
            "Metrics are scored on the same images and are not independent; their agreement is in the table.",
            *(("Only one metric was scored; --metric all scores the others.",) if len(table) == 1 else ()),
        ),
        needed="A definite answer by every metric: narrower intervals, from more units or layers."
        if outcome is Outcome.INCONCLUSIVE else None,
        details={"outcomes": dict(zip(table["metric"], table["outcome"], strict=True))},
    ), table, agreement  # fmt: skip


def _over_both(found: LayerCorrelations, *, partial: bool) -> Interval:
    """Mean over layers with the outer ends of its intervals over layers and over images."""
    name = "partial_rho" if partial else "rho"
    draws = found.partial_image_draws if partial else found.image_draws
    interval = _interval(found.pooled(partial=partial))
    if draws is None or not np.isfinite(float(interval.estimate)):
        return interval
    if (np.isfinite(draws) | np.isnan(found.table[name].to_numpy(dtype=float))).all(1).sum() < 2:
        # Hardly any resample of the images leaves every layer with a correlation.
        return interval
    images = pool_draws(
        draws, found.table[name], found.table["n_units"], n_covariates=found.n_covariates if partial else 0,
        confidence=found.confidence,
    )  # fmt: skip
    return wider(interval, images)


def _of(row: dict[str, Any]) -> str:
    return shown(Interval(*(np.asarray(row[name]) for name in ("rho", "low", "high"))))


def _interval(pooled: Pooled) -> Interval:
    return Interval(*(np.asarray(value) for value in (pooled.mean, pooled.low, pooled.high)))


def _judged(findings: Findings, interval: Interval, margin: float, what: str, *, p: float | None = None) -> Part:
    estimate, low, high = (float(value) for value in interval)
    outcome = decide(estimate, low, high, margin=margin, p=p, alpha=findings.settings.alpha)
    return Part(outcome, interval, margin, what, p)


def _pooled_table(found: dict[str, LayerCorrelations]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"importance": name, "partial": partial} | each.pooled(partial=partial).to_dict()
            for name, each in found.items()
            for partial in (False, True)
        ]
    )


def _units(parts: list[Part], pooled: Pooled, margin: float) -> str | None:
    rho = next((float(p.interval.estimate) for p in parts if p.outcome is Outcome.INCONCLUSIVE), float("nan"))
    wanted = units_needed(rho, margin) if np.isfinite(rho) and abs(rho) < 1 else None
    if wanted is None:
        return None
    if pooled.n_units > wanted:
        return "More layers, not units: the correlation differs between the layers at hand by more than their noise."
    return f"About {wanted:,} units in place of {pooled.n_units:,} would decide if the estimate stayed as it is."
