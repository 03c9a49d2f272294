"""The geometry of a sweep's networks, one line or dot for each alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import GREY, INK, caption, new_figure, styled, tell_apart
from auditor.report.sweep_colours import alpha_colours, alpha_legend, alpha_text
from auditor.stats.intervals import paired_mean_interval

_SPREAD = 0.16


class Panel(NamedTuple):
    """What one panel shows: a table with a row per site and alpha, and a column with ``_low`` and ``_high``.

    `floor`, if given, is a column of the level without any effect; it is drawn as its mean over alphas.
    """

    table: DataFrame
    column: str
    label: str
    floor: str | None = None


@styled
def by_layer(panels: Sequence[Panel], *, note: str = "", share: bool = False, confidence: float = 0.95) -> Figure:
    """Draw values of every layer, one line for each alpha, side by side.

    Parameters
    ----------
    panels : sequence of Panel
        Their tables hold ``site``, ``alpha``, ``n_seeds`` and the panel's column.
    note : str
        What else the caption says.
    share : bool
        Whether the panels of a row, three at most, have one scale.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no layers.
    """
    if not panels or any(panel.table.empty for panel in panels):
        raise DataError("There are no layers to draw.")
    sites = list(dict.fromkeys(panels[0].table["site"]))
    colours = alpha_colours(panels[0].table["alpha"])
    wide = min(5.4, max(3.4, 1.4 + 0.25 * len(sites)))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(wide * across + 1.0, 3.9 * down)
    every = figure.subplots(down, across, squeeze=False)
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    cut = False
    for axes_row, row in zip(every, rows, strict=True):
        limits = [_limits(panel) for panel in row]
        if share:
            limits = [(min(low for low, _ in limits), max(high for _, high in limits))] * len(row)
        for axes, panel, (low, high) in zip(axes_row, row, limits, strict=False):
            cut |= _lines(axes, panel, sites, colours, low, high)
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
    alpha_legend(every[0, 0], colours, floor="labels shuffled" if any(p.floor for p in panels) else None, line=True)
    tables = [panel.table[panel.table["alpha"] != 0] for panel in panels]
    single = min((int(table["n_seeds"].min()) for table in tables if len(table)), default=1) < 2
    words = [_bars(confidence, single=single), "Bars that leave a panel are cut." if cut else "", note]
    caption(figure, " ".join(filter(None, words)))
    return figure


def _limits(panel: Panel) -> tuple[float, float]:
    """Room for the means and for intervals of their size; those of two seeds may be many times as wide."""
    table = panel.table
    middle = table[[panel.column, *filter(None, [panel.floor])]].to_numpy(dtype=float)
    if not np.isfinite(middle).any():
        return 0.0, 1.0
    low, high = min(0.0, float(np.nanmin(middle))), float(np.nanmax(middle))
    span = high - low or 1.0
    lowest, highest = (table[f"{panel.column}{end}"].to_numpy(dtype=float) for end in ("_low", "_high"))
    bottom = low if low == 0 else max(np.nanmin([*lowest, low]), low - 0.35 * span)
    hair = 0.03 * span if panel.floor is not None or low < 0 else 0.0
    return bottom - hair, min(np.nanmax([*highest, high]), high + 0.35 * span) + 0.05 * span


@styled
def distances_by_alpha(similarity: DataFrame, labels: dict[str, str], *, confidence: float = 0.95) -> Figure:
    """Draw the distance of each network to the network of alpha 0 with its seed, against that from seed to seed.

    Parameters
    ----------
    similarity : DataFrame
        One row per pair (``reference``, ``run``) and ``site``: ``relation`` (``from alpha 0``, ``seed to seed``),
        ``alpha``, and one column for each of `labels`.
    labels : dict of str to str
        Column of a distance to what to call it.
    confidence : float
        Of the intervals over seeds.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If no network is compared with one of alpha 0.
    """
    pairs = similarity.groupby(["relation", "reference", "run"], sort=False)[["alpha", *labels]].mean().reset_index()
    regularized, control = (pairs[pairs["relation"] == name] for name in ("from alpha 0", "seed to seed"))
    if regularized.empty:
        raise DataError("There are no distances from networks of alpha 0 to draw.")
    colours = alpha_colours([*regularized["alpha"], 0.0])
    alphas = [alpha for alpha in colours if alpha != 0]
    figure = new_figure(max(3.0, 1.3 + 0.4 * len(alphas)) * len(labels), 3.6)
    every = figure.subplots(1, len(labels), squeeze=False)[0]
    for axes, (column, label) in zip(every, labels.items(), strict=True):
        _band(axes, control[column].dropna().to_numpy(dtype=float))
        for place, alpha in enumerate(alphas):
            values = regularized.loc[regularized["alpha"] == alpha, column].dropna().to_numpy(dtype=float)
            mean, low, high = paired_mean_interval(values, confidence)
            spread = np.linspace(-_SPREAD, _SPREAD, len(values)) if len(values) > 1 else np.zeros(len(values))
            axes.plot(place + spread, values, "o", color=colours[alpha], markersize=2.8, alpha=0.75, markeredgewidth=0)
            axes.vlines(place, low, high, color=colours[alpha], linewidth=1.6)
            axes.plot(place, mean, "o", color=colours[alpha], markersize=6.5, markeredgecolor=INK, markeredgewidth=0.5)
        axes.set_xticks(range(len(alphas)), [alpha_text(alpha) for alpha in alphas])
        axes.set_xlim(-0.5, len(alphas) - 0.5)
        every_value = pairs[column].dropna()
        axes.set_ylim(0, min(axes.get_ylim()[1], 1.4 * float(every_value.max()) if len(every_value) else 1.0))
        axes.set_xlabel("alpha (not to scale)")
        axes.set_ylabel(f"distance: 1 \N{MINUS SIGN} {label},\nmean over layers")
        axes.grid(visible=False, axis="x")
    if len(control):
        figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left")
    single = int(regularized["alpha"].value_counts().min()) < 2
    bars = _bars(confidence, single=single)
    caption(figure, f"To the network of alpha 0 and the same seed. {bars} They may leave the panel.")
    return figure


def _band(axes: Axes, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Distances between networks of alpha 0: their mean and range, which no few pairs have a sound interval for."""
    if len(values):
        axes.axhspan(values.min(), values.max(), color=GREY, alpha=0.18, linewidth=0, zorder=0)
        label = f"alpha 0, seed to seed ({len(values)} pair{'s' * (len(values) > 1)})"
        axes.axhline(values.mean(), color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), label=label, zorder=1)


