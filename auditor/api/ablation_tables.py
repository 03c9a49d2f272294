"""Write what an ablation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.ablation import Race, accuracy_with_interval, curve_areas, curve_table
from auditor.api.ablation_settings import AblationSettings
from auditor.api.bench import Bench
from auditor.api.engines import Agreement
from auditor.api.joint import Joint, Plan
from auditor.api.measure_units import agreements
from auditor.causal import set_test
from auditor.store.files import write_csv, write_json

EXACT = "loss_change"


def write_tables(
    folder: Path,
    bench: Bench,
    plan: Plan,
    joint: Joint,
    measured: pd.DataFrame,
    *,
    names: pd.Series,
    sampled: NDArray[np.int64],
    left_out: Sequence[str],
    checks: Mapping[str, Agreement],
    race: Race | None,
) -> None:
    """Write the tables and ``results.json``.

    Parameters
    ----------
    folder : Path
    bench : Bench
    plan : Plan
    joint : Joint
    measured : pandas.DataFrame
        Effects of single units, indexed by row of the unit table.
    names : pandas.Series
        Preferred class of every unit of the run.
    sampled : ndarray of int64
        Rows that were measured because they were drawn at random.
    left_out : sequence of str
        Sites without candidates.
    checks : mapping of str to Agreement
    race : Race or None
    """
    settings, units = bench.settings, bench.units
    labels, n_sets = bench.images.labels, settings.random_sets
    loss = joint.effects.loss_change.astype(np.float64)
    right = joint.effects.prediction == labels
    lost = right[0].astype(np.float64) - right
    tests = {
        name: set_test(values[1], values[2 : 2 + n_sets], confidence=settings.confidence)
        for name, values in (("loss_change", loss), ("accuracy_drop", lost))
    }
    points = pd.DataFrame(
        [(c.order, c.kind, c.draw, len(c.silenced(count))) for c, count in plan.points],
        columns=["order", "kind", "draw", "n_silenced"],
    )
    on_curves = right[2 + n_sets :]
    points["correct"] = on_curves.sum(1)
    areas = curve_areas(
        points, on_curves, right[0], n_units=len(units), chance=1 / len(bench.run.classes),
        confidence=settings.confidence, seed=settings.seed,
    )  # fmt: skip
    write_csv(folder / "units.csv", _unit_table(units, plan, measured, names, bench.run.classes, settings))
    write_csv(
        folder / "curve.csv", curve_table(int(right[0].sum()), points, len(labels), confidence=settings.confidence)
    )
    write_csv(folder / "areas.csv", areas)
    sets = {
        "set": np.arange(n_sets),
        "loss_change": tests["loss_change"].null,
        "accuracy_drop": tests["accuracy_drop"].null,
        "overlap": plan.sets.overlap,
        "units": [" ".join(units["unit_id"].to_numpy()[rows]) for rows in plan.sets.sets],
    }
    write_csv(folder / "sets.csv", pd.DataFrame(sets))
    if race is not None:
        table = race.to_frame()
        table.insert(0, "unit_id", units["unit_id"].to_numpy())
        write_csv(folder / "race.csv", table.sort_values("mean", ascending=False, kind="stable"))
    accuracy, low, high = accuracy_with_interval(right[0], settings.confidence)
    match = plan.sets.to_dict()
    sites = list(dict.fromkeys(units["site"]))
    match["pool_sizes"] = {sites[code]: size for code, size in plan.sets.pool_sizes.items()}
    content: dict[str, Any] = {
        "ranked_by": settings.column,
        "left_out": list(left_out),
        "chosen_on": "select",
        "scored_on": "score",
        "n_units": len(plan.chosen),
        "n_measured": len(measured),
        "n_images": len(labels),
        "units_by_site": plan.chosen["site"].value_counts(sort=False).to_dict(),
        "edit": repr(bench.edit),
        "intact": {"accuracy": accuracy, "low": low, "high": high},
        "tests": {name: test.to_dict() for name, test in tests.items()},
        "matching": match,
        "engine": {
            "name": bench.engine.name,
            "dtype": settings.dtype,
            "folded_batch_norms": getattr(bench.engine, "folded", 0),
            "fallbacks": bench.engine.fallbacks,
            "checks": {name: check.to_dict() for name, check in checks.items()},
        },
        "agreement": _agreement(measured, sampled, settings),
    }
    if race is not None:
        content["race"] = {
            "k": settings.top_important, "delta": race.delta, "bound": race.bound, "rounds": race.rounds,
            "evaluations": race.evaluations, "possible": race.possible, "exact": race.exact,
            "units": units["unit_id"].to_numpy()[race.chosen].tolist(),
        }  # fmt: skip
    write_json(folder / "results.json", content)


def _unit_table(
    units: pd.DataFrame,
    plan: Plan,
    measured: pd.DataFrame,
    names: pd.Series,
    classes: Sequence[str],
    settings: AblationSettings,
) -> pd.DataFrame:
    """Selected units by rank, then the others in the network's order."""
    ranks = pd.Series(np.arange(1, len(plan.chosen) + 1), index=plan.chosen.index)
    others = [row for row in measured.index if row not in ranks.index]
    order = [*ranks.index, *others]
    metric = settings.metric
    columns = ["unit_id", "site", "unit", "preferred", "mean", "firing_rate", "index", "index_excess", "index_q"]
    columns += [metric, f"{metric}_excess", f"{metric}_q", settings.column]
    table = units.loc[order, list(dict.fromkeys(columns))]
    table["preferred"] = names.loc[order]
    table.insert(0, "rank", ranks.reindex(order).astype("Int64"))
    effects = measured.loc[order].copy()
    worst = effects["worst_class"].to_numpy()
    effects["worst_class"] = [classes[code] if code >= 0 else None for code in worst]
    return table.join(effects).reset_index(drop=True)


def _agreement(measured: pd.DataFrame, sampled: NDArray[np.int64], settings: AblationSettings) -> dict[str, Any]:
    """How well estimates and attributions rank units, against the exact effects.

    Of units that an estimate picked only the random sample is used: among the picked ones the range is cut off.
    """
    pairs = [(method, "target_logit_drop") for method in settings.methods]
    if "estimated_loss_change" in measured:
        pairs += [("estimated_loss_change", EXACT), ("estimated_logit_drop", "target_logit_drop")]
    among = measured.loc[np.sort(sampled)] if len(sampled) else measured
    return agreements(among, pairs, settings.confidence, settings.seed)
