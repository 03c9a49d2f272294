"""Whether selectivity goes with importance, layer by layer and over all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    beside,
    caption,
    name_rows,
    new_figure,
    not_estimated,
    signed,
    stripes,
    styled,
)

_RHO = "\N{GREEK SMALL LETTER RHO}"
_LEVEL = 0.05


@styled
def correlation_forest(
    table: DataFrame,
    pooled: Mapping[str, float] | None,
    *,
    label: str,
    margin: float | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draw one rank correlation per layer with its intervals, and their mean over layers below.

    Parameters
    ----------
    table : DataFrame
        One row per layer, in network order: ``site``, ``rho``, ``low`` and ``high`` (interval over units), ``q``, and,
        if they are there, ``low_images`` and ``high_images`` (over images), ``partial_rho`` (given the controls),
        ``n_units`` and ``reason`` (why `rho` is NaN).
    pooled : mapping of str to float, or None
        ``mean``, ``low``, ``high``, ``prediction_low``, ``prediction_high``: the mean over layers, its interval, and
        the range in which the correlation of another such layer is expected. Ends may be NaN.
    label : str
        What is correlated (``"Spearman correlation of selectivity and loss of accuracy"``).
    margin : float, optional
        Declared beforehand; drawn as a dotted line.
    confidence : float
        Of the intervals and of the range of prediction, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `table` is empty.
    """
    if table.empty:
        raise DataError("There are no correlations to draw.")
    table = table.reset_index(drop=True)
    n = len(table)
    rows = n + (1 if pooled is not None else 0)
    figure = new_figure(8.2, 1.75 + max(2, rows) * (0.32 if n <= 24 else 0.25))
    axes = figure.add_subplot()
    stripes(axes, n)
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    if margin is not None:
        axes.axvline(margin, color=VERMILION, linewidth=1, linestyle=":", zorder=1)
    _layers(axes, table)
    names = [str(site) for site in table["site"]]
    if pooled is not None:
        _pooled(axes, pooled, n)
        names.append(f"mean of {int(table['rho'].notna().sum())} layers")
    name_rows(axes, names)
    if pooled is not None:
        axes.axhline(n - 0.5, color=INK, linewidth=0.8)
        axes.get_yticklabels()[-1].set_fontweight("bold")
    low, high = axes.get_xlim()
    axes.set_xlim(max(-1.05, low), min(1.05, high))
    axes.set_xlabel(label)
    _notes(axes, table, pooled)
    _legend(figure, table, pooled)
    level = f"{100 * confidence:g} %"
    text = f"Thick: {level} interval over units.{' Thin: over images.' if _has(table, 'low_images') else ''}"
    if pooled is not None:
        text += f"\nLast row: mean and its {level} interval; dashed: where {level} of such layers are expected."
    if margin is not None:
        text += f" Dotted: the declared margin, {margin:g}."
    caption(figure, text)
    return figure


def _has(table: DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _column(table: DataFrame, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (
        table[name].to_numpy(dtype=np.float64) if name in table else np.full(len(table), np.nan, dtype=np.float64)
    )
    return values


def _layers(axes: Axes, table: DataFrame) -> None:
    y = np.arange(len(table))
    rho = _column(table, "rho")
    sure = _column(table, "q") <= _LEVEL
    axes.hlines(y, _column(table, "low_images"), _column(table, "high_images"), color=BLUE, linewidth=1, zorder=2)
    axes.hlines(y, _column(table, "low"), _column(table, "high"), color=BLUE, linewidth=3.6, alpha=0.45, zorder=2)
    axes.scatter(rho[sure], y[sure], s=30, color=BLUE, zorder=4)
    axes.scatter(rho[~sure], y[~sure], s=30, facecolors="white", edgecolors=BLUE, linewidths=1.3, zorder=4)
    partial = _column(table, "partial_rho")
    axes.scatter(partial, y, s=26, marker="D", facecolors="none", edgecolors=VERMILION, linewidths=1.2, zorder=5)
    reasons = table["reason"].fillna("").astype(str) if "reason" in table else [""] * len(table)
    for row, (value, reason) in enumerate(zip(rho, reasons, strict=True)):
        if not np.isfinite(value):
            not_estimated(axes, row, reason)


def _pooled(axes: Axes, pooled: Mapping[str, float], row: int) -> None:
    axes.hlines(row, pooled["prediction_low"], pooled["prediction_high"], color=INK, linewidth=1.2, linestyle="--")
    axes.hlines(row, pooled["low"], pooled["high"], color=INK, linewidth=3.6, alpha=0.6)
    axes.plot(pooled["mean"], row, "D", color=INK, markersize=7, zorder=4)


def _notes(axes: Axes, table: DataFrame, pooled: Mapping[str, float] | None) -> None:
    """Numbers on the right: the correlation, and how many units it is of."""
    counts = _column(table, "n_units")
    values = list(_column(table, "rho")) + ([pooled["mean"]] if pooled is not None else [])
    for row, value in enumerate(values):
        if np.isfinite(value):
            beside(axes, row, signed(value, 2), 36, ha="right", weight="bold" if row == len(table) else "normal")
        if row < len(table) and np.isfinite(counts[row]):
            beside(axes, row, f"{counts[row]:,.0f}", 76, ha="right")
    beside(axes, -0.9, _RHO, 36, ha="right", color=GREY)
    if np.isfinite(counts).any():
        beside(axes, -0.9, "units", 76, ha="right", color=GREY)


def _legend(figure: Figure, table: DataFrame, pooled: Mapping[str, float] | None) -> None:
    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "color": BLUE, "markersize": 5.5}
    handles = [
        Line2D([], [], label=f"q \N{LESS-THAN OR EQUAL TO} {_LEVEL:g}", **dot),
        Line2D([], [], markerfacecolor="white", label=f"q > {_LEVEL:g}", **dot),
    ]
    if _has(table, "partial_rho"):
        own: dict[str, Any] = {
            "marker": "D",
            "linestyle": "",
            "color": VERMILION,
            "markersize": 5,
            "markerfacecolor": "none",
        }
        handles.append(Line2D([], [], label=f"partial {_RHO}, given the controls", **own))
    if pooled is not None:
        handles.append(Line2D([], [], marker="D", linestyle="", color=INK, markersize=6, label="mean over layers"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
