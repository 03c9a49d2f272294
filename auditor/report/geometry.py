"""The geometry of one network, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    VERMILION,
    caption,
    name_rows,
    new_figure,
    stripes,
    styled,
)

_CONDITIONS = {"clean": (BLUE, "o"), "corrupted": (ORANGE, "s"), "adversarial": (VERMILION, "D")}


class Series(NamedTuple):
    """One value per layer with its interval; the columns of the ends are ``<column>_low`` and ``<column>_high``."""

    table: DataFrame
    column: str
    label: str
    colour: str
    marker: str


@styled
def dimensionality(table: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw participation ratio and components for 95 % of the variance by layer and condition.

    Parameters
    ----------
    table : DataFrame
        Of one network, one row per ``site``, ``condition`` and ``corruption``; of the latter ``none`` and ``all`` are
        drawn. ``participation_ratio`` and ``components_95``, each with ``_low`` and ``_high``; ``n_images``.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If the table is empty.
    """
    drawn = table[table["corruption"].isin(["none", "all"])]
    sites = _sites(table)
    figure = new_figure(13.0, _height(sites, 3))
    panels = [
        ("participation_ratio", "", "participation ratio\nof responses"),
        ("participation_ratio", " - clean", "participation ratio\nof differences from clean"),
        ("components_95", "", "components for 95 % of the variance\nof responses"),
        ("components_95", " - clean", "components for 95 % of the variance\nof differences from clean"),
    ]
    present = set(drawn["condition"])
    panels = [panel for panel in panels if any(f"{name}{panel[1]}" in present for name in _CONDITIONS)]
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (column, suffix, label) in zip(every, panels, strict=True):
        series = [
            Series(drawn[drawn["condition"] == name + suffix], column, name, *look)
            for name, look in _CONDITIONS.items()
        ]
        _rows(axes, sites, [one for one in series if len(one.table)], label)
    _hide_names(every)
    _legend(figure, every[0])
    n, mean = int(drawn["n_images"].min()), " Corrupted: mean over corruptions." if "corrupted" in present else ""
    level = f"{100 * confidence:g} %"
    caption(figure, f"Bars: {level} jackknife intervals over the {n} images, the same in all conditions.{mean}")
    return figure


