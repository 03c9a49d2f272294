"""The sentences of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from auditor.causal.halving import Halving

NAMES = {"mean_index": "Mean SI", "excess": "Mean SI above the shuffle floor"}


def halving_sentence(column: str, found: Halving) -> str:
    """Where selectivity is halved and what it costs, or that it is not."""
    what, n = NAMES[column], len(found.alpha)
    if not found.n_reached:
        lowest = found.lowest[np.isfinite(found.lowest)]
        if not len(lowest):
            return f"{what}: no seed has networks of alpha 0 and of a negative alpha with a value to halve."
        return (
            f"{what} is not halved by any alpha of this sweep; its lowest, of one network, is {lowest.min():.0%} of "
            "that at alpha 0 (no interval)."
        )
    points = [100 * float(value) for value in found.interval("cost")]
    if found.n_reached == 1:
        only = f"one seed of {n}" if n > 1 else "one seed"
        return (
            f"{what} is halved at alpha {float(found.interval().estimate):.3g}, where accuracy has changed by "
            f"{points[0]:+.2f} points ({only}: no interval over trainings)."
        )
    alpha, low, high = (float(value) for value in found.interval())
    reached = f"{n} seeds" if found.n_reached == n else f"the {found.n_reached} of {n} seeds in which it is reached"
    return (
        f"{what} is halved at alpha {alpha:.3g} [{low:.3g}, {high:.3g}], where accuracy has changed by "
        f"{points[0]:+.2f} [{points[1]:+.2f}, {points[2]:+.2f}] points ({100 * found.confidence:g}% intervals "
        f"over {reached})."
    )


def change_sentences(alphas: pd.DataFrame) -> list[str]:
    """The lowest and the highest alpha against alpha 0."""
    if alphas.empty:
        return []
    paired = alphas[alphas["n_pairs"] > 0]
    ends = [paired[paired["alpha"] < 0].head(1), paired[paired["alpha"] > 0].tail(1)]
    return [_change(row) for end in ends for row in end.to_dict("records")]


def _change(row: Mapping[Any, Any]) -> str:
    change, low, high = (100 * row[f"accuracy_change{end}"] for end in ("", "_low", "_high"))
    interval = "no interval" if low != low else f"[{low:+.2f}, {high:+.2f}] over {row['change_over']}"
    margin = f"{100 * row['margin']:g} {'point' if 100 * row['margin'] == 1 else 'points'}"
    claim = f"the claim that it costs less than {margin}" if row["alpha"] < 0 else "the claim that it costs accuracy"
    index, least, most = (row[f"mean_index_change{end}"] for end in ("", "_low", "_high"))
    around = "no interval" if least != least else f"[{least:+.3f}, {most:+.3f}]"
    where = f"Alpha {row['alpha']:g} against alpha 0"
    q = "" if row["q"] != row["q"] else f" (q = {row['q']:.2g})"
    verdict = f"{claim}: {row['outcome']}{q}" if isinstance(row["outcome"], str) and row["outcome"] else "not tested"
    return f"{where}: accuracy {change:+.2f} points ({interval}), mean SI {index:+.3f} ({around}); {verdict}."


def seeds_sentence(alphas: pd.DataFrame) -> str | None:
    """What alphas with one network cannot say."""
    single = [] if alphas.empty else list(alphas.loc[alphas["over"] == "images", "alpha"])
    if not single:
        return None
    which = "Every alpha" if len(single) == len(alphas) else f"Alpha {', '.join(f'{alpha:g}' for alpha in single)}"
    return f"{which} has one network only: there is no interval over trainings, and those shown are over images."
