"""Which figures a geometry has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from auditor.api.geometry_similarity import FROM_CONTROL
from auditor.report import geometry as one_network
from auditor.report.geometry_alphas import Panel, by_layer, distances_by_alpha
from auditor.representations.similarity import MEASURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from auditor.api.geometry_result import Geometry

_DRAWN = {name: MEASURES[name] for name in ("svcca", "pwcca", "cka")}
_PER_NETWORK = {
    "dimensionality": one_network.dimensionality,
    "gradients": one_network.gradients,
    "rotation": one_network.rotation,
    "probes": one_network.probes,
}


def figures_of(result: Geometry) -> dict[str, Figure]:
    """Figures by alpha for a sweep; else by layer, of every network."""
    return _of_sweep(result) if result.is_sweep else _of_networks(result)


def _of_networks(result: Geometry) -> dict[str, Figure]:
    names = list(result.selectivity["run"])
    found = {
        part if len(names) == 1 else f"{part}-{place}": draw(table[table["run"] == name], confidence=level)
        for part, draw in _PER_NETWORK.items()
        if part in result.parts
        for table in [getattr(result, part)]
        for place, (name, level) in enumerate(zip(names, result.confidences, strict=True), 1)
    }
    if "similarity" in result.parts:
        found["similarity"] = one_network.distances(result.similarity, _DRAWN)
    return found


def _of_sweep(result: Geometry) -> dict[str, Figure]:
    found, level = {}, result.confidence
    if "dimensionality" in result.parts:
        table = result.by_alpha("dimensionality")
        table = table[table["corruption"].isin(["none", "all"])]
        for column, label in (("participation_ratio", "participation ratio"), ("components_95", "components for 95 %")):
            panels = _conditions(table, column, label)
            found[f"dimensionality_{column}"] = by_layer(panels, share=True, confidence=level)
    if "gradients" in result.parts:
        table = result.by_alpha("gradients")
        labels = {"cv_images": "over images", "cv_units": "over units"}
        panels = [
            Panel(table, column, f"input-unit gradient:\ncoefficient of variation {what}")
            for column, what in labels.items()
        ]
        found["gradients"] = by_layer(panels, confidence=level)
    if "rotation" in result.parts:
        table = result.by_alpha("rotation").assign(floor=0.0)
        panels = [
            Panel(table, "aligned", "held-out SI on the units' axes", "floor"),
            Panel(table, "rotated", "held-out SI on the best rotation", "null_mean"),
            Panel(table, "random", "held-out SI on random rotations", "floor"),
        ]
        found["rotation"] = by_layer(panels, note="Rotated responses are rectified.", share=True, confidence=level)
    if "probes" in result.parts:
        panels = [Panel(result.by_alpha("probes"), "accuracy", "accuracy of a linear probe")]
        found["probes"] = by_layer(panels, confidence=level)
    if "similarity" in result.parts and (result.similarity["relation"] == FROM_CONTROL).any():
        found["similarity"] = distances_by_alpha(result.similarity, _DRAWN, confidence=level)
        table = result.by_alpha("similarity").rename(columns={f"distance{e}": f"d{e}" for e in ("", "_low", "_high")})
        panels = [
            Panel(table[table["measure"] == name], "d", f"distance: 1 \N{MINUS SIGN} {label}")
            for name, label in _DRAWN.items()
        ]
        found["similarity_by_layer"] = by_layer(
            [_with_seeds(panel) for panel in panels], note="Alpha 0: from seed to seed.", confidence=level
        )
    return found


def _conditions(table: pd.DataFrame, column: str, label: str) -> list[Panel]:
    order = ("clean", "corrupted", "adversarial", "corrupted - clean", "adversarial - clean")
    present = set(table["condition"])
    return [Panel(table[table["condition"] == one], column, f"{label}\n{one}") for one in order if one in present]


def _with_seeds(panel: Panel) -> Panel:
    """Add the distances between networks of alpha 0, which do not depend on alpha, as those of alpha 0."""
    table = panel.table
    control = table.drop_duplicates("site").assign(
        alpha=0.0,
        n_seeds=table["n_seed_pairs"],
        **{f"d{end}": table[f"seed_distance{end}"] for end in ("", "_low", "_high")},
    )
    return panel._replace(table=pd.concat([table, control[control["d"].notna()]], ignore_index=True))
