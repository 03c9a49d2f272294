"""The result of an ablation: tables, tests, figures."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.ablation import accuracy_with_interval
from auditor.api.run import Run, read_table, records
from auditor.api.settings import AblationSettings
from auditor.api.workspace import read_manifest
from auditor.causal import MatchedSets, SetTest
from auditor.manifest import Manifest
from auditor.store.files import write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        """One row per unit silenced alone, most selective first."""
        return read_table(self.path / "units.csv")

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Accuracy against the number of units silenced, for three orders."""
        return read_table(self.path / "curve.csv")

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
        p = loss["p_greater"]
        hurts = "more than" if loss["effect"] > 0 else "less than"
        significant = loss["p_two_sided"] <= 0.05
        sites = ", ".join(f"{name} ({n})" for name, n in result["units_by_site"].items())
        lines = [
            f"Chosen on the {result['chosen_on']} split, scored on the {result['scored_on']} split "
            f"({loss['n_images']} images).",
            f"Units by layer: {sites}.",
            f"Intact accuracy {intact['accuracy']:.1%} [{intact['low']:.1%}, {intact['high']:.1%}].",
            f"All {result['n_units']} together: loss {loss['observed']:+.4f} nats against {loss['null_mean']:+.4f} "
            f"[{loss['null_low']:+.4f}, {loss['null_high']:+.4f}] for {loss['n_sets']} matched random sets; "
            f"difference {loss['effect']:+.4f} [{loss['low']:+.4f}, {loss['high']:+.4f}], one-sided p = {p:.3g}.",
            f"All {result['n_units']} together: accuracy {-accuracy['observed']:+.1%} against "
            f"{-accuracy['null_mean']:+.1%} [{-accuracy['null_high']:+.1%}, {-accuracy['null_low']:+.1%}]; "
            f"one-sided p = {accuracy['p_greater']:.3g}.",
            f"The selective units matter {hurts} matched random ones"
            + ("." if significant else ", but not beyond chance at the 5 % level (two-sided)."),
            f"Matching: mean activation differs by {match['smd']:+.2f} standard deviations; "
            f"overlap with the selected units {match['overlap_mean']:.0%}; "
            f"two random sets differ in {match['distinct']:.0%} of their units on average.",
        ]
        if abs(match["smd"]) > 0.1:
            lines.append(
                "Caution: mean activation is not well matched (over 0.1); part of the difference may be due to it."
            )
        return lines

    def plot(self) -> Figure:
        """Importance of single units against their selectivity."""
        from auditor.report.importance import unit_importance

        return unit_importance(self.effects, sites=[site.name for site in self.run.sites])

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

        return ablation_curve(self.curve, chance=1 / len(self.run.classes))

    def save_figures(self) -> list[Path]:
        """Write every figure as PNG and SVG."""
        from auditor.report.style import save

        folder = self.path / "figures"
        figures = {"importance": self.plot, "sets": self.plot_sets, "curve": self.plot_curve}
        return [path for name, make in figures.items() for path in save(make(), folder / name)]


def write_results(
    folder: Path,
    *,
    effects: pd.DataFrame,
    curve: pd.DataFrame,
    sets: pd.DataFrame,
    tests: dict[str, SetTest],
    matching: MatchedSets,
    site_names: list[str],
    base_correct: NDArray[np.bool_],
    settings: AblationSettings,
    n_images: int,
) -> None:
    """Write tables and ``results.json``."""
    write_csv(folder / "units.csv", effects)
    write_csv(folder / "curve.csv", curve)
    write_csv(folder / "sets.csv", sets)
    accuracy, low, high = accuracy_with_interval(base_correct, settings.confidence)
    match = matching.to_dict()
    match["pool_sizes"] = {site_names[code]: size for code, size in matching.pool_sizes.items()}
    write_json(
        folder / "results.json",
        {
            "chosen_on": "select",
            "scored_on": "score",
            "n_units": len(effects),
            "n_images": n_images,
            "units_by_site": effects["site"].value_counts(sort=False).to_dict(),
            "intact": {"accuracy": accuracy, "low": low, "high": high},
            "tests": {name: test.to_dict() for name, test in tests.items()},
            "matching": match,
        },
    )
