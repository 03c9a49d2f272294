"""Accuracy and selectivity of a sweep against alpha."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import GREY, INK, caption, new_figure, styled
from auditor.report.sweep_colours import alpha_colours, alpha_text, cut_to_shares, percent

_SPREAD = 0.16


@styled
def against_alpha(alphas: DataFrame, networks: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw mean accuracy and mean selectivity of every alpha, with intervals, and the single networks.

    Alphas stand side by side in their order, not to scale, so that -20, -0.1 and 20 fit in one figure.

    Parameters
    ----------
    alphas : DataFrame
        One row per alpha: ``alpha``, ``accuracy`` and ``mean_index``, each with ``_low`` and ``_high``; ``over``
        (``seeds`` or ``images``) and ``null_mean``.
    networks : DataFrame
        One row per network: ``alpha``, ``seed``, ``accuracy``, ``mean_index``.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no alphas.
    """
    if alphas.empty:
        raise DataError("There are no alphas to draw.")
    table = alphas.sort_values("alpha")
    figure = new_figure(max(7.2, 2.4 + 0.75 * len(table)), 3.7)
    left, right = figure.subplots(1, 2)
    _panel(left, table, networks, "accuracy")
    left.set_ylabel("test accuracy, %")
    left.yaxis.set_major_formatter(percent)
    floor = table["null_mean"].to_numpy(dtype=float)
    _panel(right, table, networks, "mean_index")
    right.plot(range(len(table)), floor, color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), label="labels shuffled")
    right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
    right.set_ylabel("mean class selectivity index")
    if np.isfinite(floor).any():
        right.legend(loc="upper left")
    cut = {cut_to_shares(axes) for axes in (left, right)}
    for axes in (left, right):
        axes.set_xticks(range(len(table)), [alpha_text(alpha) for alpha in table["alpha"]])
        axes.set_xlabel("alpha (not to scale)")
        axes.grid(visible=False, axis="x")
    caption(figure, _explained(table, f"{100 * confidence:g} %") + max(cut))
    return figure


def _panel(axes: Axes, table: DataFrame, networks: DataFrame, name: str) -> None:
    colours, places = alpha_colours(table["alpha"]), np.arange(len(table))
    seeds = {seed: i for i, seed in enumerate(sorted(set(networks["seed"])))}
    shifts = np.linspace(-_SPREAD, _SPREAD, len(seeds)) if len(seeds) > 1 else np.zeros(1)
    mean, low, high = (table[f"{name}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    axes.plot(places, mean, color=INK, linewidth=0.9, alpha=0.5, zorder=1)
    for place, alpha in enumerate(table["alpha"]):
        colour, mine = colours[float(alpha)], networks[networks["alpha"] == alpha]
        if len(mine) > 1:
            x = place + shifts[[seeds[seed] for seed in mine["seed"]]]
            axes.plot(x, mine[name], "o", color=colour, markersize=2.8, alpha=0.75, markeredgewidth=0, zorder=2)
        axes.vlines(place, low[place], high[place], color=colour, linewidth=1.6, zorder=3)
        axes.plot(place, mean[place], "o", color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=0.7,
                  zorder=4)  # fmt: skip
    axes.set_xlim(-0.5, len(table) - 0.5)


def _explained(table: DataFrame, level: str) -> str:
    kinds = set(table["over"])
    if kinds == {"images"}:
        return f"One network per alpha; bars: {level} intervals over images, none over trainings."
    text = f"Large dots: means over seeds, {level} t intervals over seeds; small dots: single networks."
    return text if kinds == {"seeds"} else f"{text} Where one network is all, the interval is over images."