def _lines(
    axes: Axes, panel: Panel, sites: Sequence[str], colours: dict[float, str], bottom: float, top: float
) -> bool:
    """Draw a panel; returns whether an interval leaves it."""
    shifts = np.linspace(-0.12, 0.12, len(colours)) if len(colours) > 1 else np.zeros(1)
    cut = False
    for shift, (alpha, colour) in zip(shifts, colours.items(), strict=True):
        mine = panel.table[panel.table["alpha"] == alpha].set_index("site").reindex(list(sites))
        x = np.arange(len(sites)) + shift
        mean, low, high = (mine[f"{panel.column}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        axes.vlines(x, low, high, color=colour, linewidth=0.9, alpha=0.7)
        axes.plot(x, mean, "-o", color=colour, markersize=3.4, linewidth=2.0 if alpha == 0 else 1.2)
        cut |= bool((low < bottom).any() or (high > top).any())
    if panel.floor is not None:
        floor = panel.table.groupby("site", sort=False)[panel.floor].mean().reindex(list(sites))
        axes.plot(range(len(sites)), floor, color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    names = tell_apart(sites, 20)
    crowded = sum(map(len, names)) > 28
    axes.set_xticks(range(len(sites)), names, rotation=60 if crowded else 0, ha="right" if crowded else "center",
                    rotation_mode="anchor" if crowded else "default")  # fmt: skip
    axes.set_xlim(-0.5, len(sites) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom, top)
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel(panel.label)
    return cut


def _bars(confidence: float, *, single: bool) -> str:
    if single:
        return "One network of an alpha: no interval over trainings."
    return f"Bars: {100 * confidence:g} % t intervals over seeds."
