"""Whether silencing a unit damages the class that it prefers more than the other classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import (
    BLUE,
    GREY,
    INK,
    PALE,
    VERMILION,
    beside,
    caption,
    decades,
    name_rows,
    new_figure,
    not_estimated,
    plain,
    signed,
    stripes,
    styled,
)

_LEVEL = 0.05
# Beyond this ratio of the largest to the median difference, the others would be one line at zero.
_TAILS = 12.0


@styled
def own_class_figure(
    layers: DataFrame,
    overall: Mapping[str, float] | None = None,
    *,
    measure_label: str = "increase of the loss (nats)",
    contrast: str = "difference",
    contrast_label: str | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draw the mean damage to the units' preferred classes and to the other classes, and their contrast by layer.

    Parameters
    ----------
    layers : DataFrame
        One row per layer, in network order: ``site``; ``own`` and ``others``, the mean over units of the damage to the
        preferred class and to the others, each with ``_low`` and ``_high``; `contrast` with ``_low``, ``_high``,
        ``_null_low`` and ``_null_high``, the middle where preferred classes are permuted, as wide as the confidence
        level; and, if they are there, ``<contrast>_q`` and ``n_units``. Rows whose `contrast` is NaN say so.
    overall : mapping of str to float, optional
        The same for the whole network, without ``site``; ``<contrast>_p`` stands in for ``_q``.
    measure_label : str
        What damage is, with its unit.
    contrast : str
        Column of what is compared with the null: ``difference`` of the means, or another such as ``excess``, how much
        more often than half an image of the preferred class is damaged more.
    contrast_label : str, optional
        What to call it, with its unit; needed for any but ``difference``.
    confidence : float
        Of the intervals and of the middle under permutation, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `layers` is empty.
    """
    if layers.empty:
        raise DataError("There are no layers to draw.")
    n = len(layers)
    table = layers
    if overall is not None:
        # One test needs no correction for many.
        last = {f"{contrast}_q": overall.get(f"{contrast}_p", np.nan), **overall, "site": "all layers"}
        table = pd.concat([layers, pd.DataFrame([last])], ignore_index=True)
    figure = new_figure(10.2, 1.85 + max(2, len(table)) * (0.34 if n <= 24 else 0.26))
    left, right = figure.subplots(1, 2, sharey=True)
    right.use_sticky_edges = False
    _damage(left, table)
    _contrast(right, table, contrast)
    for axes, columns in ((left, ("own", "others")), (right, (contrast,))):
        stripes(axes, n)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        _spread(axes, table, columns)
        if overall is not None:
            axes.axhline(n - 0.5, color=INK, linewidth=0.8)
    name_rows(left, [str(site) for site in table["site"]])
    if overall is not None:
        left.get_yticklabels()[-1].set_fontweight("bold")
    right.tick_params(axis="y", labelleft=False, length=0)
    left.set_xlabel(measure_label)
    right.set_xlabel(contrast_label or f"own minus others,\n{measure_label}")
    _notes(right, table, contrast)
    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 5.5}
    handles = [
        Line2D([], [], color=VERMILION, label="preferred class", **dot),
        Line2D([], [], color=BLUE, label="mean of the other classes", **(dot | {"marker": "s"})),
        Line2D([], [], color=INK, label=contrast, **(dot | {"marker": "D"})),
        Patch(facecolor=PALE, label="with permuted preferred classes"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    level = f"{100 * confidence:g} %"
    text = f"Means over the units of a layer; lines: their {level} intervals. Grey: middle {level} under permutation."
    if left.get_xscale() == "asinh" or right.get_xscale() == "asinh":
        text += "\nLinear around 0, logarithmic beyond."
    if f"{contrast}_q" in layers:
        text += f" Filled: q \N{LESS-THAN OR EQUAL TO} {_LEVEL:g}."
    caption(figure, text)
    return figure


def _damage(axes: Axes, table: DataFrame) -> None:
    y = np.arange(len(table))
    for name, colour, marker, shift in (("own", VERMILION, "o", -0.14), ("others", BLUE, "s", 0.14)):
        value, low, high = (table[column].to_numpy(dtype=float) for column in (name, f"{name}_low", f"{name}_high"))
        axes.hlines(y + shift, low, high, color=colour, linewidth=1.6, zorder=2)
        axes.scatter(value, y + shift, s=22, marker=marker, color=colour, zorder=3)


def _contrast(axes: Axes, table: DataFrame, contrast: str) -> None:
    y = np.arange(len(table))
    value, low, high, null_low, null_high = (
        table[f"{contrast}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high", "_null_low", "_null_high")
    )
    axes.barh(y, null_high - null_low, left=null_low, height=0.72, color=PALE, zorder=1.5)
    axes.hlines(y, low, high, color=INK, linewidth=1.6, zorder=2)
    q = table.get(f"{contrast}_q")
    sure = np.ones(len(table), dtype=bool) if q is None else q.to_numpy(dtype=float) <= _LEVEL
    axes.scatter(value[sure], y[sure], s=26, marker="D", color=INK, zorder=4)
    axes.scatter(value[~sure], y[~sure], s=26, marker="D", facecolors="white", edgecolors=INK, zorder=4)
    for row, number in enumerate(value):
        if not np.isfinite(number):
            not_estimated(axes, row)


def _spread(axes: Axes, table: DataFrame, columns: tuple[str, ...]) -> None:
    """Make the axis logarithmic away from zero where a few layers are far beyond the others."""
    values = np.abs(table[list(columns)].to_numpy(dtype=float))
    values = values[np.isfinite(values) & (values > 0)]
    if values.size > 3 and values.max() > _TAILS * np.median(values):
        linear = float(np.median(values))
        axes.set_xscale("asinh", linear_width=linear)
        axes.xaxis.set_major_locator(FixedLocator(decades(*axes.get_xlim(), linear, most=7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    else:
        axes.locator_params(axis="x", nbins=6)


def _notes(axes: Axes, table: DataFrame, contrast: str) -> None:
    """Numbers on the right: the contrast, and how many units it is of."""
    counts = table["n_units"] if "n_units" in table else [np.nan] * len(table)
    for row, (value, count) in enumerate(zip(table[contrast].astype(float), counts, strict=True)):
        if np.isfinite(value):
            beside(axes, row, _number(value), 46, ha="right")
        if np.isfinite(count):
            beside(axes, row, f"{count:,.0f}", 86, ha="right")
    beside(axes, -0.9, contrast, 46, ha="right", color=GREY)
    if "n_units" in table:
        beside(axes, -0.9, "units", 86, ha="right", color=GREY)


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 1e-3:
        return signed(value)
    return f"+{plain(value)}" if value > 0 else plain(value)
