"""From stored responses to the tables of a run: one row per unit, one row per site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.settings import ALPHA, SelectivitySettings
from auditor.data import SPLITS
from auditor.errors import PluginError
from auditor.progress import Reporter
from auditor.registry import registry
from auditor.selectivity.base import Metric
from auditor.selectivity.scoring import UnitScores, heldout_index, score_metrics
from auditor.stats.intervals import bh_qvalues
from auditor.stats.moments import ClassMoments
from auditor.units import Site

if TYPE_CHECKING:
    from auditor.api.storing import Responses

Moments = Mapping[str, Mapping[str, ClassMoments]]
NO_CLASS = ""
# What every metric has; the q values come once all sites are scored.
USUAL = ("low", "high", "null", "excess", "p", "q", "preferred", "heldout")


@dataclass(frozen=True)
class Tables:
    """What a profile found.

    Attributes
    ----------
    units : pandas.DataFrame
        One row per unit.
    layers : pandas.DataFrame
        One row per site. Sites with signed units have no mean index; ``scored_by`` then says by which metric each site
        is judged.
    network : dict
        Mean index over layers of the mean over units, its interval and its null mean; under ``signed`` the same of the
        layers with signed units, where there are any.
    replicates : dict of str to ndarray
        Bootstrap replicates of each site's mean index. Runs on the same images and seed share their resamples, so
        differences between them can be taken replicate by replicate.
    """

    units: pd.DataFrame
    layers: pd.DataFrame
    network: dict[str, Any]
    replicates: dict[str, NDArray[np.float64]]


def score_sites(
    store: Responses,
    moments: Moments,
    sites: Sequence[Site],
    classes: Sequence[str],
    settings: SelectivitySettings,
    *,
    seed: int,
    reporter: Reporter,
    known: Callable[[Site], list[UnitScores]] | None = None,
) -> Tables:
    """Score every unit on the select split; take the held-out index from the score split.

    Parameters
    ----------
    store : Responses
        Holds responses of both splits.
    moments : mapping
        Split, then site name, to the moments gathered while streaming.
    sites : sequence of Site
    classes : sequence of str
    settings : SelectivitySettings
    seed : int
        Of shuffles and resamples.
    reporter : Reporter
    known : callable, optional
        Gives what :func:`site_scorer` found before; default: score now.
    """
    score_one = known or site_scorer(store, moments, len(classes), settings, seed=seed)
    names = np.array([*classes, NO_CLASS], dtype=object)
    units, layers = [], []
    boot: dict[str, list[NDArray[np.float64]]] = {}
    with reporter.task("Scoring selectivity", sum(site.n_units for site in sites), "units") as task:
        for site in sites:
            select, score = moments["select"][site.name], moments["score"][site.name]
            table = _describe(site, select)
            signed = bool(table["signed"].any())
            metrics = [registry().metric(name) for name in _metrics(settings, signed=signed)]
            layer: dict[str, Any] = {"site": site.name, "kind": site.kind, "n_units": site.n_units}
            found = score_one(site)
            for metric, scores in zip(metrics, found, strict=True):
                if metric.name == "index":
                    table["preferred"] = names[scores.preferred]
                    table["index_heldout"] = heldout_index(score.mean, scores.preferred, score.count)
                else:
                    table[f"{metric.name}_preferred"] = names[scores.preferred]
                    if signed and metric.name in settings.signed and isinstance(metric, Metric):
                        table[f"{metric.name}_heldout"] = _heldout(metric, score, scores.preferred)
                _add(table, metric.name, scores)
                # What units without negative responses average to is not the mean of a layer that has others too.
                whole = not signed or metric.signed
                summary = scores.layer_mean if whole else dict.fromkeys(scores.layer_mean, np.nan)
                boot.setdefault(metric.name, []).append(scores.layer_boot if whole else scores.layer_boot * np.nan)
                layer |= {f"mean_{metric.name}": summary["estimate"]}
                layer |= {f"{metric.name}_{k}": v for k, v in summary.items() if k != "estimate"}
            units.append(table)
            layers.append(layer)
            task.advance(site.n_units)
    joined = pd.concat(units, ignore_index=True)
    scored = [name for name in _metrics(settings, signed=bool(joined["signed"].any())) if name in joined]
    for name in scored:
        q = bh_qvalues(joined[f"{name}_p"])
        joined.insert(joined.columns.get_loc(f"{name}_p") + 1, f"{name}_q", q)  # type: ignore[arg-type, operator]
        if name != "index":
            joined[f"{name}_preferred"] = joined[f"{name}_preferred"].fillna(NO_CLASS)
    by_site = _layer_table(layers, joined, settings)
    return Tables(
        units=joined,
        layers=by_site,
        network=_network(by_site, boot, settings),
        replicates={site.name: replicates for site, replicates in zip(sites, boot["index"], strict=True)},
    )


def site_scorer(
    store: Responses, moments: Moments, n_classes: int, settings: SelectivitySettings, *, seed: int
) -> Callable[[Site], list[UnitScores]]:
    """Make the function that scores the units of one site by every metric, on the select split."""
    rows = np.flatnonzero(store.splits == SPLITS.index("select"))
    labels = store.labels[rows]

    def score(site: Site) -> list[UnitScores]:
        signed = bool((moments["select"][site.name].minimum < 0).any())
        return score_metrics(
            store.responses(site.name, rows),
            labels,
            n_classes=n_classes,
            metrics=[registry().metric(name) for name in _metrics(settings, signed=signed)],
            n_shuffles=settings.shuffles,
            n_boot=settings.bootstraps,
            confidence=settings.confidence,
            seed=seed,
        )

    return score


def _metrics(settings: SelectivitySettings, *, signed: bool) -> list[str]:
    return list(dict.fromkeys([*settings.metrics, *(settings.signed if signed else ())]))


def _heldout(metric: Metric, moments: ClassMoments, preferred: NDArray[np.int64]) -> NDArray[np.float64]:
    """Value on the score split of each unit's class, which the select split chose."""
    if not metric.has_fixed_class or moments.n == 0:
        return np.full(len(preferred), np.nan)
    return metric.values_at(moments.mean, moments.variance, moments.count, preferred)


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
    """Add the columns of a metric, last those that it has beside the usual ones: ``<metric>_<extra>``."""
    clash = sorted({f"{name}_{extra}" for extra in scores.extras} & {*table.columns, *(f"{name}_{c}" for c in USUAL)})
    if clash:
        raise PluginError(
            f"The selectivity metric {name!r} brings a column that the table has already: {', '.join(clash)}.",
            wanted="other names in its extras",
        )
    table[name] = scores.value
    table[f"{name}_low"] = scores.low
    table[f"{name}_high"] = scores.high
    table[f"{name}_null"] = scores.null_mean
    table[f"{name}_excess"] = scores.excess
    table[f"{name}_p"] = scores.p
    for extra, values in scores.extras.items():
        table[f"{name}_{extra}"] = values


