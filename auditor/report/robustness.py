"""Accuracy of one network by type of corruption, and of any number against the strength of an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import BLUE, GREY, INK, caption, name_rows, new_figure, stripes, styled
from auditor.report.sweep_colours import alpha_colours, alpha_text, percent

SHADES = LinearSegmentedColormap.from_list("severity", ["#9ECAE9", BLUE, "#00243A"])


@styled
def accuracy_by_corruption(
    corruptions: DataFrame,
    by_type: DataFrame,
    *,
    clean: tuple[float, float, float],
    chance: float,
    confidence: float = 0.95,
) -> Figure:
    """Draw the accuracy of one network under each corruption, a dot for each severity, darker where it is stronger.

    Parameters
    ----------
    corruptions : DataFrame
        ``corruption``, ``group``, ``severity``, ``accuracy``, ``low``, ``high`` (from 0 to 1).
    by_type : DataFrame
        Means over severities: ``corruption``, ``accuracy``, ``low``, ``high``.
    clean : tuple of float
        Accuracy on the images as they are, with the ends of its interval.
    chance : float
        One over the number of classes.
    confidence : float
        Of the intervals.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no corruptions.
    """
    if corruptions.empty:
        raise DataError("There are no corruptions to draw.")
    names = list(dict.fromkeys(corruptions["corruption"]))
    groups = dict(zip(corruptions["corruption"], corruptions["group"], strict=True))
    severities = sorted(set(corruptions["severity"]))
    figure = new_figure(8.2, 1.5 + 0.36 * len(names))
    axes = figure.subplots()
    stripes(axes, len(names))
    axes.axvspan(clean[1], clean[2], color=GREY, alpha=0.18, linewidth=0)
    axes.axvline(clean[0], color=GREY, linewidth=1.4)
    axes.axvline(chance, color=GREY, linewidth=1.2, linestyle=(0, (2, 2)))
    shifts = np.linspace(-0.28, 0.28, len(severities)) if len(severities) > 1 else np.zeros(1)
    for shift, severity in zip(shifts, severities, strict=True):
        mine = corruptions[corruptions["severity"] == severity]
        y = np.array([names.index(name) for name in mine["corruption"]]) + shift
        colour = SHADES((severity - 1) / 4)
        axes.hlines(y, mine["low"], mine["high"], color=colour, linewidth=1.2)
        axes.plot(mine["accuracy"], y, "o", color=colour, markersize=4.2)
    means = by_type.set_index("corruption").reindex(names)
    rows = np.arange(len(names))
    axes.vlines(means["accuracy"], rows - 0.42, rows + 0.42, color=INK, linewidth=1.6)
    name_rows(axes, [name.replace("_", " ") for name in names])
    for row, name in enumerate(names):
        if row == 0 or groups[name] != groups[names[row - 1]]:
            axes.annotate(
                groups[name], (1.01, row), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=GREY
            )
            if row:
                axes.axhline(row - 0.5, color=GREY, linewidth=0.6)
    axes.set_xlim(*_room([*corruptions["low"], *corruptions["high"], chance, clean[2]]))
    axes.xaxis.set_major_formatter(percent)
    axes.set_xlabel(f"accuracy (%), {100 * confidence:g} % interval over images")
    handles: list[Any] = [
        Line2D([], [], color=SHADES((s - 1) / 4), marker="o", markersize=4.2, linewidth=1.2, label=f"severity {s}")
        for s in severities
    ]
    handles += [
        Line2D([], [], color=INK, marker="|", markersize=9, markeredgewidth=1.6, linewidth=0, label="mean of the type"),
        Line2D([], [], color=GREY, linewidth=1.4, label="clean"),
        Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (2, 2)), label="chance"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


@styled
def accuracy_against_strength(curves: Mapping[str, DataFrame], *, x: str, chance: float, note: str = "") -> Figure:
    """Draw accuracy against an attack's epsilon or number of steps, on a logarithmic axis.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        A panel for each attack, by its title: ``alpha`` (NaN for a single network), `x`, ``accuracy``, ``low``,
        ``high``, ``clean``, ``failed`` (bool: draw it hollow, a masking check failed for one of the networks).
    x : {"epsilon", "steps"}
        Column.
    chance : float
    note : str
        What the intervals are over.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there is nothing to draw.
    """
    drawn = {title: table for title, table in curves.items() if not table.empty}
    if not drawn:
        raise DataError("There are no attacks to draw.")
    figure = new_figure(0.9 + 4.3 * len(drawn), 3.9)
    panels = np.atleast_1d(figure.subplots(1, len(drawn), sharey=True))
    colours: dict[float, str] = {}
    failed = False
    for axes, (title, table) in zip(panels, drawn.items(), strict=True):
        alphas = sorted(set(table["alpha"].dropna()))
        colours = alpha_colours(alphas) if alphas else {}
        for alpha in alphas or [np.nan]:
            mine = (table[table["alpha"] == alpha] if alphas else table).sort_values(x)
            _curve(axes, mine, x, colours.get(alpha, BLUE), thick=alpha == 0)
        failed |= bool(table["failed"].any())
        axes.axhline(chance, color=GREY, linewidth=1.2, linestyle=(0, (2, 2)))
        axes.set_title(title)
        values = sorted(set(table[x].astype(float)))
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.35, values[-1] * 1.2)
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel("radius epsilon, 255ths of the pixel range" if x == "epsilon" else "steps")
    panels[0].set_ylabel("accuracy (%)")
    panels[0].set_ylim(*_room([v for t in drawn.values() for c in ("low", "high", "clean") for v in t[c]] + [chance]))
    panels[0].yaxis.set_major_formatter(percent)
    figure.legend(
        handles=_strength_legend(colours, failed=failed), loc="outside right upper", alignment="left",
        title="alpha" if colours else None,
    )  # fmt: skip
    if note:
        caption(figure, note)
    return figure


def _curve(axes: Axes, table: DataFrame, x: str, colour: str, *, thick: bool) -> None:
    places, accuracy, low, high = (table[c].to_numpy(dtype=float) for c in (x, "accuracy", "low", "high"))
    good = np.isfinite(low) & np.isfinite(high)
    if good.any():
        axes.fill_between(places[good], low[good], high[good], color=colour, alpha=0.16, linewidth=0)
    face = "white" if table["failed"].any() else colour
    axes.plot(places, accuracy, "-o", color=colour, markersize=4.4, markerfacecolor=face,
              linewidth=2.2 if thick else 1.5)  # fmt: skip
    axes.plot([0.0, 0.035], [float(table["clean"].iloc[0])] * 2, color=colour, linewidth=2.2,
              transform=axes.get_yaxis_transform(), solid_capstyle="butt")  # fmt: skip


def _strength_legend(colours: Mapping[float, str], *, failed: bool) -> list[Any]:
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4.4, linewidth=1.5, label=alpha_text(alpha))
        for alpha, colour in sorted(colours.items(), reverse=True)
    ]
    if not handles:
        handles = [Line2D([], [], color=BLUE, marker="o", markersize=4.4, linewidth=1.5, label="under attack")]
    handles += [
        Line2D([], [], color=GREY, marker="_", markersize=9, markeredgewidth=2.2, linewidth=0, label="clean, at left"),
        Line2D([], [], color=GREY, linewidth=1.2, linestyle=(0, (2, 2)), label="chance"),
    ]
    if failed:
        handles.append(
            Line2D([], [], color=GREY, marker="o", markersize=4.4, markerfacecolor="white", linewidth=1.5,
                   label="a masking\ncheck failed")
        )  # fmt: skip
    return handles


def _room(values: list[float]) -> tuple[float, float]:
    """Limits around accuracies, within 0 and 1 but for the width of a marker."""
    finite = [value for value in values if np.isfinite(value)]
    low, high = min(finite), max(finite)
    margin = 0.04 * max(high - low, 0.05)
    return max(-0.02, low - margin), min(1.02, high + margin)
