"""What a geometry says, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from auditor.api.geometry_alphas import early_sites
from auditor.api.geometry_dimensionality import WHOLE
from auditor.api.geometry_outcomes import SECOND
from auditor.api.geometry_similarity import SEEDS

if TYPE_CHECKING:
    from auditor.api.geometry_result import Geometry

_OUTCOMES = {
    "not reduced": "selectivity on the units' axes did not surely fall",
    "hardly reduced": "selectivity on the units' axes fell, but not surely by more than a fifth",
    "gone": "selectivity is gone: it is not found off the units' axes either",
    "rotated": "selectivity is rotated, not gone: a rotation of the layer finds most of it again",
    "partly gone": "selectivity is partly gone: a rotation finds less of it than in the networks of alpha 0",
    "cannot tell": "the interval does not tell whether selectivity is gone or rotated",
}
_MEASURES = {
    "participation_ratio": "participation ratio",
    "components_95": "components for 95 %",
    "cv_images": "variability of the input-unit gradient over images",
    "cv_units": "variability of the input-unit gradient over units",
}


def sentences_of(result: Geometry) -> list[str]:
    """Say what was found, part by part, and what cannot be said."""
    lines: list[str] = []
    if not result.is_sweep:
        lines += _one_network(result)
    lines += [_outcome(row) for row in result.outcomes.to_dict("records")]
    if len(result.outcomes):
        missing = [name for name in SECOND if f"mean_{name}" not in result.selectivity]
        if len(missing) == len(SECOND):
            lines.append(
                "A second metric is missing: the networks were profiled with the index alone. `auditor profile "
                "--metric dprime` before the sweep adds one that training does not optimise."
            )
        if (result.outcomes["n_pairs"] < 2).any():
            lines.append("With fewer than two seeds there is no interval over trainings.")
    if "similarity" in result.parts:
        lines += _similarity(result)
    told = [row for row in result.associations.to_dict("records") if _is_told(row)]
    lines += map(_association, told)
    if told:
        lines.append("Networks share their images and in part their start; these correlations are of these networks.")
    return lines


def _one_network(result: Geometry) -> list[str]:
    lines = []
    name = str(result.selectivity["run"].iloc[0])
    if "dimensionality" in result.parts:
        table = result.dimensionality
        table = table[(table["run"] == name) & table["corruption"].isin(["none", "all"])]
        early = early_sites(list(dict.fromkeys(table["site"])))
        near = table[table["site"].isin(early)].groupby("condition", sort=False)["participation_ratio"].mean()
        found = ", ".join(f"{condition} {value:.1f}" for condition, value in near.items() if value == value)
        lines.append(
            f"Participation ratio, mean over the first {_layers(len(early))}: {found} (intervals are by layer)."
        )
    if "gradients" in result.parts:
        mine = result.gradients[result.gradients["run"] == name]
        lines.append(
            f"Input-unit gradient, mean over {_layers(len(mine))}: coefficient of variation over images "
            f"{mine['cv_images'].mean():.2f}, over units {mine['cv_units'].mean():.2f} (intervals are by layer)."
        )
    if "rotation" in result.parts:
        mine = result.rotation[result.rotation["run"] == name]
        lines.append(
            f"Class selectivity on held-out images, mean over {_layers(len(mine))}: "
            f"{mine['aligned'].mean():.3f} on the units' axes, {mine['rotated'].mean():.3f} on the best rotated ones, "
            f"{mine['random'].mean():.3f} on random ones and {mine['null_mean'].mean():.3f} on the best for shuffled "
            "labels (intervals are by layer)."
        )
    if "probes" in result.parts:
        mine = result.probes[result.probes["run"] == name]
        best = mine.iloc[int(mine["accuracy"].to_numpy().argmax())]
        lines.append(
            f"Linear probes: {best['accuracy']:.1%} [{best['low']:.1%}, {best['high']:.1%}] at {best['site']}, the "
            f"highest of {len(mine)} layers (interval over images, not corrected for the choice)."
        )
    return lines


def _outcome(row: dict[Any, Any]) -> str:
    text = f"Alpha {row['alpha']:g}: {_OUTCOMES[str(row['outcome'])]}. Left of what alpha 0 has: "
    names = {"aligned": "on the units' axes", "rotated": "on the best axes", "dprime": "d'", "auc": "AUC above 0.5"}
    parts = [f"{label} {_share(row, name)}" for name, label in names.items() if f"{name}_kept" in row]
    return text + ", ".join(parts) + f"; {row['dead']:.3g} of {row['units']:.0f} units are dead."


def _layers(n: int) -> str:
    return f"{n} layers" if n != 1 else "layer"


def _share(row: dict[Any, Any], name: str) -> str:
    value, low, high = (row[f"{name}_kept{end}"] for end in ("", "_low", "_high"))
    if value != value:
        return "undefined"
    return f"{value:.0%}" + ("" if low != low else f" [{low:.0%}, {high:.0%}]")


def _similarity(result: Geometry) -> list[str]:
    table = result.similarity
    if not result.path.joinpath("similarity_by_alpha.csv").exists():
        mean = table.groupby("run", sort=False)["cka"].mean()
        reference = table["reference"].iloc[0]
        return [
            f"Linear CKA distance of {run} from {reference}, mean over layers: {value:.3f} (no interval: one pair)."
            for run, value in mean.items()
        ]
    found = result.by_alpha("similarity")
    cka = found[found["measure"] == "cka"]
    if not (table["relation"] == SEEDS).any():
        return ["There is one network of alpha 0: no distance from seed to seed to hold the others against."]
    with np.errstate(invalid="ignore"):
        ratio = np.exp(np.log(cka.set_index("alpha")["ratio"]).groupby(level="alpha").mean())
    listed = ", ".join(f"{value:.2g} at alpha {alpha:g}" for alpha, value in ratio.items() if value == value)
    if not listed:
        return []
    return [
        f"Linear CKA distance to the network of alpha 0 over that from seed to seed, geometric mean over layers: "
        f"{listed} (intervals are by layer)."
    ]


def _is_told(row: dict[Any, Any]) -> bool:
    """Whether a correlation is worth a sentence; all are in the table."""
    return bool(row["measure"] != "components_95" and row["condition"] != WHOLE)


def _association(row: dict[Any, Any]) -> str:
    interval = "no interval" if pd.isna(row["low"]) else f"[{row['low']:.2f}, {row['high']:.2f}]"
    n = str(row["layers"]).removeprefix("first ")
    layers = "all layers" if n == "all" else f"the first {_layers(int(n))}"
    return (
        f"Mean SI and {_MEASURES[row['measure']]} of {layers} ({row['condition']}): Spearman {row['rho']:.2f} "
        f"{interval} over {row['n_networks']:.0f} networks."
    )
