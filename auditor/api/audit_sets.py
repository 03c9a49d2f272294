"""Necessity and sufficiency: sets of selective units against matched random and least selective ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from auditor.ablation import PairEffects
from auditor.api.audit_plan import NestedSets
from auditor.api.audit_settings import AuditSettings
from auditor.api.findings import Findings, Floats, Part, shown, verdict
from auditor.causal import NestedTest, Outcome, Verdict, combine, decide, draws_needed, nested_test
from auditor.stats.intervals import Interval, paired_mean_interval

SMD = 0.1
_UNITS = {"accuracy": "points of accuracy", "loss": "nats of loss"}
_FORMS = {"accuracy": "+.2f", "loss": "+.4f"}


def margin_of(settings: AuditSettings) -> tuple[float, float]:
    """Margin of set effects in the unit shown, and how many of those make one of the measure."""
    scale = 100.0 if settings.measure == "accuracy" else 1.0
    margin = settings.margins.accuracy if settings.measure == "accuracy" else settings.margins.loss
    return scale * margin, scale


def _margin(settings: AuditSettings) -> str:
    margin = margin_of(settings)[0]
    return f"{margin:g} " + _UNITS[settings.measure].replace("points", "point" if margin == 1 else "points")


def necessity(findings: Findings) -> tuple[Verdict, NestedTest]:
    """Test whether silencing selective units hurts more than silencing others."""
    measured, settings = findings.measured, findings.settings
    test = _test(findings, measured.silenced, measured.silenced_effects)
    findings.tables["necessity"] = test.to_frame()
    random, least = _scaled(test.predicted("random"), settings), _scaled(test.predicted("least"), settings)
    form = _FORMS[settings.measure]
    parts = _parts(findings, test, measured.silenced, "an extra cost")
    sizes = ", ".join(map(str, test.counts))
    sentence = (
        f"Silencing the most selective units ({sizes} of {measured.silenced.n_units}) costs {shown(random, form)} "
        f"{_UNITS[settings.measure]} more than silencing matched random ones, and {shown(least, form)} more than "
        "silencing the least selective ones (means over the set sizes)."
    )
    return verdict(
        findings, parts, combine(part.outcome for part in parts),
        key="necessity", title="Necessity of the set",
        claim=f"Silencing the most selective units hurts more than silencing matched random units and more than "
        f"silencing the least selective ones, by more than {_margin(settings)}.",
        sentence=sentence, unit=_UNITS[settings.measure], n=_counted(test), n_images=test.n_images,
        limits=_limits(findings, measured.silenced), needed=_draws(test, settings),
        details=_details(test, measured.silenced),
    ), test  # fmt: skip


def sufficiency(findings: Findings) -> tuple[Verdict, NestedTest]:
    """Test whether keeping only selective units retains more than keeping others."""
    measured, settings = findings.measured, findings.settings
    assert measured.kept is not None
    assert measured.kept_effects is not None
    test = _test(findings, measured.kept, measured.kept_effects)
    findings.tables["sufficiency"] = test.to_frame()
    random, least = _scaled(test.predicted("random"), settings), _scaled(test.predicted("least"), settings)
    form = _FORMS[settings.measure]
    parts = _parts(findings, test, measured.kept, "a saving")
    sizes = ", ".join(map(str, test.counts))
    limits = _limits(findings, measured.kept)
    chance = 1 / len(findings.run.classes)
    intact = float((measured.intact == measured.labels).mean())
    lost = [size.selected for size in test.sizes]
    if settings.measure == "accuracy" and all(intact - value < chance + 0.05 for value in lost):
        limits = (
            *limits,
            "At every size the kept units classify at chance, so this network says nothing on sufficiency without "
            "being trained again.",
        )
    return verdict(
        findings, parts, combine(part.outcome for part in parts),
        key="sufficiency", title="Sufficiency of the set",
        claim=f"Keeping only the most selective units retains more than keeping matched random units and more than "
        f"keeping the least selective ones, by more than {_margin(settings)}.",
        sentence=f"Keeping only the most selective units ({sizes} of {measured.kept.n_units}) retains "
        f"{shown(random, form)} {_UNITS[settings.measure]} more than keeping matched random ones, and "
        f"{shown(least, form)} more than keeping the least selective ones (means over the set sizes).",
        unit=_UNITS[settings.measure], n=_counted(test), n_images=test.n_images, limits=limits,
        needed=_draws(test, settings),
        details=_details(test, measured.kept),
    ), test  # fmt: skip


def _test(findings: Findings, sets: NestedSets, effects: PairEffects) -> NestedTest:
    settings = findings.settings
    chosen, least, random = findings.measured.set_effects(sets, effects, settings.measure)
    name = "sufficiency" if sets.kept else "necessity"
    findings.tables[f"{name}_curve"] = _curve(findings, sets, chosen, least, random)
    return nested_test(
        chosen, random, least, sets.counts, confidence=settings.confidence, seed=settings.seed,
        alternative="less" if sets.kept else "greater",
    )  # fmt: skip


def _curve(findings: Findings, sets: NestedSets, chosen: Floats, least: Floats, random: Floats) -> pd.DataFrame:
    """What each set costs, in the unit shown: intervals over images, and the middle 95 % of the random draws."""
    scale = margin_of(findings.settings)[1]
    table = pd.DataFrame({"n_units": sets.counts})
    for name, effects in (("selected", chosen), ("least", least)):
        found = paired_mean_interval(scale * effects, findings.settings.confidence)
        table[name], table[f"{name}_low"], table[f"{name}_high"] = found
    draws = scale * random.mean(2)
    table["random"] = draws.mean(0)
    table["random_low"], table["random_high"] = np.quantile(draws, [0.025, 0.975], axis=0)
    return table


def _parts(findings: Findings, test: NestedTest, sets: NestedSets, noun: str) -> list[Part]:
    settings = findings.settings
    margin, scale = margin_of(settings)
    form, unit = _FORMS[settings.measure], _UNITS[settings.measure]
    random = _scaled(test.predicted("random"), settings)
    least = _scaled(test.predicted("least"), settings)
    p, p_below = test.p_beyond(margin / scale), test.p_beyond(margin / scale, below=True)
    outcome = decide(*map(float, random), margin=margin, p=p, p_below=p_below, alpha=settings.alpha)
    # Sets that hold selective units themselves show too small a difference, and confounded ones any.
    undiluted = float(random.high) / max(1 - float(sets.matched.overlap.mean()), 0.01)
    held = None
    if outcome is Outcome.REFUTED and undiluted >= margin:
        held = (
            "random sets that hold selective units themselves show too small a difference",
            f"The same difference ({shown(random, form)} {unit}) from random sets without selective units would have "
            "refuted the claim.",
        )
    elif outcome is Outcome.SUPPORTED and not sets.matched.balanced(SMD):
        held = (
            "the random sets are not matched closely",
            f"The same difference ({shown(random, form)} {unit}) from random sets within {SMD} standard deviations of "
            "the selected units would have supported the claim.",
        )
    outcome = outcome if held is None else Outcome.INCONCLUSIVE
    other, unmatched = decide(*map(float, least), margin=margin, alpha=settings.alpha), None
    if other is Outcome.REFUTED and abs(_least_smd(findings, sets)) > SMD:
        other = Outcome.INCONCLUSIVE
        unmatched = (
            "the least selective units are not matched and may cost as much for their activation",
            f"The same difference ({shown(least, form)} {unit}) from least selective units within {SMD} standard "
            "deviations of mean activation would have refuted the claim.",
        )
    return [
        Part(outcome, random, margin, f"{noun} over matched random sets", p, p_below, held),
        Part(other, least, margin, f"{noun} over the least selective units", held=unmatched),
    ]


def _least_smd(findings: Findings, sets: NestedSets) -> float:
    """Mean activation of the least selective minus that of the selected units, within-layer standard deviations."""
    mean = findings.covariates[:, 0]
    scaled = np.full(len(mean), np.nan)
    for code in np.unique(findings.codes):
        members = findings.codes == code
        spread = float(np.nanstd(mean[members]))
        scaled[members] = (mean[members] - np.nanmean(mean[members])) / spread if spread > 0 else 0.0
    # Units in both sets make no difference between them.
    least, chosen = np.setdiff1d(sets.least, sets.chosen), np.setdiff1d(sets.chosen, sets.least)
    return float(np.nanmean(scaled[least]) - np.nanmean(scaled[chosen])) if len(least) and len(chosen) else 0.0


def _scaled(interval: Interval, settings: AuditSettings) -> Interval:
    scale = margin_of(settings)[1]
    return Interval(*(scale * value for value in interval))


def _counted(test: NestedTest) -> str:
    return f"{test.n_images} images, {test.n_draws} matched random sets at {len(test.counts)} sizes"


def _details(test: NestedTest, sets: NestedSets) -> dict[str, Any]:
    return {"area": test.to_dict()["area"], "matching": sets.matched.to_dict(), "counts": list(test.counts)}


def _draws(test: NestedTest, settings: AuditSettings) -> str | None:
    wanted = draws_needed(settings.alpha)
    margin, scale = margin_of(settings)
    p = test.p_beyond(margin / scale)
    if test.n_draws >= wanted:
        like = round(p * (test.n_draws + 1)) - 1
        if p <= settings.alpha or float(test.predicted().low) <= margin / scale:
            return None
        return (
            f"Not more images but sets that stand out more: {like} of {test.n_draws} random sets come within the "
            "margin of the selective one or beyond it."
        )
    return f"At least {wanted} random sets are needed for p to reach {settings.alpha:g}."


def _limits(findings: Findings, sets: NestedSets) -> tuple[str, ...]:
    matched, settings = sets.matched, findings.settings
    names = {"mean": "mean activation", "firing_rate": "firing rate", "output_norm": "output-weight norm"}
    limits = [
        f"Random sets are matched within layers on {', '.join(names[name] for name in settings.match)} (left over: "
        + ", ".join(f"{value:+.2f}" for value in matched.smds)
        + " standard deviations) and on nothing else."
    ]
    if not matched.balanced(SMD):
        limits.append(
            f"The match is not close (over {SMD} standard deviations): part of the difference may be due to what is "
            "left, so the claim is not called supported."
        )
    if matched.overlap.mean() > 0.05:
        limits.append(
            f"{matched.overlap.mean():.0%} of the units of the largest random sets are selective ones themselves, "
            "which makes differences smaller than those to sets without them; a refutation takes that into account."
        )
    smd = _least_smd(findings, sets)
    limits.append(
        f"The least selective units share the layers of the selected ones and are not matched: their mean activation "
        f"differs by {smd:+.2f} standard deviations within layers"
        + (", so that comparison alone refutes nothing." if abs(smd) > SMD else ".")
    )
    wanted = settings.keep_shares if sets.kept else settings.shares
    if len(sets.counts) < len(wanted):
        limits.append(f"{len(wanted) - len(sets.counts)} of {len(wanted)} declared sizes come to no unit of their own.")
    limits.append(
        f"Responses are replaced (edit {settings.edit}), which takes the network off the responses that it was "
        "trained with."
    )
    if findings.measured.fallbacks:
        limits.append(f"{len(findings.measured.fallbacks)} layers were ablated by whole passes.")
    return tuple(limits)
