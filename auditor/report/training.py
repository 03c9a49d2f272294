"""How a fine-tune went, epoch by epoch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import BLUE, GREEN, ORANGE, VERMILION, new_figure, styled


@styled
def training_history(history: DataFrame) -> Figure:
    """Draw losses, selectivity within batches and validation accuracy by epoch.

    Parameters
    ----------
    history : DataFrame
        One row per epoch: ``epoch``, ``train_loss``, ``cross_entropy``, ``batch_si``, ``val_accuracy``, and, if there
        are intervals, ``val_accuracy_low`` and ``val_accuracy_high``. Missing values are left out.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no epochs.
    """
    if history.empty:
        raise DataError("There are no epochs to draw.")
    figure = new_figure(10.2, 3.4)
    loss, selectivity, accuracy = figure.subplots(1, 3)
    _line(loss, history, "train_loss", VERMILION, "o", "whole loss")
    _line(loss, history, "cross_entropy", BLUE, "s", "cross-entropy")
    loss.legend()
    loss.set_ylabel("training loss")
    _line(selectivity, history, "batch_si", ORANGE, "o", None)
    selectivity.set_ylabel("mean selectivity within batches")
    selectivity.set_ylim(bottom=0)
    _line(accuracy, history, "val_accuracy", GREEN, "o", None)
    accuracy.set_ylabel("validation accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    for axes in (loss, selectivity, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure


def _line(axes: Axes, history: DataFrame, column: str, colour: str, marker: str, label: str | None) -> None:
    x, y = (history[name].to_numpy(dtype=float) for name in ("epoch", column))
    good = np.isfinite(y)
    if {f"{column}_low", f"{column}_high"} <= set(history.columns):
        low, high = (history[f"{column}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        axes.fill_between(x[good], low[good], high[good], color=colour, alpha=0.18, linewidth=0)
    axes.plot(x[good], y[good], color=colour, marker=marker, markersize=4, label=label)
