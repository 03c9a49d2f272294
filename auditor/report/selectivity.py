"""How selective the units of each layer are, beside what shuffled labels give."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.stats import gaussian_kde

from auditor.errors import DataError
from auditor.report.style import BLUE, GREY, INK, VERMILION, name_rows, new_figure, styled


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
    if units.empty:
        raise DataError("There are no units to draw.")
    sites = list(dict.fromkeys(units["site"]))
    figure = new_figure(8.2, 1.5 + max(2, len(sites)) * (0.36 if len(sites) <= 24 else 0.27))
    axes = figure.add_subplot()
    for row, site in enumerate(sites):
        mine = units[units["site"] == site]
        values = mine[metric].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        null = mine[f"{metric}_null"].to_numpy(dtype=float)
        null = null[np.isfinite(null)]
        if values.size:
            _violin(axes, values, row)
            axes.plot(values.mean(), row, "o", color=BLUE, markersize=4.5, zorder=4)
        if null.size:
            axes.plot([null.mean()] * 2, [row - 0.38, row + 0.38], color=VERMILION, linewidth=2, zorder=3)
        note = _count(len(mine), int(mine["dead"].sum()), values.size)
        axes.text(1.015, row, note, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    axes.text(1.015, -0.8, "units", transform=axes.get_yaxis_transform(), fontsize=8.5, color=GREY)
    name_rows(axes, sites)
    if metric == "index":
        axes.set_xlim(-0.01, 1.01)
    axes.set_xlabel(metric_label)
    handles = [
        Patch(facecolor=BLUE, alpha=0.32, edgecolor=BLUE, label="units"),
        Line2D([], [], marker="o", linestyle="", color=BLUE, markersize=4.5, label="mean"),
        Line2D([], [], color=VERMILION, linewidth=2, label="mean with shuffled labels"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _count(n_units: int, n_dead: int, n_scored: int) -> str:
    """``"512 (9 dead, 3 unscored)"``: units that take both signs have no index."""
    unscored = max(0, n_units - n_dead - n_scored)
    parts = [f"{n} {what}" for n, what in ((n_dead, "dead"), (unscored, "unscored")) if n]
    return f"{n_units}" + (f"  ({', '.join(parts)})" if parts else "")


def _violin(axes: Axes, values: NDArray[np.float64], row: int) -> None:
    if np.ptp(values) < 1e-9:  # one unit, or all alike: no density to estimate
        axes.vlines(values[0], row - 0.3, row + 0.3, color=BLUE, linewidth=0.8)
        return
    x = np.linspace(values.min(), values.max(), 200)
    density = gaussian_kde(values)(x)
    half = 0.43 * density / density.max()
    axes.fill_between(x, row - half, row + half, facecolor=BLUE, alpha=0.32, edgecolor=BLUE, linewidth=0.8)
