"""What is left of the accuracy as more and more units are silenced."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION, new_figure, styled

_KNOWN = {"selective first": VERMILION, "least selective first": BLUE, "random": GREY}
_MARKERS = {"selective first": "o", "least selective first": "s", "random": "D"}
_OTHER = (GREEN, ORANGE, PINK, SKY)


@styled
def ablation_curve(curve: DataFrame, *, chance: float | None = None) -> Figure:
    """Draw accuracy against the number of silenced units, one line for each order of silencing.

    Parameters
    ----------
    curve : DataFrame
        ``order``, ``n_silenced``, ``accuracy``, ``low``, ``high``; accuracies from 0 to 1. Rows with nothing silenced
        give the line of the intact network.
    chance : float, optional
        Accuracy of guessing.

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
    figure = new_figure(6.8, 4.2)
    axes = figure.add_subplot()
    others = iter(_OTHER * len(curve))
    for order in dict.fromkeys(curve["order"]):
        line = curve[curve["order"] == order].sort_values("n_silenced")
        colour = _KNOWN.get(order) or next(others)
        x = line["n_silenced"].to_numpy(dtype=float)
        axes.fill_between(
            x, line["low"].to_numpy(dtype=float), line["high"].to_numpy(dtype=float), color=colour, alpha=0.18, lw=0
        )
        axes.plot(
            x, line["accuracy"].to_numpy(dtype=float), color=colour, marker=_MARKERS.get(order, "^"), ms=4, label=order
        )
    intact = curve.loc[curve["n_silenced"] == 0, "accuracy"]
    levels = [("intact network", float(intact.iloc[0]))] if len(intact) else []
    for name, level in [*levels, *([("chance", chance)] if chance is not None else [])]:
        axes.axhline(level, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
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
    axes.set_ylim(0, 1.02)
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xlim(left=0, right=float(curve["n_silenced"].max()) * 1.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("silenced units")
    axes.set_ylabel("accuracy")
    figure.legend(loc="outside upper left", ncols=3)
    return figure
