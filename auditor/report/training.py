"""How a fine-tune went, epoch by epoch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SERIES,
    VERMILION,
    caption,
    new_figure,
    shorten,
    styled,
)

_MOST_LAYERS = 6
_MARKERS = ("o", "s", "D", "^", "v", "P")


@styled
def training_history(
    history: DataFrame, layers: DataFrame | None = None, *, metric_label: str = "class selectivity index"
) -> Figure:
    """Draw losses, selectivity with its floors, validation accuracy and, where there are any, dead units by epoch.

    Parameters
    ----------
    history : DataFrame
        One row per epoch: ``epoch``, ``train_loss``, ``cross_entropy``, ``batch_si``, ``val_accuracy``, and, if there
        are intervals, ``val_accuracy_low`` and ``val_accuracy_high``; ``val_si``, ``batch_si_floor``,
        ``val_si_floor`` and ``alpha`` are drawn if they are there. Missing values are left out.
    layers : DataFrame, optional
        One row per epoch and layer: ``epoch``, ``site``, ``dead``, ``n_units``. The six layers that end with the
        largest share of dead units are drawn.
    metric_label : str
        What to call the measure of selectivity.

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
    worst = _worst(layers)
    # Two by two leaves room for the names of layers.
    figure = new_figure(10.2, 7.2) if worst else new_figure(10.2, 3.9)
    panels = list(figure.subplots(2, 2).flat) if worst else list(figure.subplots(1, 3))
    loss, selectivity, accuracy = panels[:3]
    _line(loss, history, "train_loss", VERMILION, "o", "whole loss")
    _line(loss, history, "cross_entropy", BLUE, "s", "cross-entropy")
    _legend_above(loss)
    loss.set_ylabel("training loss")
    _selectivity(selectivity, history, metric_label)
    _line(accuracy, history, "val_accuracy", GREEN, "o", None)
    accuracy.set_ylabel("validation accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    accuracy.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # no quarters, which one decimal cannot show
    if worst and layers is not None:
        _dead(panels[3], layers, worst)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if _has(history, "val_si"):
        caption(
            figure,
            "Accuracy: 95 % interval over images. Floors: the same responses with shuffled labels. Selectivity has no "
            "interval here;\n"
            "the profile of the trained network has one. Dead units, which respond to no held-out image, count within "
            "batches only, as 0.",
        )
    return figure


def _selectivity(axes: Axes, history: DataFrame, label: str) -> None:
    if not _has(history, "val_si"):
        _line(axes, history, "batch_si", ORANGE, "o", None)
        axes.set_ylabel("mean selectivity within batches")
        axes.set_ylim(bottom=0)
        return
    _line(axes, history, "val_si", BLUE, "o", "held-out images")
    _line(axes, history, "val_si_floor", BLUE, None, "their floor", dashed=True)
    _line(axes, history, "batch_si", ORANGE, "s", "within batches")
    _line(axes, history, "batch_si_floor", ORANGE, None, "their floor", dashed=True)
    axes.set_ylabel(f"mean {shorten(label, 40)}")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.05)
    if _has(history, "alpha") and history["alpha"].nunique() > 1:
        _mark_switches(axes, history)
    _legend_above(axes)


def _legend_above(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, columnspacing=1.2)


def _mark_switches(axes: Axes, history: DataFrame) -> None:
    """Draw a line where alpha begins or ceases to count."""
    on = history["alpha"].to_numpy(dtype=float) != 0
    epochs = history["epoch"].to_numpy(dtype=float)
    for i in np.flatnonzero(on[1:] != on[:-1]):
        place = (epochs[i] + epochs[i + 1]) / 2
        axes.axvline(place, color=GREY, linewidth=1, linestyle=":")
        axes.annotate(
            "alpha on" if on[i + 1] else "alpha off",
            (place, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=GREY,
        )


def _worst(layers: DataFrame | None) -> list[str]:
    """Layers with dead units, those with the largest share at the end first."""
    if layers is None or layers.empty or not (layers["dead"] > 0).any():
        return []
    last = layers[layers["epoch"] == layers["epoch"].max()]
    share = (last["dead"] / last["n_units"]).to_numpy(dtype=float)
    ever = set(layers.loc[layers["dead"] > 0, "site"])
    order = [site for _, site in sorted(zip(-share, last["site"], strict=True), key=lambda pair: pair[0])]
    return [site for site in order if site in ever][:_MOST_LAYERS]


def _dead(axes: Axes, layers: DataFrame, sites: list[str]) -> None:
    for number, site in enumerate(sites):
        mine = layers[layers["site"] == site]
        share = (mine["dead"] / mine["n_units"]).to_numpy(dtype=float)
        axes.plot(
            mine["epoch"].to_numpy(dtype=float),
            share,
            color=SERIES[number],
            marker=_MARKERS[number],
            markersize=4,
            label=f"{shorten(site, 22)} ({int(mine['n_units'].iloc[0])} units)",
        )
    n_layers, n_dead = int(layers["site"].nunique()), len(set(layers.loc[layers["dead"] > 0, "site"]))
    shown = f"{len(sites)} of " if len(sites) < n_dead else ""
    axes.set_ylabel(f"dead units ({shown}{n_dead} of {n_layers} layers)")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(bottom=0)
    _legend_above(axes)


def _has(history: DataFrame, column: str) -> bool:
    return column in history and bool(history[column].notna().any())


def _line(
    axes: Axes,
    history: DataFrame,
    column: str,
    colour: str,
    marker: str | None,
    label: str | None,
    *,
    dashed: bool = False,
) -> None:
    if column not in history:
        return
    x, y = (history[name].to_numpy(dtype=float) for name in ("epoch", column))
    good = np.isfinite(y)
    if {f"{column}_low", f"{column}_high"} <= set(history.columns):
        low, high = (history[f"{column}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        axes.fill_between(x[good], low[good], high[good], color=colour, alpha=0.18, linewidth=0)
        if good.sum() == 1:
            axes.vlines(x[good], low[good], high[good], color=colour)
    # One epoch has no line to be seen.
    shown = marker or ("_" if good.sum() == 1 else None)
    (line,) = axes.plot(x[good], y[good], color=colour, marker=shown, markersize=4 if marker else 14, label=label)
    if dashed:
        line.set(linestyle="--", linewidth=1.2)
