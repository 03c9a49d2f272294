"""What silencing, or keeping, more and more of the selective units costs, beside matched random sets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import BLUE, GREY, INK, VERMILION, caption, new_figure, styled


class _Line(NamedTuple):
    """Column, label on the figure, colour, marker, line style."""

    column: str
    label: str
    colour: str
    marker: str
    dashes: str


_LINES = (
    _Line("random", "matched random", GREY, "D", "--"),
    _Line("least", "least selective", BLUE, "s", "-"),
    _Line("selected", "most selective", VERMILION, "o", "-"),
)
_MOST_TICKS = 9


@styled
def necessity_curves(
    table: DataFrame, *, measure_label: str, total_units: int, kept: bool = False, confidence: float = 0.95
) -> Figure:
    """Draw what is lost as the most selective units are silenced, as matched random and the least selective ones are.

    Parameters
    ----------
    table : DataFrame
        One row per size of the set: ``n_units``, and ``selected``, ``random`` and, if there is one, ``least``, each
        with ``<name>_low`` and ``<name>_high``. Ends that are NaN are not drawn.
    measure_label : str
        What is lost, with its unit (``"accuracy lost (percentage points)"``).
    total_units : int
        Units of the network.
    kept : bool
        The sets are kept and all other units silenced.
    confidence : float
        Of the intervals over images, for the caption. Of random draws the middle 95 % are shown in any case.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there is no finite value.
    """
    lines = [line for line in _LINES if line.column in table and np.isfinite(table[line.column].astype(float)).any()]
    if table.empty or not lines:
        raise DataError("There are no curves to draw.")
    table = table.sort_values("n_units")
    figure = new_figure(6.8, 4.2)
    axes = figure.add_subplot()
    # Bars of a single size would hide one another.
    step = 0.08 * float(table["n_units"].iloc[0]) if len(table) == 1 else 0.0
    for place, line in enumerate(lines):
        _draw(axes, table, line, step * (place - (len(lines) - 1) / 2))
    axes.axhline(0, color=INK, linewidth=0.9, zorder=1)
    _counts(axes, table["n_units"].to_numpy(dtype=float))
    axes.set_xlabel(f"units {'kept, all others silenced' if kept else 'silenced together'} (of {total_units:,})")
    axes.set_ylabel(measure_label)
    _name_lines(axes, table, lines)
    own = " and ".join(line.label for line in lines[::-1] if line.column != "random")
    bands = [f"{own}: {100 * confidence:g} % interval over images"] if own else []
    if any(line.column == "random" for line in lines):
        bands.append("matched random: mean of the draws and their middle 95 %")
    text = ";\n".join(bands)
    caption(figure, f"{'Bars' if len(table) == 1 else 'Bands'}: {text}.")
    return figure


def _draw(axes: Axes, table: DataFrame, line: _Line, shift: float) -> None:
    x = table["n_units"].to_numpy(dtype=float) + shift
    y, low, high = (table[name].to_numpy(dtype=float) for name in _columns(line))
    good = np.isfinite(y)
    # Lines lead over sizes that were not measured.
    axes.plot(x[good], y[good], color=line.colour, marker=line.marker, markersize=4.5, linestyle=line.dashes)
    if len(table) == 1:
        axes.vlines(x[good], low[good], high[good], color=line.colour, linewidth=2.5, alpha=0.5)
    axes.fill_between(x[good], low[good], high[good], color=line.colour, alpha=0.17, linewidth=0)


def _columns(line: _Line) -> tuple[str, str, str]:
    return line.column, f"{line.column}_low", f"{line.column}_high"


def _counts(axes: Axes, sizes: NDArray[np.float64]) -> None:
    """Scale the axis by ratios, with the measured sizes as ticks as long as they are apart."""
    positive = np.unique(sizes[sizes > 0])
    if positive.size == 0:
        return
    if positive.size == 1:
        axes.set_xlim(0.5 * positive[0], 1.5 * positive[0])
    wide = positive[-1] / positive[0] > 20
    if wide and (sizes == 0).any():
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.3)
    elif wide:
        axes.set_xscale("log")
    span = np.log(positive) if wide else positive
    apart = np.ptp(span) / (_MOST_TICKS + 3) if positive.size > 1 else 0.0
    ticks = [positive[-1]]
    for size, place in zip(positive[-2::-1], span[-2::-1], strict=True):
        if (np.log(ticks[-1]) if wide else ticks[-1]) - place >= apart:
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator([*([0.0] if (sizes == 0).any() else []), *ticks[::-1]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _name_lines(axes: Axes, table: DataFrame, lines: list[_Line]) -> None:
    """Write each line's name at its end, moved apart where ends meet."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    ends = []
    for line in lines:
        found = table[["n_units", line.column]].astype(float).dropna()
        ends.append((float(found[line.column].iloc[-1]), float(found["n_units"].iloc[-1]), line))
    ends.sort(key=lambda end: end[0])
    places = _apart(np.array([(end[0] - bottom) / (top - bottom) for end in ends]), 0.065)
    for place, (_, _, line) in zip(places, ends, strict=True):
        axes.annotate(
            line.label,
            (1.0, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=line.colour,
            fontweight="bold",
            fontsize=9,
        )


def _apart(places: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Move sorted places within 0 to 1 apart by at least `gap`, each as little as it takes."""
    moved = places.copy()
    for _ in range(50):
        for i in range(len(moved) - 1):
            lack = gap - (moved[i + 1] - moved[i])
            if lack > 1e-9:
                moved[i], moved[i + 1] = moved[i] - lack / 2, moved[i + 1] + lack / 2
        moved += max(0.0, gap / 3 - moved[0])
        moved -= max(0.0, moved[-1] - (1 - gap / 3))
    return moved