def _layer_table(layers: list[dict[str, Any]], units: pd.DataFrame, settings: SelectivitySettings) -> pd.DataFrame:
    table = pd.DataFrame(layers).set_index("site")
    groups = units.groupby("site", sort=False)
    table.insert(2, "dead", groups["dead"].sum())
    table.insert(3, "signed", groups["signed"].sum())
    signed = table["signed"] > 0
    found = groups["index_q"].agg(_significant)
    place = 4
    if signed.any() and settings.signed:
        stand_in = settings.signed[0]
        found = found.where(~signed, groups[f"{stand_in}_q"].agg(_significant))
        table.insert(place, "scored_by", np.where(signed, stand_in, "index"))
        place += 1
    table.insert(place, "significant", found)
    table.insert(place + 1, "index_excess", groups["index_excess"].mean().where(~signed))
    if signed.any():
        for name in settings.signed:
            table[f"{name}_excess"] = groups[f"{name}_excess"].mean()
    return table.reset_index()


def _significant(q: pd.Series) -> int:
    return int((q <= ALPHA).sum())


def _network(
    layers: pd.DataFrame, boot: dict[str, list[NDArray[np.float64]]], settings: SelectivitySettings
) -> dict[str, Any]:
    """Mean over layers of the index, and of what stands in for it over those with signed units."""
    names = ("mean", "low", "high", "null_mean", "excess")
    network: dict[str, Any] = dict(zip(names, _mean(layers, "index", boot["index"], settings.confidence), strict=True))
    network = {"mean_index": network.pop("mean"), **network}
    signed = np.flatnonzero(layers["signed"] > 0)
    if len(signed) and settings.signed:
        network["signed"] = {"sites": len(signed), "units": int(layers["n_units"].iloc[signed].sum())}
        for name in settings.signed:
            # Where the user asked for the metric, every site has replicates.
            replicates = boot[name] if len(boot[name]) == len(signed) else [boot[name][i] for i in signed]
            values = _mean(layers.iloc[signed], name, replicates, settings.confidence)
            network["signed"][name] = dict(zip(names, values, strict=True))
    return network


def _mean(
    layers: pd.DataFrame, name: str, boot: list[NDArray[np.float64]], confidence: float
) -> tuple[float, float, float, float, float]:
    """Mean over layers, its interval, its null mean and the excess.

    All sites share their resamples, so replicates can be averaged one by one.
    """
    means = layers[f"mean_{name}"].to_numpy(dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(means))
    if not len(defined):
        return (float("nan"),) * 5
    mean = float(np.mean(means[defined]))
    replicates = np.mean([boot[i] for i in defined], axis=0)
    null_mean = float(np.mean(layers[f"{name}_null_mean"].to_numpy(dtype=np.float64)[defined]))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(replicates.std(ddof=1))
    lowest, highest = registry().metric(name).bounds
    low, high = (half, half) if half != half else (max(mean - half, lowest), min(mean + half, highest))
    return mean, low, high, null_mean, mean - null_mean
