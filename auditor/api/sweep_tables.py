"""The tables of a sweep that list: one row per network, one row per layer and alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from auditor.api.tuned import TRAINING, FineTuned
from auditor.api.workspace import read_manifest
from auditor.stats.intervals import paired_mean_interval

LEVELS = ("accuracy", "mean_index", "excess")


@dataclass(frozen=True, eq=False)
class Member:
    """A finished network of a sweep.

    Attributes
    ----------
    alpha : float
    seed : int
    run : FineTuned
    """

    alpha: float
    seed: int
    run: FineTuned


def networks_table(members: Sequence[Member]) -> pd.DataFrame:
    """One row per network, sorted by alpha and seed.

    ``accuracy`` (on the score split) and ``mean_index`` (on the select split) have the intervals of the network's own
    run, over images. ``excess`` is the mean index above the mean under shuffled labels, ``null_mean``; its interval is
    that of the index, moved. ``dead`` of ``units`` never respond. ``seconds`` is what training and profile took; where
    they were interrupted, the last part of each.
    """
    rows = []
    for member in members:
        accuracy, network = member.run.summary["accuracy"] or {}, member.run.summary["network"]
        index, low, high, null = (_number(network[key]) for key in ("mean_index", "low", "high", "null_mean"))
        rows.append(
            {
                "name": member.run.name,
                "alpha": member.alpha,
                "seed": member.seed,
                **{f"accuracy{end}": _number(accuracy.get(key))
                   for end, key in (("", "accuracy"), ("_low", "low"), ("_high", "high"))},
                "mean_index": index,
                "mean_index_low": low,
                "mean_index_high": high,
                "null_mean": null,
                "excess": index - null,
                "excess_low": low - null,
                "excess_high": high - null,
                "dead": int(member.run.summary["dead"]),
                "units": int(member.run.summary["units"]),
                "epochs": len(member.run.history),
                "seconds": _seconds(member.run),
            }
        )  # fmt: skip
    ends = [f"{name}{end}" for name in LEVELS for end in ("", "_low", "_high")]
    columns = ["name", "alpha", "seed", *ends[:6], "null_mean", *ends[6:], "dead", "units", "epochs", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def layers_table(members: Sequence[Member], *, confidence: float) -> pd.DataFrame:
    """One row per alpha and layer, with means over the networks of that alpha.

    The interval of ``mean_index`` is Student's over seeds; with one network it is that network's own, over images:
    ``over`` says which. ``dead`` is a mean of counts.
    """
    parts = [member.run.layers.assign(alpha=member.alpha) for member in members]
    if not parts:
        return pd.DataFrame(columns=["alpha", "site", "n_seeds", "mean_index"])
    whole = pd.concat(parts, ignore_index=True)
    rows: list[dict[str, Any]] = []
    sites = list(dict.fromkeys(whole["site"]))
    for alpha, of_alpha in whole.groupby("alpha", sort=True):
        for site in sites:
            mine = of_alpha[of_alpha["site"] == site]
            if mine.empty:
                continue
            mean, low, high, over = level(mine, "mean_index", ("index_low", "index_high"), confidence)
            null = float(mine["index_null_mean"].mean())
            rows.append(
                {
                    "alpha": alpha, "site": site, "n_seeds": len(mine), "mean_index": mean, "mean_index_low": low,
                    "mean_index_high": high, "over": over, "null_mean": null, "excess": mean - null,
                    "dead": float(mine["dead"].mean()), "n_units": int(mine["n_units"].iloc[0]),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def level(
    table: pd.DataFrame, column: str, ends: tuple[str, str], confidence: float
) -> tuple[float, float, float, str]:
    """Mean over the rows with its interval over seeds, or the one row's own interval, and which of the two it is."""
    values = table[column].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 1 and len(table) == 1:
        return (float(values[0]), *(float(table[end].iloc[0]) for end in ends), "images")  # type: ignore[return-value]
    mean, low, high = (float(value) for value in paired_mean_interval(values, confidence))
    return mean, low, high, "seeds"


def _seconds(run: FineTuned) -> float:
    parts = run.manifest, read_manifest(run.path / TRAINING)
    return round(sum(float(part.provenance.get("seconds", np.nan)) for part in parts), 2)


def _number(value: float | None) -> float:
    """Undo JSON's null for what is undefined."""
    return float("nan") if value is None else float(value)
