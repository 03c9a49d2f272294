"""How selective the units of each layer are, beside what shuffled labels give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.stats import gaussian_kde

from auditor.errors import DataError
from auditor.report.style import BLUE, GREY, INK, VERMILION, caption, name_rows, new_figure, styled


@styled
def selectivity_by_layer(units: DataFrame, *, metric: str = "index", metric_label: str) -> Figure:
    """Draw one violin per site in network order, with its mean and the mean under shuffled labels.

    Parameters
    ----------
    units : DataFrame
        One row per unit: ``site``, ``dead``, `metric` and ``<metric>_null``. Sites appear in order of first mention.
    metric : str
        Column to draw.
    metric_label : str
        What to call it on the axis.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no units.
    """
    return _rows(units, {metric: metric_label}, dict.fromkeys(units["site"], (metric,)), bands=False)


@styled
def selectivity_panels(
    units: DataFrame, *, labels: Mapping[str, str], scored_by: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw the same for a network whose layers are not all scored alike: one panel per metric, rows shared.

    Parameters
    ----------
    units : DataFrame
        One row per unit: ``site``, ``dead``, ``signed``, and each metric with its ``<metric>_null``.
    labels : mapping of str to str
        Metrics in the order of the panels, and what to call them on the axes.
    scored_by : mapping of str to sequence of str
        Site to the metrics that score it. Others are not drawn for it.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no units.
    """
    figure = _rows(units, labels, scored_by, bands=True)
    caption(figure, "Layers with signed responses have no class selectivity index; other metrics take its place there.")
    return figure


def _rows(
    units: DataFrame, labels: Mapping[str, str], scored_by: Mapping[str, Sequence[str]], *, bands: bool
) -> Figure:
    if units.empty:
        raise DataError("There are no units to draw.")
    sites = list(dict.fromkeys(units["site"]))
    height = 1.5 + max(2, len(sites)) * (0.36 if len(sites) <= 24 else 0.27)
    figure = new_figure(8.2 + 2.2 * (len(labels) - 1), height)
    panels = figure.subplots(1, len(labels), sharey=True, squeeze=False).ravel()
    scored = np.zeros(len(sites), dtype=int)
    for axes, (metric, label) in zip(panels, labels.items(), strict=True):
        for row, site in enumerate(sites):
            mine = units[units["site"] == site]
            if metric in scored_by[site]:
                scored[row] = max(scored[row], _site(axes, mine, metric, row))
            elif bands:
                axes.text(0.5, row, "-", transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY)
        if bands:
            for row in range(0, len(sites), 2):
                axes.axhspan(row - 0.5, row + 0.5, color="#F6F6F6", linewidth=0, zorder=0)
        name_rows(axes, sites)
        if metric == "index":
            axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel(label)
    for axes in panels[1:]:
        axes.tick_params(axis="y", labelleft=False)
    last = panels[-1]
    for row, site in enumerate(sites):
        mine = units[units["site"] == site]
        signed = int(mine["signed"].sum()) if bands else 0
        note = _count(len(mine), int(mine["dead"].sum()), int(scored[row]), signed)
        last.text(1.015, row, note, transform=last.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    last.text(1.015, -0.8, "units", transform=last.get_yaxis_transform(), fontsize=8.5, color=GREY)
    handles = [
        Patch(facecolor=BLUE, alpha=0.32, edgecolor=BLUE, label="units"),
        Line2D([], [], marker="o", linestyle="", color=BLUE, markersize=4.5, label="mean"),
        Line2D([], [], color=VERMILION, linewidth=2, label="mean with shuffled labels"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _site(axes: Axes, mine: DataFrame, metric: str, row: int) -> int:
    """Draw one site in one panel; return how many of its units have a value."""
    values = mine[metric].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    null = mine[f"{metric}_null"].to_numpy(dtype=float)
    null = null[np.isfinite(null)]
    if values.size:
        _violin(axes, values, row)
        axes.plot(values.mean(), row, "o", color=BLUE, markersize=4.5, zorder=4)
    if null.size:
        axes.plot([null.mean()] * 2, [row - 0.38, row + 0.38], color=VERMILION, linewidth=2, zorder=3)
    return int(values.size)


def _count(n_units: int, n_dead: int, n_scored: int, n_signed: int = 0) -> str:
    """``"512 (9 dead, 3 unscored)"``: units that take both signs have no index."""
    unscored = max(0, n_units - n_dead - n_scored)
    counts = ((n_dead, "dead"), (n_signed, "signed"), (unscored, "unscored"))
    parts = [f"{n} {what}" for n, what in counts if n]
    return f"{n_units}" + (f"  ({', '.join(parts)})" if parts else "")


def _violin(axes: Axes, values: NDArray[np.float64], row: int) -> None:
    if np.ptp(values) < 1e-9:  # one unit, or all alike: no density to estimate
        axes.vlines(values[0], row - 0.3, row + 0.3, color=BLUE, linewidth=0.8)
        return
    x = np.linspace(values.min(), values.max(), 200)
    density = gaussian_kde(values)(x)
    half = 0.43 * density / density.max()
    axes.fill_between(x, row - half, row + half, facecolor=BLUE, alpha=0.32, edgecolor=BLUE, linewidth=0.8)
