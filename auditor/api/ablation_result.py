"""The result of an ablation: tables, tests, figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from auditor.ablation import PairEffects
from auditor.api.frames import read_table, records
from auditor.api.run import Run
from auditor.api.selection import INDEX, layers_with_signed, scored_by
from auditor.api.settings import ALPHA
from auditor.api.workspace import read_manifest
from auditor.manifest import Manifest
from auditor.registry import registry
from auditor.store.blocks import BlockCache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 5


class Ablation:
    """Importance of a run's most selective units.

    Parameters
    ----------
    path : Path
        Folder of the results, inside the run's.
    run : Run
    manifest : Manifest, optional
        Default: read from the folder.
    """

    def __init__(self, path: Path, run: Run, *, manifest: Manifest | None = None) -> None:
        self.path = path
        self.run = run
        self.manifest = manifest or read_manifest(path)

    def __repr__(self) -> str:
        return f"Ablation({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.effects.to_html(index=False, float_format=lambda v: f"{v:.4f}", escape=True)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """One row per unit that was ablated alone: the selected ones by rank, then others; see README."""
        return read_table(self.path / "units.csv")

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Accuracy against the number of units silenced, by order."""
        return read_table(self.path / "curve.csv")

    @cached_property
    def areas(self) -> pd.DataFrame:
        """Normalised area under each curve, and its difference from that of random orders."""
        return read_table(self.path / "areas.csv")

    @cached_property
    def by_class(self) -> pd.DataFrame:
        """What silencing each selected unit does to each class: changes of accuracy and loss, with intervals.

        Not there for more than a few million pairs of a unit and a class.
        """
        return read_table(self.path / "classes.csv")

    def per_image(self) -> tuple[pd.Index, PairEffects]:
        """Effects of every unit on every image of the score split, in its order.

        Returns
        -------
        units : pandas.Index
            Names of the units.
        effects : PairEffects
            Shape (units, images).
        """
        cache = BlockCache(self.path / "per_image")
        blocks = [block for key in cache.keys() if (block := cache.get(key)) is not None]  # noqa: SIM118
        rows = np.concatenate([block["row"] for block in blocks])
        names = pd.Index(self.run.selectivity["unit_id"].to_numpy()[rows], name="unit_id")
        return names, PairEffects.concatenate([PairEffects.from_arrays(block) for block in blocks], axis=0)

    @cached_property
    def sets(self) -> pd.DataFrame:
        """One row per matched random set: its units and what silencing them did."""
        return read_table(self.path / "sets.csv")

    @cached_property
    def results(self) -> dict[str, Any]:
        """Tests of the whole set, quality of the matching, intact accuracy."""
        content: dict[str, Any] = json.loads((self.path / "results.json").read_text(encoding="utf-8"))
        return content

    def to_frame(self) -> pd.DataFrame:
        """Return the table of single-unit effects."""
        return self.effects

    def to_dict(self) -> dict[str, Any]:
        """Everything found, as plain values (the document that ``--json`` prints)."""
        return {
            "ablation": str(self.path),
            "run": str(self.run.path),
            "manifest": self.manifest.to_dict(),
            "results": self.results,
            "units": records(self.effects),
            "curve": records(self.curve),
        }

    def summary(self) -> str:
        """What silencing all units together did, in words."""
        return "\n".join(self.summary_lines())

    def summary_lines(self) -> list[str]:
        """Sentences of :meth:`summary`."""
        result, test = self.results, self.results["tests"]
        loss, accuracy, match = test["loss_change"], test["accuracy_drop"], result["matching"]
        intact = result["intact"]
        # Results of earlier versions do not say.
        column, left_out = result.get("ranked_by", "index_excess"), result.get("left_out", [])
        sites = ", ".join(f"{name} ({n})" for name, n in result["units_by_site"].items())
        lines = [
            f"Chosen on the {result['chosen_on']} split, scored on the {result['scored_on']} split "
            f"({loss['n_images']} images).",
            *_ranking(column, left_out, self.run.layers),
            *_engine(result),
            f"Units by layer: {sites}.",
            f"Intact accuracy {intact['accuracy']:.1%} [{intact['low']:.1%}, {intact['high']:.1%}].",
            _joint(result["n_units"], "loss (nats)", loss, ".4f"),
            _joint(result["n_units"], "lost accuracy (points)", accuracy, ".2f", 100),
            _verdict("loss", loss),
            _verdict("accuracy", accuracy),
            f"Matching: mean activation differs by {match['smd']:+.2f} standard deviations; "
            f"overlap with the selected units {match['overlap_mean']:.0%}; "
            f"two random sets differ in {match['distinct']:.0%} of their units on average.",
        ]
        lines += _areas(self.areas) if (self.path / "areas.csv").exists() else []
        lines += [*_agreement(result), *_race(result)]
        if abs(match["smd"]) > 0.1:
            lines.append(
                "Caution: mean activation is not well matched (over 0.1); part of the difference may be due to it."
            )
        return lines

    def plot(self) -> Figure:
        """Importance of single units against their selectivity."""
        from auditor.report.importance import unit_importance

        metric = str(self.results.get("ranked_by", "index_excess")).removesuffix("_excess")
        label = None if metric == INDEX else f"{registry().metric(metric).label} above shuffled labels"
        return unit_importance(
            self.effects,
            sites=[site.name for site in self.run.sites],
            metric=metric,
            metric_label=label,
            confidence=self.run.confidence,
        )

    def plot_sets(self) -> Figure:
        """Loss change of the selected units together, among matched random sets."""
        from auditor.report.set_test import set_test

        test = self.results["tests"]["loss_change"]
        return set_test(
            np.asarray(test["null"]),
            test["observed"],
            test["null_low"],
            test["null_high"],
            test["p_greater"],
            label="change of loss (nats)",
            n_units=self.results["n_units"],
        )

    def plot_curve(self) -> Figure:
        """Accuracy against the number of units silenced."""
        from auditor.report.curve import ablation_curve

        areas = self.areas if (self.path / "areas.csv").exists() else None
        n_units = len(self.run.selectivity)
        return ablation_curve(self.curve, chance=1 / len(self.run.classes), areas=areas, n_units=n_units)

    def save_figures(self) -> list[Path]:
        """Write every figure as PNG and SVG."""
        from auditor.report.style import save

        folder = self.path / "figures"
        figures = {"importance": self.plot, "sets": self.plot_sets, "curve": self.plot_curve}
        return [path for name, make in figures.items() for path in save(make(), folder / name)]


