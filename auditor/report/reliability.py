"""Whether selectivity measured on one half of the images is found again on the other half."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.density import COUNTS
from auditor.report.style import (
    BLUE,
    INK,
    caption,
    name_rows,
    new_figure,
    not_estimated,
    shorten,
    signed,
    stripes,
    styled,
)

# More dots than this hide one another.
_CROWD = 1500
_DEPTHS = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, 256)))


@styled
def reliability_figure(
    first: ArrayLike,
    second: ArrayLike,
    sites: Sequence[str],
    *,
    rho: float,
    low: float,
    high: float,
    label: str = "class selectivity index",
    by_layer: DataFrame | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draw each unit's selectivity on one half of the images against that on the other half.

    Parameters
    ----------
    first, second : (n,) arrays
        Selectivity on the two halves; units without either are left out, and the caption says how many.
    sites : sequence of str
        Layer of each unit; layers appear in order of first mention.
    rho, low, high : float
        Rank correlation of the halves and its interval.
    label : str
        What selectivity is.
    by_layer : DataFrame, optional
        ``site``, ``rho``, ``low``, ``high``: the same by layer, for a second panel.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If no unit has both values, or lengths differ.
    """
    x, y = np.asarray(first, dtype=float).ravel(), np.asarray(second, dtype=float).ravel()
    if not len(x) == len(y) == len(sites):
        raise DataError(
            "Halves and layers do not fit, so there is nothing to draw.",
            wanted="three lists of equal length",
            got=f"{len(x)}, {len(y)} and {len(sites)}",
        )
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        raise DataError("There are no units to draw.")
    order = list(dict.fromkeys(sites))
    depth = np.array([order.index(site) for site in sites], dtype=float)[good]
    rows = 0 if by_layer is None else len(by_layer)
    figure = new_figure(6.2 if not rows else 10.8, max(4.9, 1.5 + rows * (0.3 if rows <= 24 else 0.23)))
    panels = figure.subplots(1, 2 if rows else 1, squeeze=False).ravel()
    _halves(figure, panels[0], x[good], y[good], depth, order)
    panels[0].set_xlabel(f"{label}, first half of the images")
    panels[0].set_ylabel(f"{label}, second half of the images")
    greek = "\N{GREEK SMALL LETTER RHO}"
    interval = f" [{signed(low, 2)}, {signed(high, 2)}]" if np.isfinite([low, high]).all() else ""
    panels[0].set_title(f"Spearman {greek} = {signed(rho, 2)}{interval}", fontweight="normal")
    text = f"{good.sum():,} units; line: the halves agree."
    if not good.all():
        text += f" {(~good).sum():,} without a value in either half are left out."
    if by_layer is not None and rows:
        _layers(panels[1], by_layer)
        panels[1].set_xlabel(f"Spearman {greek} between the halves")
    level = f"{100 * confidence:g} %"
    text += f" Brackets and bars: {level} intervals." if rows else f" Brackets: {level} interval."
    caption(figure, text)
    return figure


def _halves(
    figure: Figure,
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    depth: NDArray[np.float64],
    order: list[str],
) -> None:
    ends = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.03 * (ends[1] - ends[0]) or 0.5
    limits = ends[0] - margin, ends[1] + margin
    if len(x) > _CROWD:
        across = int(np.clip(np.sqrt(len(x)) / 1.6, 20, 50))
        cells = axes.hexbin(
            x, y, gridsize=(across, int(across / 1.7)), extent=(*limits, *limits), mincnt=1, cmap=COUNTS, linewidths=0.2
        )
        cells.set_norm(LogNorm(1, max(2.0, float(np.asarray(cells.get_array()).max()))))
        bar = figure.colorbar(cells, cax=axes.inset_axes((1.03, 0, 0.045, 1)))
        bar.set_label("units in a cell (logarithmic)")
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        bar.outline.set_visible(False)
    elif len(order) > 1:
        dots = axes.scatter(x, y, c=depth, s=12, linewidths=0, cmap=_DEPTHS, vmin=0, vmax=len(order) - 1, zorder=3)
        bar = figure.colorbar(dots, cax=axes.inset_axes((1.03, 0, 0.045, 1)), ticks=[0, len(order) - 1])
        bar.ax.set_yticklabels([shorten(order[0], 18), shorten(order[-1], 18)], fontsize=8)
        bar.ax.invert_yaxis()
        bar.outline.set_visible(False)
    else:
        axes.scatter(x, y, color=BLUE, s=12, linewidths=0, zorder=3)
    axes.plot(limits, limits, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_box_aspect(1)
    axes.set_anchor("N")


def _layers(axes: Axes, by_layer: DataFrame) -> None:
    y = np.arange(len(by_layer))
    rho, low, high = (by_layer[name].to_numpy(dtype=float) for name in ("rho", "low", "high"))
    stripes(axes, len(by_layer))
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    axes.hlines(y, low, high, color=BLUE, linewidth=1.8, zorder=2)
    axes.scatter(rho, y, s=26, color=BLUE, zorder=3)
    for row, value in enumerate(rho):
        if not np.isfinite(value):
            not_estimated(axes, row)
    name_rows(axes, [str(site) for site in by_layer["site"]], longest=26)
    axes.set_xlim(min(-0.05, float(np.nanmin([*low, *rho, 0.0])) - 0.05), 1.03)
