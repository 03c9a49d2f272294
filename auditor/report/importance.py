"""Whether single units that are more selective matter more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import BLUE, INK, caption, new_figure, shorten, signed, styled
from auditor.stats.intervals import spearman_interval

# Column, scale, axis label.
_PANELS = (
    ("loss_change", 1.0, "change of the loss (nats)"),
    ("accuracy_change", 100.0, "change of accuracy\n(percentage points)"),
    ("preferred_accuracy_change", 100.0, "change of accuracy on the\npreferred class (percentage points)"),
)

_HAIR, _CROWD = "#BDBDBD", 300
# Without viridis' yellow end, which is too light for small dots on white.
_DEPTHS = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, 256)))


@styled
def unit_importance(
    effects: DataFrame,
    *,
    sites: Sequence[str] | None = None,
    metric: str = "index",
    metric_label: str | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draw what silencing each unit does against how selective it is, one panel per effect.

    Parameters
    ----------
    effects : DataFrame
        One row per unit: ``site``, ``<metric>_excess``, and ``loss_change``, ``accuracy_change``,
        ``preferred_accuracy_change``, each with ``_low`` and ``_high``. Effects whose column is missing are left out.
    sites : sequence of str, optional
        All sites in network order; if given, colour shows a unit's depth.
    metric : str
        Selectivity metric.
    metric_label : str, optional
        What to call its excess on the axis.
    confidence : float
        Of the intervals in the table, and of those of the correlations.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no units or no effects.
    """
    panels = [panel for panel in _PANELS if panel[0] in effects.columns]
    if effects.empty or not panels:
        raise DataError("There are no effects to draw.")
    order = list(sites or [])
    ranks = {site: rank for rank, site in enumerate(order)}
    depth = np.array([ranks[site] for site in effects["site"]], dtype=np.float64) if len(order) > 1 else None
    figure = new_figure(1.1 + 3.4 * len(panels), 4.1)
    all_axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, (column, scale, label) in zip(all_axes, panels, strict=True):
        points = _panel(axes, effects, f"{metric}_excess", column, scale, depth, confidence)
        axes.set_ylabel(label)
        axes.set_xlabel(metric_label or "selectivity above shuffled labels")
        points.set_clim(0, max(1, len(order) - 1))
    if depth is not None:
        bar = figure.colorbar(points, ax=list(all_axes), fraction=0.03, pad=0.01, ticks=[0, len(order) - 1])
        bar.ax.set_yticklabels([shorten(order[0], 18), shorten(order[-1], 18)], fontsize=8)
        bar.ax.invert_yaxis()
        bar.outline.set_visible(False)
    level = f"{100 * confidence:g} %"
    lines = [f"Lines: {level} intervals over images."]
    if any(axes.get_title(loc="left") for axes in all_axes):
        lines.append(f"Brackets: {level} intervals over units.")
    caption(figure, ("\n" if len(panels) == 1 else " ").join(lines))
    return figure


def _panel(
    axes: Axes,
    effects: DataFrame,
    excess: str,
    column: str,
    scale: float,
    depth: NDArray[np.float64] | None,
    confidence: float,
) -> PathCollection:
    x = effects[excess].to_numpy(dtype=float)
    y, low, high = (scale * effects[name].to_numpy(dtype=float) for name in (column, f"{column}_low", f"{column}_high"))
    axes.axhline(0, color=INK, linewidth=0.9)
    # Thousands of intervals would be one grey area: each fades, so that darkness shows how many overlap.
    crowd = len(x) > _CROWD
    axes.vlines(
        x, low, high, color=INK if crowd else _HAIR, alpha=max(0.03, 60 / len(x)) if crowd else 1, linewidth=1, zorder=2
    )
    points = axes.scatter(x, y, c=BLUE if depth is None else depth, s=6 if crowd else 16, linewidths=0, zorder=3)
    points.set_cmap(_DEPTHS)
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() > 2 and np.ptp(x[good]) > 0 and np.ptp(y[good]) > 0:
        rho, lower, upper = (float(v) for v in spearman_interval(x[good], y[good], confidence))
        axes.set_title(
            f"Spearman \N{GREEK SMALL LETTER RHO} = {signed(rho, 2)} [{signed(lower, 2)}, {signed(upper, 2)}], "
            f"{good.sum()} units",
            fontsize=9,
            fontweight="normal",
        )
    return points
