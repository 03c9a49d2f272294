"""Choose the units to ablate."""

from __future__ import annotations

import pandas as pd

from auditor.api.settings import AblationSettings
from auditor.errors import OptionError, unknown_name


def select_units(units: pd.DataFrame, settings: AblationSettings) -> pd.DataFrame:
    """Most selective units, most selective first.

    Only units whose selectivity is significant against the label-shuffle null are candidates, so that rarely firing
    noise units, whose raw index is high by chance, cannot win.

    Parameters
    ----------
    units : pandas.DataFrame
        A run's unit table, scored on the select split.
    settings : AblationSettings

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
    if k > len(units):
        raise OptionError(
            f"The run has {len(units)} units.",
            wanted=f"--top-selective of 1 to {len(units)}",
            got=str(k),
            fix=f"--top-selective {len(units)} or fewer",
        )
    significant = units[(units[f"{metric}_q"] <= settings.q) & units[column].notna()]
    if k > len(significant):
        raise OptionError(
            f"Only {len(significant)} of {len(units)} units are significantly selective "
            f"(false-discovery rate {settings.q:g}, label-shuffle null).",
            wanted=f"--top-selective of 1 to {len(significant)}"
            if len(significant)
            else "significantly selective units",
            got=str(k),
            fix="Ask for fewer units, or profile more images so that more of them can be told from chance.",
        )
    return significant.sort_values(column, ascending=False, kind="stable").head(k)
