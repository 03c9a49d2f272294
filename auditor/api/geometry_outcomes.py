"""Is selectivity gone, or only rotated off the units? Judged for each alpha of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from auditor.api.geometry_networks import Network
from auditor.stats.intervals import Interval, paired_mean_interval

SECOND = ("dprime", "auc")
"""Metrics that training did not optimise, where the runs were profiled with them."""

GONE, KEPT = 0.5, 0.8
"""Shares of selectivity that are left: surely below the first it is gone, surely above the second it is kept."""


def selectivity_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Mean selectivity of each network by its own run: the index and, where profiled, d' and AUC; dead units."""
    rows = []
    for network in networks:
        run, found = network.run, network.run.summary["network"]
        row: dict[str, Any] = dict(network.columns())
        for name in ("mean_index", "null_mean"):
            row[name] = np.nan if found[name] is None else found[name]
        row["mean_excess"] = row["mean_index"] - row["null_mean"]
        # A layer counts as one, whatever its width, as for the index.
        row |= {
            f"mean_{name}": float(run.layers[f"mean_{name}"].mean()) for name in SECOND if f"mean_{name}" in run.layers
        }
        rows.append(row | {"dead": run.summary["dead"], "units": run.summary["units"]})
    return pd.DataFrame(rows)


def dead_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Units of each layer that never respond on the select split."""
    parts = []
    for network in networks:
        layers = network.run.layers[["site", "n_units", "dead"]]
        parts.append(layers.assign(**network.columns())[["run", "alpha", "seed", "site", "n_units", "dead"]])
    return pd.concat(parts, ignore_index=True)


def outcomes_by_alpha(rotation: pd.DataFrame, selectivity: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Judge each alpha against alpha 0, paired by seed.

    What is compared is the class selectivity index on held-out images, which averages 0 without class signal, averaged
    over layers: on the units' own axes (``aligned``) and on the best orthonormal axes (``rotated``). ``<name>_kept`` is
    the share of that at alpha 0, with Student's interval over seeds.

    Returns
    -------
    DataFrame
        One row per alpha other than 0. ``outcome`` is ``not reduced`` (the aligned index did not surely fall),
        ``gone`` (the rotated one surely fell below half), ``hardly reduced`` (the aligned one fell, but not surely
        below 80 %: there is little to be found elsewhere), ``rotated`` (surely more than 80 % of it are left),
        ``partly gone`` (it surely fell, and neither holds) or ``cannot tell``. Other metrics have the same columns,
        without an influence on the outcome; d' and AUC count from their values without selectivity, 0 and 0.5.
    """
    keys = ["alpha", "seed"]
    found = rotation.dropna(subset=keys).groupby(keys)[["aligned", "rotated"]].mean()
    levels = {name: found[name] for name in ("aligned", "rotated")}
    own = selectivity.dropna(subset=keys).set_index(keys)
    levels |= {name: own[f"mean_{name}"] - (0.5 if name == "auc" else 0.0) for name in SECOND if f"mean_{name}" in own}
    rows = []
    for alpha in sorted(set(found.index.get_level_values("alpha")) - {0.0}):
        row: dict[str, Any] = {"alpha": alpha}
        kept = {name: _kept(values, alpha, confidence) for name, values in levels.items()}
        for name, (interval, n) in kept.items():
            row |= dict(
                zip((f"{name}_kept", f"{name}_kept_low", f"{name}_kept_high"), map(float, interval), strict=True)
            )
            row["n_pairs"] = min(n, row.get("n_pairs", n))
        row["outcome"] = _outcome(kept["aligned"][0], kept["rotated"][0])
        rows.append(row | {"dead": own.xs(alpha, level="alpha")["dead"].mean(), "units": own["units"].iloc[0]})
    return pd.DataFrame(rows)


def _kept(values: pd.Series, alpha: float, confidence: float) -> tuple[Interval, int]:
    if not {alpha, 0.0} <= set(values.index.get_level_values("alpha")):
        return paired_mean_interval([], confidence), 0
    treated, control = values.xs(alpha, level="alpha"), values.xs(0.0, level="alpha")
    share = (treated / control.where(control > 0)).dropna().to_numpy(dtype=np.float64)
    return paired_mean_interval(share, confidence), len(share)


def _outcome(aligned: Interval, rotated: Interval) -> str:
    if not np.isfinite([*aligned, *rotated]).all():
        return "cannot tell"
    if aligned.high >= 1:
        return "not reduced"
    if rotated.high < GONE:
        return "gone"
    if aligned.high > KEPT:
        return "hardly reduced"
    if rotated.low > KEPT:
        return "rotated"
    return "partly gone" if rotated.high < 1 else "cannot tell"
