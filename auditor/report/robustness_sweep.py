"""Robustness of the networks of a sweep against their selectivity and their clean accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import GREY, caption, new_figure, styled
from auditor.report.sweep_colours import alpha_colours, alpha_text, percent


@styled
def robustness_against_selectivity(networks: DataFrame, *, label: str, chance: float, note: str = "") -> Figure:
    """Draw one dot per network: robust accuracy against mean selectivity, and against clean accuracy.

    Parameters
    ----------
    networks : DataFrame
        One row per network: ``alpha``, ``mean_si``, ``si_low``, ``si_high``, ``si_null``, ``clean``, ``clean_low``,
        ``clean_high``, ``value``, ``value_low``, ``value_high``, ``failed`` (bool: drawn hollow).
    label : str
        Of the robust accuracy.
    chance : float
    note : str
        What the correlation is.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no networks.
    """
    if networks.empty:
        raise DataError("There are no networks to draw.")
    colours = alpha_colours(networks["alpha"])
    figure = new_figure(10.2, 4.1)
    left, right = figure.subplots(1, 2, sharey=True)
    _dots(left, networks, ("mean_si", "si_low", "si_high"), colours)
    floored = bool(networks["si_null"].notna().any())
    left.plot(networks["si_null"], networks["value"], "|", color=GREY, markersize=7, markeredgewidth=1.1, zorder=1)
    left.set_xlabel("mean class selectivity index")
    left.set_ylabel(f"{label} (%)")
    left.yaxis.set_major_formatter(percent)
    _dots(right, networks, ("clean", "clean_low", "clean_high"), colours)
    right.set_xlabel("clean accuracy on the same images (%)")
    right.xaxis.set_major_formatter(percent)
    right.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ends = _ends(networks, "clean"), _ends(networks, "value")
    shared = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
    equal = shared[1] - shared[0] > 0.3 * (ends[0][1] - ends[0][0])  # else it is a scrap in a corner
    if equal:
        right.plot(shared, shared, color=GREY, linewidth=1.0, scalex=False, scaley=False)
    near_chance = ends[1][0] < chance + 0.15
    if near_chance:
        for axes in (left, right):
            axes.axhline(chance, color=GREY, linewidth=1.2, linestyle=(0, (2, 2)))
    handles: list[Any] = [
        Line2D([], [], color=colour, marker="o", markersize=5.5, linewidth=0, label=alpha_text(alpha))
        for alpha, colour in sorted(colours.items(), reverse=True)
    ]
    if networks["failed"].any():
        handles.append(
            Line2D([], [], color=GREY, marker="o", markersize=5.5, markerfacecolor="white", linewidth=0,
                   label="a masking\ncheck failed")
        )  # fmt: skip
    if floored:
        handles.append(
            Line2D(
                [], [], color=GREY, marker="|", markersize=7, linewidth=0, label="the same network,\nlabels shuffled"
            )
        )
    if equal:
        handles.append(Line2D([], [], color=GREY, linewidth=1.0, label="nothing lost"))
    if near_chance:
        handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (2, 2)), label="chance"))
    figure.legend(handles=handles, loc="outside right upper", title="alpha", alignment="left")
    if note:
        caption(figure, note)
    return figure


def _dots(axes: Axes, networks: DataFrame, columns: tuple[str, str, str], colours: dict[float, str]) -> None:
    for alpha in sorted(colours, key=abs, reverse=True):
        mine = networks[networks["alpha"] == alpha]
        x, low, high = (mine[c].to_numpy(dtype=float) for c in columns)
        y, bottom, top = (mine[c].to_numpy(dtype=float) for c in ("value", "value_low", "value_high"))
        axes.hlines(y, low, high, color=colours[alpha], linewidth=0.7, alpha=0.6)
        axes.vlines(x, bottom, top, color=colours[alpha], linewidth=0.7, alpha=0.6)
        for hollow in (False, True):
            these = mine["failed"].to_numpy(dtype=bool) == hollow
            axes.plot(x[these], y[these], "o", color=colours[alpha], markersize=5.5,
                      markerfacecolor="white" if hollow else colours[alpha],
                      markeredgecolor=colours[alpha] if hollow else "white",
                      markeredgewidth=1.3 if hollow else 0.6)  # fmt: skip


def _ends(networks: DataFrame, name: str) -> tuple[float, float]:
    values = networks[[f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    return float(np.nanmin(values)), float(np.nanmax(values))
