"""Importance against selectivity for every unit of a network, however many there are."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.stats import binom

from auditor.errors import DataError
from auditor.report.style import INK, VERMILION, caption, decades, new_figure, plain, signed, styled
from auditor.stats.intervals import spearman_interval

FloatArray = NDArray[np.float64]

# Greys, so that lines in colour stand out; without the lightest end, which is lost on white.
COUNTS = ListedColormap(colormaps["Greys"](np.linspace(0.13, 0.85, 256)))
_RHO = "\N{GREEK SMALL LETTER RHO}"
_PER_BIN, _FEWEST_BINS, _MOST_BINS = 40, 4, 20


@styled
def importance_density(
    units: DataFrame,
    *,
    score: str,
    importance: str,
    score_label: str,
    importance_label: str,
    layer_column: str = "site",
    confidence: float = 0.95,
) -> Figure:
    """Draw how many units have which selectivity and importance: as they are, and as ranks within their layer.

    Importance has heavy tails on both sides of zero, so its axis is ``asinh(y / s)`` with s the median of its absolute
    values: linear for the smaller half, logarithmic beyond. Layers differ in both numbers for reasons of their own,
    which the right panel takes away.

    Parameters
    ----------
    units : DataFrame
        One row per unit: `score`, `importance` and `layer_column`. Units without either number are not drawn; the
        caption says how many.
    score, importance : str
        Columns.
    score_label, importance_label : str
        What to call them on the axes, with units.
    layer_column : str
        Column with the layer of each unit.
    confidence : float
        Of the intervals over units.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If no unit has both numbers.
    """
    good = units[np.isfinite(units[score].astype(float)) & np.isfinite(units[importance].astype(float))]
    if good.empty:
        raise DataError("There are no units to draw.")
    x, y = (good[name].to_numpy(dtype=float) for name in (score, importance))
    figure = new_figure(11.0, 4.7)
    left, right = figure.subplots(1, 2)
    scale = float(np.median(np.abs(y[y != 0]))) if (y != 0).any() else 1.0
    cells = [_density(left, x, np.arcsinh(y / scale), confidence, across=np.sqrt(len(x)) / 1.6)]
    _asinh_axis(left, y, scale)
    left.axhline(0, color=INK, linewidth=0.9, zorder=1.5)
    left.set_xlabel(score_label)
    left.set_ylabel(importance_label)
    several = good[layer_column].nunique() > 1
    left.set_title("values, all layers together" if several else "values", fontweight="normal")
    ranks = good.groupby(layer_column, sort=False)[[score, importance]].rank()
    sizes = good.groupby(layer_column, sort=False)[score].transform("size").to_numpy(dtype=float)
    # A layer of one unit has no order within it.
    ordered = sizes > 1
    first, second = ((ranks[name].to_numpy() - 0.5)[ordered] / sizes[ordered] for name in (score, importance))
    if ordered.any():
        # Ranks fill the square evenly: smaller cells would show the noise of their counts.
        cells.append(_density(right, first, second, confidence, across=np.sqrt(len(first) / 12)))
    right.set_title(_correlation(first, second, confidence), fontweight="normal")
    for axis, name in ((right.xaxis, "selectivity"), (right.yaxis, "importance")):
        axis.set_label_text(f"{name}, rank within the layer (% of its units)")
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    right.set_xlim(0, 1)
    right.set_ylim(0, 1)
    right.axhline(0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3.5)
    most = max(float(np.asarray(each.get_array()).max()) for each in cells)
    for each in cells:
        each.set_norm(LogNorm(1, max(most, 2)))
    bar = figure.colorbar(cells[0], ax=[left, right], fraction=0.03, pad=0.01)
    bar.set_label("units in a cell (logarithmic)")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar.outline.set_visible(False)
    level = f"{100 * confidence:g} %"
    handles = [
        Line2D([], [], color=VERMILION, linewidth=2, marker="o", markersize=3.5, label="running median"),
        Patch(facecolor=VERMILION, alpha=0.38, label=f"its {level} interval"),
        Line2D([], [], color=VERMILION, linewidth=1, linestyle=":", label="middle half of the units"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    n_layers, left_out = good[layer_column].nunique(), len(units) - len(good)
    without = f" {left_out:,} without a selectivity or an importance are left out." if left_out else ""
    caption(
        figure,
        f"{len(good):,} units of {n_layers} layer{'' if n_layers == 1 else 's'}.{without} Left: linear up to "
        f"{scale:.2g} (half of the units), logarithmic beyond.\n{level} intervals over units; running medians over "
        f"equal numbers of units. Dashed: no relation.",
    )
    return figure


def _density(axes: Axes, x: FloatArray, y: FloatArray, confidence: float, *, across: float) -> PolyCollection:
    """Cells coloured by their number of units, with running median and quartiles."""
    n = int(np.clip(across, 10, 46))
    cells = axes.hexbin(x, y, gridsize=(n, round(n / 1.6)), mincnt=1, cmap=COUNTS, linewidths=0.2)
    cells.set_zorder(2)
    middle, found = running_median(x, y, confidence)
    axes.fill_between(middle, found[1], found[2], color=VERMILION, alpha=0.38, linewidth=0, zorder=3)
    for quartile in found[3:]:
        axes.plot(middle, quartile, color=VERMILION, linewidth=1, linestyle=":", zorder=3)
    axes.plot(middle, found[0], color=VERMILION, linewidth=2, marker="o", markersize=3.5, zorder=4)
    axes.grid(visible=False)
    return cells


def running_median(x: FloatArray, y: FloatArray, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Median of `y` in bins of equal numbers of units along `x`, with its distribution-free interval.

    The interval is that of the order statistics whose ranks are the binomial's quantiles, as for the sign test
    (Hettmansperger & McKean 2011, section 1.3); NaN where a bin has too few units for the confidence: fewer than 6 for
    95 %.

    Parameters
    ----------
    x, y : (n,) arrays
    confidence : float
        Coverage of the interval, at least.

    Returns
    -------
    middle : (b,) array
        Median of `x` in each bin.
    found : (5, b) array
        Median, ends of its interval, lower and upper quartile of `y`.
    """
    n_bins = int(np.clip(len(x) // _PER_BIN, 1 if len(x) < _PER_BIN else _FEWEST_BINS, _MOST_BINS))
    # Ties in x would go to different bins by their order in the table; ranks with ties keep them together.
    edges = np.unique(np.quantile(x, np.linspace(0, 1, n_bins + 1)[1:-1]))
    bins = np.digitize(x, edges)
    middle, found = [], []
    for number in np.unique(bins):
        mine = np.sort(y[bins == number])
        n = len(mine)
        rank = int(binom.ppf((1 - confidence) / 2, n, 0.5))
        ends = (mine[rank - 1], mine[n - rank]) if rank else (np.nan, np.nan)
        middle.append(float(np.median(x[bins == number])))
        found.append((float(np.median(mine)), *ends, *np.quantile(mine, [0.25, 0.75])))
    return np.array(middle), np.array(found).T


def _asinh_axis(axes: Axes, y: FloatArray, scale: float) -> None:
    ticks = decades(float(y.min()), float(y.max()), scale)
    axes.yaxis.set_major_locator(FixedLocator(list(np.arcsinh(np.array(ticks) / scale))))
    texts = {round(float(np.arcsinh(tick / scale)), 6): plain(tick) for tick in ticks}
    axes.yaxis.set_major_formatter(FuncFormatter(lambda place, _: texts.get(round(place, 6), "")))


def _correlation(first: FloatArray, second: FloatArray, confidence: float) -> str:
    if len(first) < 4 or not np.ptp(first) * np.ptp(second) > 0:
        return "ranks within layers"
    rho, low, high = (float(value) for value in spearman_interval(first, second, confidence))
    return f"ranks within layers: {_RHO} = {signed(rho, 2)} [{signed(low, 2)}, {signed(high, 2)}]"
