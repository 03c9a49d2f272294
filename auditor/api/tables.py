"""From stored responses to the tables of a run: one row per unit, one row per site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.settings import ALPHA, SelectivitySettings
from auditor.data import SPLITS
from auditor.progress import Reporter
from auditor.registry import registry
from auditor.selectivity.scoring import UnitScores, heldout_index, score_units
from auditor.stats.intervals import bh_qvalues
from auditor.stats.moments import ClassMoments
from auditor.units import Site

if TYPE_CHECKING:
    from auditor.store.reader import StoreReader

Moments = Mapping[str, Mapping[str, ClassMoments]]
NO_CLASS = ""


@dataclass(frozen=True)
class Tables:
    """What a profile found.

    Attributes
    ----------
    units : pandas.DataFrame
        One row per unit.
    layers : pandas.DataFrame
        One row per site.
    network : dict
        Mean index over layers of the mean over units, its interval and its null mean.
    replicates : dict of str to ndarray
        Bootstrap replicates of each site's mean index. Runs on the same images and seed share their resamples, so
        differences between them can be taken replicate by replicate.
    """

    units: pd.DataFrame
    layers: pd.DataFrame
    network: dict[str, float]
    replicates: dict[str, NDArray[np.float64]]


def score_sites(
    store: StoreReader,
    moments: Moments,
    sites: Sequence[Site],
    classes: Sequence[str],
    settings: SelectivitySettings,
    *,
    seed: int,
    reporter: Reporter,
) -> Tables:
    """Score every unit on the select split; take the held-out index from the score split.

    Parameters
    ----------
    store : StoreReader
        Holds responses of both splits.
    moments : mapping
        Split, then site name, to the moments gathered while streaming.
    sites : sequence of Site
    classes : sequence of str
    settings : SelectivitySettings
    seed : int
        Of shuffles and resamples.
    reporter : Reporter
    """
    rows = np.flatnonzero(store.splits == SPLITS.index("select"))
    labels = store.labels[rows]
    metrics = [registry().metric(name) for name in settings.metrics]
    names = np.array([*classes, NO_CLASS], dtype=object)
    units, layers = [], []
    boot_layers = []
    with reporter.task("Scoring selectivity", sum(site.n_units for site in sites), "units") as task:
        for site in sites:
            responses = store.responses(site.name, rows)
            select, score = moments["select"][site.name], moments["score"][site.name]
            table = _describe(site, select)
            layer: dict[str, Any] = {"site": site.name, "kind": site.kind, "n_units": site.n_units}
            for metric in metrics:
                scores = score_units(
                    responses,
                    labels,
                    n_classes=len(classes),
                    metric=metric,
                    n_shuffles=settings.shuffles,
                    n_boot=settings.bootstraps,
                    confidence=settings.confidence,
                    seed=seed,
                )
                if metric.name == "index":
                    table["preferred"] = names[scores.preferred]
                    table["index_heldout"] = heldout_index(score.mean, scores.preferred, score.count)
                    boot_layers.append(scores.layer_boot)
                else:
                    table[f"{metric.name}_preferred"] = names[scores.preferred]
                _add(table, metric.name, scores)
                layer |= {f"mean_{metric.name}": scores.layer_mean["estimate"]}
                layer |= {f"{metric.name}_{k}": v for k, v in scores.layer_mean.items() if k != "estimate"}
            units.append(table)
            layers.append(layer)
            task.advance(site.n_units)
    joined = pd.concat(units, ignore_index=True)
    for metric in metrics:
        column = f"{metric.name}_q"
        joined.insert(joined.columns.get_loc(f"{metric.name}_p") + 1, column, bh_qvalues(joined[f"{metric.name}_p"]))  # type: ignore[arg-type, operator]
    return Tables(
        units=joined,
        layers=_layer_table(layers, joined),
        network=_network(layers, boot_layers, settings.confidence),
        replicates={site.name: boot for site, boot in zip(sites, boot_layers, strict=True)},
    )


def _describe(site: Site, moments: ClassMoments) -> pd.DataFrame:
    indices = np.arange(site.n_units)
    return pd.DataFrame(
        {
            "unit_id": [str(site.unit(int(i))) for i in indices],
            "site": site.name,
            "layer": site.layer,
            "call": site.call,
            "unit": indices,
            "n_images": moments.n,
            "mean": moments.overall_mean,
            "firing_rate": moments.nonzero / moments.n,
            "dead": moments.nonzero == 0,
            "signed": moments.minimum < 0,
        }
    )


def _add(table: pd.DataFrame, name: str, scores: UnitScores) -> None:
    table[name] = scores.value
    table[f"{name}_low"] = scores.low
    table[f"{name}_high"] = scores.high
    table[f"{name}_null"] = scores.null_mean
    table[f"{name}_excess"] = scores.excess
    table[f"{name}_p"] = scores.p


def _layer_table(layers: list[dict[str, Any]], units: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(layers).set_index("site")
    groups = units.groupby("site", sort=False)
    table.insert(2, "dead", groups["dead"].sum())
    table.insert(3, "signed", groups["signed"].sum())
    table.insert(4, "significant", groups["index_q"].agg(lambda q: int((q <= ALPHA).sum())))
    table.insert(5, "index_excess", groups["index_excess"].mean())
    return table.reset_index()


def _network(
    layers: list[dict[str, Any]],
    boot: list[NDArray[np.float64]],
    confidence: float,
) -> dict[str, float]:
    """Mean over layers. All sites share their resamples, so replicates can be averaged one by one."""
    defined = [i for i, layer in enumerate(layers) if not np.isnan(layer["mean_index"])]
    if not defined:
        return dict.fromkeys(("mean_index", "low", "high", "null_mean", "excess"), float("nan"))
    mean = float(np.mean([layers[i]["mean_index"] for i in defined]))
    replicates = np.mean([boot[i] for i in defined], axis=0)
    null_mean = float(np.mean([layers[i]["index_null_mean"] for i in defined]))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(replicates.std(ddof=1))
    return {
        "mean_index": mean,
        "low": max(mean - half, 0.0),
        "high": min(mean + half, 1.0),
        "null_mean": null_mean,
        "excess": mean - null_mean,
    }
