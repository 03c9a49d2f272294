"""Rank units, and choose those to ablate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.ablation_settings import AblationSettings
from auditor.errors import OptionError, unknown_name

INDEX = "index"
DEFAULT = "excess"


def scored_by(layers: pd.DataFrame) -> dict[str, str]:
    """Tell by which metric each site is judged: the index, or what stands in where it holds signed units."""
    names = layers["scored_by"] if "scored_by" in layers else [INDEX] * len(layers)
    return dict(zip(layers["site"].astype(str), names, strict=True))


def layers_with_signed(n: int) -> str:
    """Say how many layers with signed responses."""
    return f"{n} layer{'' if n == 1 else 's'} with signed responses"


def signed_metrics(layers: pd.DataFrame) -> tuple[str, ...]:
    """Names of the metrics that stand in for the index, in order; none where no site holds signed units."""
    if "scored_by" not in layers:
        return ()
    first = [name for name in dict.fromkeys(layers["scored_by"]) if name != INDEX]
    others = [name.removesuffix("_excess") for name in map(str, layers) if name.endswith("_excess")]
    return tuple(dict.fromkeys([*first, *(name for name in others if name != INDEX)]))


def main_metric(layers: pd.DataFrame) -> str:
    """Name the metric that ranks a run's units: the index, unless every site holds signed units."""
    names = set(scored_by(layers).values())
    return INDEX if INDEX in names or not names else names.pop()


def rank_units(units: pd.DataFrame, layers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the sites that are judged by `metric`, by falling excess over its null; undefined ones come last."""
    judged = units["site"].map(scored_by(layers)) == metric
    return units[judged].sort_values(f"{metric}_excess", ascending=False, kind="stable")


def resolve(settings: AblationSettings, layers: pd.DataFrame) -> tuple[AblationSettings, tuple[str, ...]]:
    """Say what the default ranking is in this run, and which sites it leaves out.

    Returns
    -------
    settings : AblationSettings
        Where every site holds signed units, ranked by the excess of what stands in for the index.
    left_out : tuple of str
        Sites with signed units, where others are ranked by the index; nothing where the user names a ranking.
    """
    if settings.by != DEFAULT:
        return settings, ()
    metric = main_metric(layers)
    if metric != INDEX:
        return replace(settings, by=f"{metric}_excess"), ()
    return settings, tuple(site for site, name in scored_by(layers).items() if name != INDEX)


def curve_score(units: pd.DataFrame, layers: pd.DataFrame, settings: AblationSettings) -> NDArray[np.float64]:
    """Score that orders the units of the curve, shape (U,).

    Where the default ranking leaves sites out and units are ranked within their layer only, the units of those sites
    are ordered by what stands in for the index there.
    """
    score = units[settings.column]
    if settings.by == DEFAULT:
        names = scored_by(layers)
        for metric in set(names.values()) - {INDEX}:
            stands_in = units[f"{metric}_excess"] if settings.curve_over == "layers" else np.nan
            score = score.mask(units["site"].map(names) == metric, stands_in)
    result: NDArray[np.float64] = score.to_numpy(dtype=np.float64)
    return result


def check_enough(units: pd.DataFrame, k: int) -> None:
    """Raise an OptionError if more units are asked for than there are."""
    if k > len(units):
        raise OptionError(
            f"The network has {len(units)} units.",
            wanted=f"--top-selective of 1 to {len(units)}",
            got=str(k),
            fix=f"--top-selective {len(units)} or fewer",
        )


def select_units(units: pd.DataFrame, settings: AblationSettings, *, left_out: tuple[str, ...] = ()) -> pd.DataFrame:
    """Most selective units, most selective first.

    Only units whose selectivity is significant against the label-shuffle null are candidates, so that rarely firing
    noise units, whose raw index is high by chance, cannot win.

    Parameters
    ----------
    units : pandas.DataFrame
        A run's unit table, scored on the select split.
    settings : AblationSettings
    left_out : tuple of str
        Sites whose units are no candidates; see :func:`resolve`.

    Returns
    -------
    pandas.DataFrame
        Rows of `units`; the index keeps their positions.

    Raises
    ------
    UnknownNameError
        If the table has no such ranking.
    OptionError
        If there are fewer units, or fewer significant ones, than asked for.
    """
    column, metric, k = settings.column, settings.metric, settings.top_selective
    rankings = [c for c in units.columns if f"{c.removesuffix('_excess')}_q" in units.columns]
    if column not in rankings:
        raise unknown_name(
            "ranking",
            settings.by,
            ["excess", *rankings],
            fix="Rank by a metric of the run; `auditor profile --metric NAME` adds one.",
        )
    check_enough(units, k)
    candidates = units[~units["site"].isin(left_out)]
    significant = candidates[(candidates[f"{metric}_q"] <= settings.q) & candidates[column].notna()]
    if k > len(significant):
        raise OptionError(
            f"Only {len(significant)} of {len(candidates)} units are significantly selective "
            f"(false-discovery rate {settings.q:g}, label-shuffle null)."
            + (f" Left out are {layers_with_signed(len(left_out))}, which have no index." if left_out else ""),
            wanted=f"--top-selective of 1 to {len(significant)}"
            if len(significant)
            else "significantly selective units",
            got=str(k),
            fix="Ask for fewer units, or profile more images so that more of them can be told from chance."
            + (" --by dprime_excess ranks all layers if profiled with --metric dprime." if left_out else ""),
        )
    return significant.sort_values(column, ascending=False, kind="stable").head(k)


def preferred_classes(units: pd.DataFrame, settings: AblationSettings) -> pd.Series:
    """Preferred class of every unit, by the metric that ranks them."""
    column = "preferred" if settings.metric == INDEX else f"{settings.metric}_preferred"
    return units[column]