@styled
def gradients(table: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw how the input-unit gradient varies over images and over units, by layer.

    Parameters
    ----------
    table : DataFrame
        Of one network, one row per ``site``: ``cv_images`` and ``cv_units``, each with ``_low`` and ``_high``;
        ``n_images``.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure
    """
    sites = _sites(table)
    figure = new_figure(8.6, _height(sites, 1))
    every = figure.subplots(1, 2)
    labels = {"cv_images": "over images (mean over units)", "cv_units": "over units (mean over images)"}
    for axes, (column, label) in zip(every, labels.items(), strict=True):
        _rows(axes, sites, [Series(table, column, label, BLUE, "o")], f"coefficient of variation\n{label}")
    _hide_names(every)
    n = int(table["n_images"].min())
    level = f"{100 * confidence:g} %"
    caption(figure, f"Norm of the gradient of a unit's response to pixels. Bars: {level} intervals; {n} images.")
    return figure


@styled
def rotation(table: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw selectivity on the units' axes, on the best rotated and on random ones, with the level of shuffled labels.

    Parameters
    ----------
    table : DataFrame
        Of one network, one row per ``site``: ``aligned`` and ``rotated``, each with ``_low`` and ``_high``;
        ``random``, ``null_mean`` and ``null_highest``.
    confidence : float
        Of the intervals.

    Returns
    -------
    Figure
    """
    sites = _sites(table)
    figure = new_figure(8.4, _height(sites, 3))
    axes = figure.subplots()
    series = [
        Series(table, "aligned", "the units' axes", BLUE, "o"),
        Series(table, "rotated", "best rotation found", VERMILION, "D"),
        Series(table, "random", "random rotations, mean", GREEN, "^"),
        Series(_null(table), "null", "best rotation, labels shuffled: mean to highest", GREY, "|"),
    ]
    level = f"{100 * confidence:g} %"
    _rows(axes, sites, series, f"mean class selectivity index on held-out images, {level} interval")
    axes.axvline(0, color=GREY, linewidth=0.8)
    _legend(figure, axes)
    caption(figure, "Rotated responses are rectified, which makes them more selective by itself.")
    return figure


@styled
def probes(table: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw the accuracy of linear probes by layer.

    Parameters
    ----------
    table : DataFrame
        Of one network, one row per ``site``: ``accuracy``, ``low``, ``high``, ``chance``, ``n_train``, ``n_test``.
    confidence : float
        Of the intervals.

    Returns
    -------
    Figure
    """
    sites = _sites(table)
    figure = new_figure(6.8, _height(sites, 1))
    axes = figure.subplots()
    named = table.rename(columns={"low": "accuracy_low", "high": "accuracy_high"})
    n_train, n_test = (int(table[name].min()) for name in ("n_train", "n_test"))
    label = f"accuracy of a linear probe, {100 * confidence:g} % interval"
    _rows(axes, sites, [Series(named, "accuracy", "probe", BLUE, "o")], label)
    chance = float(table["chance"].mean())
    axes.axvline(chance, color=GREY, linewidth=1.1, linestyle=(0, (4, 2)))
    axes.annotate("most frequent class", (chance, 0), xytext=(4, 9), textcoords="offset points", fontsize=8, color=GREY,
                  xycoords=("data", "axes fraction"))  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(0, 1.01)
    caption(figure, f"Fitted on {n_train} images of the select split, tested on {n_test} of the score split.")
    return figure


@styled
def distances(table: DataFrame, labels: dict[str, str]) -> Figure:
    """Draw the distances of pairs of networks by layer.

    Parameters
    ----------
    table : DataFrame
        One row per pair (``reference``, ``run``) and ``site``, with one column for each of `labels`.
    labels : dict of str to str
        Column of a distance to what to call it.

    Returns
    -------
    Figure
    """
    sites = _sites(table)
    figure = new_figure(2.6 + 2.6 * len(labels), _height(sites, 2))
    every = figure.subplots(1, len(labels), squeeze=False)[0]
    looks = [(BLUE, "o"), (VERMILION, "D"), (GREEN, "^"), (ORANGE, "s"), (INK, "v")]
    for axes, (column, label) in zip(every, labels.items(), strict=True):
        series = [
            Series(mine, column, f"{pair[0]} to {pair[1]}", *looks[number % len(looks)])
            for number, (pair, mine) in enumerate(table.groupby(["reference", "run"], sort=False))
        ]
        _rows(axes, sites, series, f"distance: 1 \N{MINUS SIGN} {label}")
    _hide_names(every)
    _legend(figure, every[0])
    caption(figure, "Of one pair each, so there is no interval.")
    return figure


def _rows(axes: Axes, sites: Sequence[str], series: Sequence[Series], label: str) -> None:
    stripes(axes, len(sites))
    shifts = np.linspace(-0.22, 0.22, len(series)) if len(series) > 1 else np.zeros(1)
    for shift, one in zip(shifts, series, strict=True):
        mine = one.table.set_index("site").reindex(list(sites))
        y = np.arange(len(sites)) + shift
        if f"{one.column}_low" in mine:
            low, high = (mine[f"{one.column}{end}"].to_numpy(dtype=float) for end in ("_low", "_high"))
            axes.hlines(y, low, high, color=one.colour, linewidth=1.4)
        value = mine[one.column].to_numpy(dtype=float)
        axes.plot(value, y, one.marker, color=one.colour, markersize=4.4, label=one.label)
    name_rows(axes, sites)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel(label)


def _null(table: DataFrame) -> DataFrame:
    ends = {"null": "null_mean", "null_low": "null_mean", "null_high": "null_highest"}
    return table[["site"]].assign(**{name: table[column] for name, column in ends.items()})


def _sites(table: DataFrame) -> list[str]:
    if table.empty:
        raise DataError("There are no layers to draw.")
    return list(dict.fromkeys(table["site"]))


def _height(sites: Sequence[str], per_row: int) -> float:
    return 1.8 + max(3, len(sites)) * max(0.26, 0.14 * per_row)


def _hide_names(every: Sequence[Axes]) -> None:
    for axes in every[1:]:
        axes.tick_params(axis="y", labelleft=False)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=min(2 if max(map(len, labels)) > 30 else 4, len(labels))
    )
