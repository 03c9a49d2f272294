"""What is left of the accuracy as more and more units are silenced, or as only a few are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION, caption, new_figure, styled

# Colour and marker: each tells the orders apart alone.
_KNOWN = {
    "selective first": (VERMILION, "o"),
    "least selective first": (BLUE, "s"),
    "most important first": (ORANGE, "^"),
    "least important first": (GREEN, "v"),
    "random": (GREY, "D"),
}
_OTHER = ((PINK, "P"), (SKY, "X"), (GREEN, "<"), (ORANGE, ">"))
_PANELS = {"silence": ("Units silenced", "silenced units"), "keep": ("Only these units kept", "kept units")}
_DASHES = (0, (4, 3))


@styled
def ablation_curve(
    curve: DataFrame, *, chance: float | None = None, areas: DataFrame | None = None, n_units: int | None = None
) -> Figure:
    """Draw accuracy against the number of silenced units, and of kept ones, one line for each order.

    Parameters
    ----------
    curve : DataFrame
        ``order``, ``n_silenced``, ``accuracy``, ``low``, ``high`` and, if there are keep-only curves, ``kind``
        (``silence`` or ``keep``); accuracies from 0 to 1. Rows with nothing silenced give the line of the intact
        network.
    chance : float, optional
        Accuracy of guessing.
    areas : DataFrame, optional
        ``order``, ``area``, ``low``, ``high`` and, as in `curve`, ``kind``: shown in the legend.
    n_units : int, optional
        Units of the network; default the largest number silenced.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `curve` is empty.
    """
    if curve.empty:
        raise DataError("There is no curve to draw.")
    curve = curve.assign(kind=curve.get("kind", "silence"))
    total = n_units or int(curve["n_silenced"].max())
    kinds = [kind for kind in _PANELS if (curve["kind"] == kind).any()]
    # Each area takes a line of its own above the panel.
    rows = 0 if areas is None else max(curve.loc[curve["kind"] == kind, "order"].nunique() for kind in kinds)
    figure = new_figure(6.8 if len(kinds) == 1 else 11.0, 4.2 + 0.19 * rows)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False).ravel()
    looks = _looks(list(dict.fromkeys(curve["order"])))
    for kind, axes in zip(kinds, panels, strict=True):
        mine = curve[curve["kind"] == kind]
        mine = mine.assign(x=mine["n_silenced"] if kind == "silence" else total - mine["n_silenced"])
        _panel(axes, mine, looks, _areas(areas, kind))
        _levels(axes, curve, chance, named=axes is panels[-1])
        title, label = _PANELS[kind]
        axes.set_xlabel(f"{label} (of {total:,})")
        axes.set_xlim(left=0, right=total * 1.1)
        if areas is not None:
            legend = axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2, alignment="left")
            if len(kinds) > 1:
                legend.set_title(title, {"weight": "bold", "size": 10.5})
        elif len(kinds) > 1:
            axes.set_title(title)
    panels[0].set_ylabel("accuracy (% of images)")
    if areas is None:
        found = dict(pair for axes in panels for pair in zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=3 if len(kinds) == 1 else 5)
    else:
        lines = (
            "Area: mean accuracy over the share of units, 0 at chance and 1 as in the intact network.",
            "Brackets: its interval; of a mean of random orders, lowest and highest draw.",
        )
        caption(figure, ("\n" if len(kinds) == 1 else " ").join(lines))
    return figure


def _looks(orders: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each order, the same in every panel."""
    unknown = [order for order in orders if order not in _KNOWN]
    return _KNOWN | {order: _OTHER[i % len(_OTHER)] for i, order in enumerate(unknown)}


def _areas(areas: DataFrame | None, kind: str) -> dict[str, str]:
    """What the legend says of each order whose area is known."""
    if areas is None:
        return {}
    areas = areas.assign(kind=areas.get("kind", "silence"))
    areas = areas[(areas["kind"] == kind) & areas["area"].notna()]
    texts = {}
    for order, area, low, high in areas[["order", "area", "low", "high"]].itertuples(index=False):
        interval = f" [{low:.2f}, {high:.2f}]" if np.isfinite([low, high]).all() else ""
        texts[str(order)] = f": area {area:.2f}{interval}".replace("-", "\N{MINUS SIGN}")
    return texts


def _panel(axes: Axes, curve: DataFrame, looks: Mapping[str, tuple[str, str]], texts: Mapping[str, str]) -> None:
    draws = curve.assign(draws=curve.get("draws", 1)).groupby("order")["draws"].max()
    for order in dict.fromkeys(curve["order"]):
        line = curve[curve["order"] == order].sort_values("x")
        colour, marker = looks[order]
        x, y, low, high = (line[name].to_numpy(dtype=float) for name in ("x", "accuracy", "low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        name = order if draws[order] == 1 else f"{order} (mean of {draws[order]})"
        axes.plot(x, y, color=colour, marker=marker, ms=4, label=f"{name}{texts.get(order, '')}")
    axes.set_ylim(0, 1.02)
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _levels(axes: Axes, curve: DataFrame, chance: float | None, *, named: bool) -> None:
    """Dashed lines at the accuracy of the intact network and of guessing."""
    intact = curve.loc[curve["n_silenced"] == 0, "accuracy"]
    levels = [("intact network", float(intact.iloc[0]))] if len(intact) else []
    for name, level in [*levels, *([("chance", chance)] if chance is not None else [])]:
        axes.axhline(level, color=GREY, linewidth=1, linestyle=_DASHES, zorder=1)
        if named:
            axes.annotate(
                name,
                (1, level),
                xycoords=axes.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=GREY,
            )
