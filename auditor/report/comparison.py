"""Two or more runs side by side: selectivity by layer, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import GREY, INK, PALE, SERIES, caption, name_rows, new_figure, shorten, styled

_MARKERS = ("o", "s", "D", "^", "v", "P")
_INDEX = "mean class selectivity index of the layer"


class _Panel(NamedTuple):
    """A metric, its axis label, and its columns: mean, ends of the interval, mean under the null."""

    metric: str
    label: str
    columns: tuple[str, str, str, str]


@styled
def comparison(
    layers: DataFrame,
    overall: DataFrame,
    *,
    signed: Mapping[str, str] | None = None,
    confidence: float | Mapping[str, float] = 0.95,
) -> Figure:
    """Draw the mean selectivity of each site in each run, the count of dead units, and each run's accuracy.

    Parameters
    ----------
    layers : DataFrame
        One row per run and site: ``run``, ``site``, ``mean_index``, ``low``, ``high``, ``null_mean``, ``dead``.
    overall : DataFrame
        One row per run: ``run``, ``accuracy``, ``accuracy_low``, ``accuracy_high`` (from 0 to 1).
    signed : mapping of str to str, optional
        Metrics that stand in for the index where responses are signed, with their labels: columns ``mean_<metric>``,
        ``<metric>_low``, ``<metric>_high`` and ``<metric>_null_mean`` of `layers`. Each gets a panel, and the index
        none where no layer has it.
    confidence : float or mapping of str to float
        Of the intervals, or of those of each run, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `layers` is empty.
    """
    if layers.empty:
        raise DataError("There are no layers to draw.")
    runs, sites = list(dict.fromkeys(layers["run"])), list(dict.fromkeys(layers["site"]))
    height = 1.7 + max(4, len(sites)) * max(0.3, 0.13 * len(runs))
    panels = [_Panel("index", _INDEX, ("mean_index", "low", "high", "null_mean"))]
    for name, label in (signed or {}).items():
        columns = (f"mean_{name}", f"{name}_low", f"{name}_high", f"{name}_null_mean")
        panels.append(_Panel(name, f"mean of the layer, {label}", columns))
    drawn = [panel for panel in panels if layers[panel.columns[0]].notna().any()] or panels[:1]
    figure = new_figure(9.6 + 3.0 * (len(drawn) - 1), height)
    *left, right = figure.subplots(1, len(drawn) + 1, width_ratios=(*[3.4 / len(drawn) ** 0.5] * len(drawn), 1))
    for axes, panel in zip(left, drawn, strict=True):
        _selectivity(axes, layers, runs, sites, panel)
    for axes in left[1:]:
        axes.tick_params(axis="y", labelleft=False)
    _dead(left[-1], layers, runs, sites)
    _accuracy(right, overall, runs)
    handles, labels = left[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)))
    caption(figure, _explained(runs, confidence))
    return figure


def _explained(runs: list[str], confidence: float | Mapping[str, float]) -> str:
    levels = confidence if isinstance(confidence, Mapping) else dict.fromkeys(runs, confidence)
    if len(set(levels.values())) == 1:
        return f"Bars: {100 * next(iter(levels.values())):g} % intervals over images."
    each = ", ".join(f"{100 * levels[run]:g} % for {shorten(run, 24)}" for run in runs)
    return fill(f"Bars: intervals over images, {each}.", 130)


def _places(layers: DataFrame) -> dict[tuple[str, str], Any]:
    return {(run, site): row for run, site, row in zip(layers["run"], layers["site"], layers.index, strict=True)}


def _selectivity(axes: Axes, layers: DataFrame, runs: list[str], sites: list[str], panel: _Panel) -> None:
    table = _places(layers)
    shifts = np.linspace(-0.2, 0.2, len(runs)) if len(runs) > 1 else np.zeros(1)
    for row in range(0, len(sites), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F6F6F6", linewidth=0, zorder=0)
    for number, run in enumerate(runs):
        rows = [i for i, site in enumerate(sites) if (run, site) in table]
        mine = layers.loc[[table[run, sites[i]] for i in rows]]
        mean, low, high, null = (mine[c].to_numpy(dtype=float) for c in panel.columns)
        y, colour = np.array(rows) + shifts[number], SERIES[number % len(SERIES)]
        axes.hlines(y, low, high, color=colour, linewidth=1.6)
        axes.plot(mean, y, _MARKERS[number % len(_MARKERS)], color=colour, markersize=4.8, label=run)
        label = "with shuffled labels" if number == len(runs) - 1 else None
        axes.plot(null, y, "|", color=GREY, markersize=6, markeredgewidth=1.4, label=label, zorder=1)
    name_rows(axes, sites)
    if panel.metric == "index":
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel(panel.label)


def _dead(axes: Axes, layers: DataFrame, runs: list[str], sites: list[str]) -> None:
    table = _places(layers)
    axes.text(1.02, -0.8, "dead units", transform=axes.get_yaxis_transform(), fontsize=8.5, color=GREY)
    for i, site in enumerate(sites):
        dead = [f"{int(layers.loc[table[run, site], 'dead'])}" if (run, site) in table else "-" for run in runs]
        axes.text(1.02, i, " → ".join(dead), transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)


def _accuracy(axes: Axes, overall: DataFrame, runs: list[str]) -> None:
    for place, run in enumerate(runs):
        mine = overall[overall["run"] == run]
        if mine.empty:
            continue
        value, low, high = (float(mine[c].iloc[0]) for c in ("accuracy", "accuracy_low", "accuracy_high"))
        colour = SERIES[place % len(SERIES)]
        axes.vlines(place, low, high, color=colour, linewidth=1.8)
        axes.plot(place, value, _MARKERS[place % len(_MARKERS)], color=colour, markersize=6.5)
        axes.annotate(
            f"{value:.1%}", (place, value), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_xticks(range(len(runs)), [shorten(run, 16) for run in runs])
    if len(runs) > 2 or max(map(len, runs)) > 9:
        axes.tick_params(axis="x", rotation=35)
    axes.set_xlim(-0.5, len(runs) - 0.2)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_color(PALE)
    axes.set_ylabel("accuracy")
