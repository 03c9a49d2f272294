"""Whether the answer depends on how selectivity is defined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
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
    tell_apart,
)

_RHO = "\N{GREEK SMALL LETTER RHO}"
# Colour and marker: each tells the outcomes apart alone.
_OUTCOMES = {"supported": (BLUE, "o"), "refuted": (VERMILION, "s"), "inconclusive": (GREY, "D")}
_LONGEST = 30
# Opposite, unrelated, alike: blue and vermilion, light enough for dark letters.
_SIGNED = LinearSegmentedColormap.from_list("signed", ("#55A5D0", "white", "#EB9255"))


@styled
def metric_forest(
    table: DataFrame, *, label: str | None = None, margin: float | None = None, confidence: float = 0.95
) -> Figure:
    """Draw the correlation of selectivity with importance for each definition of selectivity.

    Parameters
    ----------
    table : DataFrame
        One row per metric: ``metric`` (what to call it), ``rho``, ``low``, ``high``, and, if they are there,
        ``outcome`` (``supported``, ``refuted``, ``inconclusive`` or another word, written beside the row) and
        ``n_layers``. Rows whose ``rho`` is NaN say so.
    label : str, optional
        What is correlated.
    margin : float, optional
        Declared beforehand; drawn as a dotted line.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `table` is empty.
    """
    if table.empty:
        raise DataError("There are no metrics to draw.")
    figure = new_figure(7.6, 1.5 + 0.36 * max(3, len(table)))
    axes = figure.add_subplot()
    rho, low, high = (table[name].to_numpy(dtype=float) for name in ("rho", "low", "high"))
    outcomes = [str(word) for word in table["outcome"]] if "outcome" in table else [""] * len(table)
    stripes(axes, len(table))
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    if margin is not None:
        axes.axvline(margin, color=VERMILION, linewidth=1, linestyle=":", zorder=1)
    for row, outcome in enumerate(outcomes):
        colour, marker = _OUTCOMES.get(outcome, (INK, "^"))
        if np.isfinite(rho[row]):
            beside(axes, row, signed(float(rho[row]), 2), 36, ha="right")
        else:
            not_estimated(axes, row)
        axes.hlines(row, low[row], high[row], color=colour, linewidth=2, zorder=2)
        axes.plot(rho[row], row, marker, color=colour, markersize=6, zorder=3)
        beside(axes, row, outcome, 48, color=colour)
    beside(axes, -0.85, _RHO, 36, ha="right", color=GREY)
    name_rows(axes, [str(name) for name in table["metric"]], longest=_LONGEST)
    axes.set_xlabel(label or f"mean over layers of Spearman {_RHO} between selectivity and importance")
    level = f"{100 * confidence:g} %"
    text = f"Lines: {level} interval of the mean over layers. Words: what the test with this metric says."
    caption(figure, text if margin is None else f"{text}\nDotted: the declared margin, {margin:g}.")
    return figure


@styled
def agreement_matrix(
    table: DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    label: str = f"mean over layers of Spearman {_RHO}",
    confidence: float = 0.95,
) -> Figure:
    """Draw how far metrics rank units alike.

    Parameters
    ----------
    table : DataFrame
        One row per pair of metrics: ``first``, ``second``, ``rho``, ``low``, ``high``; either order, each pair once.
        Ends may be NaN. Metrics appear in order of first mention.
    labels : mapping of str to str, optional
        What to call the metrics.
    label : str
        What the numbers are.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `table` is empty.
    """
    if table.empty:
        raise DataError("There are no pairs of metrics to draw.")
    metrics = list(dict.fromkeys([*table["first"], *table["second"]]))
    n = len(metrics)
    values, lows, highs = (np.full((n, n), np.nan) for _ in range(3))
    i, j = ([metrics.index(name) for name in table[side]] for side in ("first", "second"))
    for square, column in ((values, "rho"), (lows, "low"), (highs, "high")):
        square[i, j] = square[j, i] = table[column].to_numpy(dtype=float)
    np.fill_diagonal(values, 1.0)
    known = bool(np.isfinite(lows).any())
    names = [(labels or {}).get(str(name), str(name)) for name in metrics]
    side = 0.8 if known else 0.62
    figure = new_figure(3.2 + side * n, 2.6 + side * n * 0.8)
    axes = figure.add_subplot()
    colours = _SIGNED.with_extremes(bad="#F0F0F0")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = _cell(value, (float(lows[row, column]), float(highs[row, column])))
        axes.text(column, row, text, ha="center", va="center", fontsize=8)
    name_rows(axes, names, longest=_LONGEST)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xticks(range(n), tell_apart(names, _LONGEST), rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="both", length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label(label)
    bar.outline.set_visible(False)
    ends = f"Below: {100 * confidence:g} % interval." if known else "Without intervals."
    caption(figure, f"Rank correlation of the units' selectivity\nby two metrics. {ends}")
    return figure


def _cell(value: float, ends: tuple[float, float]) -> str:
    if not np.isfinite(value):
        return "-"
    text = signed(value, 2).lstrip("+")
    return f"{text}\n[{', '.join(signed(end, 2).lstrip('+') for end in ends)}]" if np.isfinite(ends).all() else text
