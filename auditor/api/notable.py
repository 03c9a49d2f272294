"""Which units a reader should look at: the extremes, and those in which selectivity and importance part."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from auditor.api.selection import INDEX
from auditor.errors import DataError, OptionError, unknown_name
from auditor.registry import registry

LEVEL = 0.05
# The best and the worst quarter of a layer.
QUARTER = 0.25
# What silencing a unit does, by column: how to say it, and the unit.
IMPORTANCES = {"loss_change": ("the loss", "nats"), "target_logit_drop": ("the label's logit, as a drop,", "logits")}


@dataclass(frozen=True)
class _Kind:
    """A reason to look: which units qualify, by what they are ordered (True: rising), and how to say it."""

    name: str
    qualifies: Callable[[pd.DataFrame], pd.Series]
    order: tuple[tuple[str, bool], ...]
    text: str


_KINDS = (
    _Kind(
        "most selective",
        lambda t: (t["q"] <= LEVEL) & (t["excess"] > 0),
        (("standing", False), ("excess", False)),
        "among the most selective",
    ),
    _Kind(
        "most important",
        lambda t: t["low"] > 0,
        (("value", False),),
        "among the most important",
    ),
    _Kind(
        "selective, not important",
        lambda t: (t["q"] <= LEVEL) & (t["share"] >= 1 - QUARTER) & (t["low"] <= 0) & (t["high"] >= 0),
        (("share", False), ("size", True)),
        "no importance found, although selective",
    ),
    _Kind(
        "important, not selective",
        lambda t: (t["low"] > 0) & ((t["q"] > LEVEL) | (t["share"] <= QUARTER)),
        (("value", False),),
        "hardly selective, although important",
    ),
)


def notable_units(
    units: pd.DataFrame, effects: pd.DataFrame, *, n: int, importance: str = "loss_change"
) -> pd.DataFrame:
    """Choose units that show best what selectivity and importance have to do with one another.

    In turn the most selective, the most important, those that are selective without importance and those that are
    important without selectivity. Of each kind the first is the best of the network, and no layer has two before every
    layer with such a unit has one. The same tables give the same choice. These units illustrate and test nothing: they
    are chosen by the very numbers that they show, and their intervals are not corrected for that.

    Parameters
    ----------
    units : pandas.DataFrame
        A run's unit table. A layer is judged by the class selectivity index, or where it holds signed units by the
        first other metric that it was scored by; only units beyond shuffled labels (q at most 0.05) count as selective.
    effects : pandas.DataFrame
        Units that were silenced one by one: ``unit_id``, `importance` with ``_low`` and ``_high``. Importance counts
        if its interval lies above 0.
    n : int
        Units to choose, at most; fewer where fewer qualify.
    importance : str
        ``loss_change`` or ``target_logit_drop``.

    Returns
    -------
    pandas.DataFrame
        ``unit_id``, ``kind`` and ``why``, by kind and in the order of choice. A unit is there once, with all reasons
        that came up.

    Raises
    ------
    OptionError, UnknownNameError
        If `n` is below 1, or there is no such importance.
    DataError
        If a column is missing.
    """
    if n < 1:
        raise OptionError("The number of units must be at least 1.", got=str(n))
    if importance not in IMPORTANCES:
        raise unknown_name("importance", importance, IMPORTANCES)
    table = _joined(units, effects, importance)
    what, unit = IMPORTANCES[importance]
    queues = {kind.name: _spread(_candidates(table, kind)) for kind in _KINDS}
    chosen: dict[str, list[_Kind]] = {}
    alive = list(_KINDS)
    while alive and len(chosen) < n:
        for kind in list(alive):
            # A unit that another kind has chosen gets one more reason, and this kind goes on to its next.
            for name in queues[kind.name]:
                own = chosen.setdefault(name, [])
                own.append(kind)
                if len(own) == 1:
                    break
            else:
                alive.remove(kind)
            if len(chosen) == n:
                break
    facts = {str(row["unit_id"]): row for row in table.to_dict("records") if row["unit_id"] in chosen}
    rows = []
    for name, kinds in chosen.items():
        row = facts[name]
        reasons = "; ".join(kind.text for kind in kinds)
        why = f"{reasons[0].upper()}{reasons[1:]}: {_selectivity(row)}; {_importance(row, what, unit)}."
        rows.append((name, kinds[0].name, why))
    found = pd.DataFrame(rows, columns=["unit_id", "kind", "why"])
    place = {kind.name: number for number, kind in enumerate(_KINDS)}
    return found.sort_values("kind", key=lambda kinds: kinds.map(place), kind="stable", ignore_index=True)


def _joined(units: pd.DataFrame, effects: pd.DataFrame, importance: str) -> pd.DataFrame:
    """Selectivity of every unit by the metric of its layer, importance, and the ranks of both."""
    metrics = [name.removesuffix("_excess") for name in map(str, units) if name.endswith("_excess")]
    columns = {"value": importance, "low": f"{importance}_low", "high": f"{importance}_high"}
    missing = [name for name in ("unit_id", *columns.values()) if name not in effects]
    if not metrics or missing:
        raise DataError(
            "The tables lack what units are chosen by.",
            wanted="a metric's <metric>_excess in the units, and unit_id and an importance with its interval",
            got=f"no {', '.join(missing or ['<metric>_excess'])}",
        )
    table = units[["unit_id", "site"]].reset_index(drop=True)
    by = pd.Series(_metric_of_each(units, metrics), index=table.index)
    table["metric"] = by
    for name, suffix in (("score", ""), ("excess", "_excess"), ("q", "_q")):
        table[name] = np.nan
        for metric in by.unique():
            here = (by == metric).to_numpy()
            table.loc[here, name] = units[f"{metric}{suffix}"].to_numpy(dtype=float)[here]
    layer = table.groupby("site", sort=False)["excess"]
    table["rank"], table["of"] = layer.rank(ascending=False, method="min"), layer.transform("count")
    table["share"] = layer.rank(pct=True)
    # Metrics have scales of their own; the share of a metric's units below can be compared.
    table["standing"] = table.groupby("metric", sort=False)["excess"].rank(pct=True)
    own = effects[["unit_id", *columns.values()]].rename(columns={column: name for name, column in columns.items()})
    table = table.merge(own, on="unit_id", how="left", validate="one_to_one")
    table["size"] = table["value"].abs()
    hurt = table.groupby("site", sort=False)["value"]
    table["hurt_rank"], table["hurt_of"] = hurt.rank(ascending=False, method="min"), hurt.transform("count")
    return table


def _metric_of_each(units: pd.DataFrame, metrics: list[str]) -> list[str]:
    """By which metric each unit's layer is judged."""
    signed = units.groupby("site")["signed"].any() if "signed" in units else pd.Series(dtype=bool)
    chosen = {}
    for site, own in units.groupby("site", sort=False):
        scored = [metric for metric in metrics if own[f"{metric}_excess"].notna().any()]
        if bool(signed.get(site, False)):
            scored = [metric for metric in scored if metric != INDEX] or scored
        chosen[site] = scored[0] if scored else metrics[0]
    return [chosen[site] for site in units["site"]]


