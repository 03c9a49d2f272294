"""What a sweep says of geometry: means over seeds by alpha, and rank correlations over networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from auditor.api.geometry_networks import Network
from auditor.api.geometry_similarity import FROM_CONTROL, SEEDS
from auditor.errors import DataError
from auditor.representations.similarity import MEASURES
from auditor.stats.intervals import paired_mean_interval, spearman_interval

EARLY = 1 / 3
"""Share of the layers, from the input, that count as early."""

# Part to the columns that tell its rows apart, and those that are averaged over seeds.
AVERAGED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dimensionality": (
        ("site", "condition", "corruption"),
        ("components_90", "components_95", "components_99", "participation_ratio", "participation_ratio_corrected"),
    ),
    "gradients": (("site",), ("norm", "cv_images", "cv_units")),
    "rotation": (("site",), ("aligned", "rotated", "difference", "random", "null_mean")),
    "probes": (("site",), ("accuracy",)),
}


def over_seeds(table: pd.DataFrame, keys: Sequence[str], columns: Sequence[str], confidence: float) -> pd.DataFrame:
    """Mean of each column by `keys` and alpha with Student's interval over seeds, and its change from alpha 0.

    The change is paired by seed. Where there is one seed there is no interval: its ends are missing.
    """
    found = table[table["alpha"].notna()]
    rows = []
    for where, mine in found.groupby([*keys, "alpha"], sort=False):
        alpha, own = float(mine["alpha"].iloc[0]), mine.set_index("seed")
        same = (found[list(keys)] == pd.Series(dict(zip(keys, where[:-1], strict=True)))).all(axis=1)
        controls = found[same & (found["alpha"] == 0)].set_index("seed")
        seeds: list[Any] = [] if alpha == 0 else list(own.index.intersection(controls.index))
        row: dict[str, Any] = dict(zip([*keys, "alpha"], where, strict=True)) | {"n_seeds": len(mine)}
        for column in columns:
            row |= _mean(column, own[column].to_numpy(dtype=np.float64), confidence)
            changes = (own.loc[seeds, column] - controls.loc[seeds, column]).to_numpy(dtype=np.float64)
            row |= _mean(f"{column}_change", changes, confidence)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(name: str, values: np.ndarray[Any, np.dtype[np.float64]], confidence: float) -> dict[str, float]:
    interval = paired_mean_interval(values[np.isfinite(values)], confidence)
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(float, interval), strict=True))


def distances_by_alpha(similarity: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Distance to the network of alpha 0, by layer and alpha, against the distance between networks of alpha 0.

    Returns
    -------
    DataFrame
        One row per site, alpha and measure. ``distance`` is the mean over seeds and ``seed_distance`` that over pairs
        of networks of alpha 0, each with Student's interval; three pairs of three networks are not independent, so the
        second is rough. ``ratio`` is that of the geometric means with Welch's interval on the logarithms.
    """
    rows = []
    control = similarity[similarity["relation"] == SEEDS]
    regularized = similarity[similarity["relation"] == FROM_CONTROL]
    for (site, alpha), mine in regularized.groupby(["site", "alpha"], sort=False):
        seeds = control[control["site"] == site]
        for measure in MEASURES:
            own, theirs = (part[measure].to_numpy(dtype=np.float64) for part in (mine, seeds))
            rows.append(
                {"site": site, "alpha": alpha, "measure": measure, "n_seeds": len(own), "n_seed_pairs": len(theirs)}
                | _mean("distance", own, confidence)
                | _mean("seed_distance", theirs, confidence)
                | _ratio(own, theirs, confidence)
            )
    return pd.DataFrame(rows)


def _ratio(
    own: np.ndarray[Any, np.dtype[np.float64]], theirs: np.ndarray[Any, np.dtype[np.float64]], confidence: float
) -> dict[str, float]:
    names = ("ratio", "ratio_low", "ratio_high")
    if not (len(own) and len(theirs) and (own > 0).all() and (theirs > 0).all()):
        return dict.fromkeys(names, float("nan"))
    first, second = np.log(own), np.log(theirs)
    apart = float(first.mean() - second.mean())
    if min(len(own), len(theirs)) < 2:
        return {"ratio": math.exp(apart), "ratio_low": float("nan"), "ratio_high": float("nan")}
    errors = np.array([values.var(ddof=1) / len(values) for values in (first, second)])
    total = float(errors.sum())
    if total == 0:
        return dict.fromkeys(names, math.exp(apart))
    freedom = total**2 / float((errors**2 / np.array([len(own) - 1, len(theirs) - 1])).sum())
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(total)
    return dict(zip(names, (math.exp(apart), math.exp(apart - half), math.exp(apart + half)), strict=True))


def early_sites(sites: Sequence[str]) -> list[str]:
    """First third of the layers, one at least."""
    return list(sites[: max(1, math.ceil(len(sites) * EARLY))])


def associations(tables: dict[str, pd.DataFrame], networks: Sequence[Network], confidence: float) -> pd.DataFrame:
    """Spearman's correlation over networks between mean SI and each measure.

    Dimensionality is averaged over the early layers, variability over all layers. The networks share images and, in a
    sweep, their start, and alpha drives both sides: the interval, which takes networks as independent, is too narrow
    for more than these networks.

    Returns
    -------
    DataFrame
        ``measure``, ``condition``, ``layers``, ``n_networks``, ``rho``, ``low``, ``high``.
    """
    index = {network.name: _mean_index(network) for network in networks}
    rows = []
    if "dimensionality" in tables:
        table = tables["dimensionality"]
        early = early_sites(list(dict.fromkeys(table["site"])))
        near = table[table["site"].isin(early) & table["corruption"].isin(["none", "all"])]
        for condition in dict.fromkeys(near["condition"]):
            for measure in ("participation_ratio", "components_95"):
                mine = near[near["condition"] == condition].groupby("run", sort=False)[measure].mean()
                rows.append(_association(measure, condition, f"first {len(early)}", mine, index, confidence))
    if "gradients" in tables:
        for measure in ("cv_images", "cv_units"):
            mine = tables["gradients"].groupby("run", sort=False)[measure].mean()
            rows.append(_association(measure, "clean", "all", mine, index, confidence))
    return pd.DataFrame([row for row in rows if row is not None])


def _association(
    measure: str, condition: str, layers: str, values: pd.Series, index: dict[str, float], confidence: float
) -> dict[str, Any] | None:
    both = [(index[str(name)], value) for name, value in values.items()]
    both = [pair for pair in both if np.isfinite(pair).all()]
    if len(both) < 2:
        return None
    x, y = np.array(both, dtype=np.float64).T
    try:
        rho, low, high = map(float, spearman_interval(x, y, confidence))
    except DataError:  # all alike
        return None
    return {
        "measure": measure, "condition": condition, "layers": layers, "n_networks": len(both),
        "rho": rho, "low": low, "high": high,
    }  # fmt: skip


def _mean_index(network: Network) -> float:
    value = network.run.summary["network"]["mean_index"]
    return float("nan") if value is None else float(value)