def _ranking(column: str, left_out: Sequence[str], layers: pd.DataFrame) -> list[str]:
    """Say how units were ranked, where that is not by the index over all layers."""
    metric = column.removesuffix("_excess")
    if metric != INDEX:
        why = "" if INDEX in scored_by(layers).values() else "; every layer has signed responses, which have no index"
        over = " above shuffled labels" if column.endswith("_excess") else ""
        return [f"Ranked by {registry().metric(metric).label}{over} ({column}){why}."]
    if not left_out:
        return []
    more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
    return [
        f"Left out of the ranking: {layers_with_signed(len(left_out))}, which have no index: "
        f"{', '.join(left_out[:SHOWN])}{more}."
    ]


def _engine(result: dict[str, Any]) -> list[str]:
    """Say what replaced the units' responses and how that was computed and checked."""
    engine = result.get("engine")
    if engine is None:  # results of earlier versions
        return []
    how = f"Edit {result['edit']}, engine {engine['name']} ({engine['dtype']})"
    if engine["fallbacks"]:
        how += f", by whole passes at {len(engine['fallbacks'])} layers where replay failed"
    lines = [how + "."]
    for name, check in engine["checks"].items():
        share = check["difference"] / check["effect"] if check["effect"] else 0.0
        against = "Captum" if name == "captum" else name
        lines.append(
            f"Against {against} on {check['n_units']} random units and {check['n_images']} images: largest difference "
            f"{check['difference']:.1e} logits, {share:.1e} of the largest effect (these numbers have no interval)."
        )
    return lines


def _areas(areas: pd.DataFrame) -> list[str]:
    """Compare the area under each curve with that of random orders."""
    lines = []
    for row in areas.to_dict("records"):
        if row["order"] != "random" and row["area"] == row["area"]:
            verb = "silenced" if row["kind"] == "silence" else "kept"
            lines.append(
                f"Area under the curve, units {verb} {row['order']}: {row['area']:.3f} [{row['low']:.3f}, "
                f"{row['high']:.3f}]; minus random orders {row['difference']:+.3f} [{row['difference_low']:+.3f}, "
                f"{row['difference_high']:+.3f}]."
            )
    return lines


def _agreement(result: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in result.get("agreement", {}).items():
        estimate, exact = name.split(" ~ ")
        if found["rho"] is None:
            lines.append(f"Rank correlation of {estimate} with exact {exact}: undefined ({found['reason']}).")
        else:
            lines.append(
                f"Rank correlation of {estimate} with exact {exact} over {found['n']} units: {found['rho']:.3f} "
                f"[{found['low']:.3f}, {found['high']:.3f}]."
            )
    return lines


def _race(result: dict[str, Any]) -> list[str]:
    race = result.get("race")
    if race is None:
        return []
    sure = "measured on every image" if race["exact"] else f"wrong with probability at most {race['delta']:g}"
    shown = ", ".join(race["units"][:SHOWN]) + (" ..." if race["k"] > SHOWN else "")
    return [
        f"The {race['k']} units whose silence costs the label most probability ({sure}) took "
        f"{race['evaluations']:,} of {race['possible']:,} ablated images: {shown}."
    ]


def _joint(n_units: int, measure: str, test: dict[str, Any], form: str, scale: float = 1) -> str:
    keys = ("observed", "null_mean", "null_low", "null_high", "effect", "low", "high")
    observed, mean, null_low, null_high, effect, low, high = (f"{scale * test[key]:+{form}}" for key in keys)
    return (
        f"All {n_units} together, {measure}: {observed} against {mean} [{null_low}, {null_high}] for {test['n_sets']} "
        f"matched random sets; difference {effect} [{low}, {high}], one-sided p = {test['p_greater']:.2g}."
    )


def _verdict(measure: str, test: dict[str, Any]) -> str:
    if test["p_two_sided"] > ALPHA:
        return (
            f"By {measure}, the selective units do not differ beyond chance from matched random ones (two-sided 5 %)."
        )
    more = "more" if test["effect"] > 0 else "less"
    return f"By {measure}, the selective units matter {more} than matched random ones (two-sided 5 %)."