def _candidates(table: pd.DataFrame, kind: _Kind) -> pd.DataFrame:
    good = table[kind.qualifies(table)]
    columns, rising = zip(*kind.order, strict=True)
    return good.sort_values([*columns, "unit_id"], ascending=[*rising, True], kind="stable")


def _spread(ordered: pd.DataFrame) -> Iterator[str]:
    """Yield the units in order, the first of every layer before the second of any."""
    turn = ordered.groupby("site", sort=False).cumcount()
    yield from ordered.assign(turn=turn).sort_values("turn", kind="stable")["unit_id"].astype(str)


def _selectivity(row: Mapping[Hashable, Any]) -> str:
    if not np.isfinite(row["score"]):
        return "it has no selectivity"
    label = registry().metric(str(row["metric"])).label
    against = f"{row['excess']:+.2f} against shuffled labels, q = {row['q']:.2g}"
    return _minus(f"{label} {row['score']:.2f} ({against}), rank {row['rank']:.0f} of {row['of']:.0f} in its layer")


def _importance(row: Mapping[Hashable, Any], what: str, unit: str) -> str:
    if not np.isfinite(row["value"]):
        return "it was not silenced"
    interval = f"[{row['low']:+.2g}, {row['high']:+.2g}]"
    rank = f"rank {row['hurt_rank']:.0f} of {row['hurt_of']:.0f} in its layer"
    return _minus(f"silencing it changes {what} by {row['value']:+.2g} {unit} {interval}, {rank}")


def _minus(text: str) -> str:
    """Put real minus signs before numbers; exponents and words keep their hyphens."""
    return re.sub(r"(?<=[\s\[(])-(?=\d)", "\N{MINUS SIGN}", text)
