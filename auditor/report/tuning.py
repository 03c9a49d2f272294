"""What single units respond to, class by class."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from scipy.special import ndtri

from auditor.errors import DataError
from auditor.report.style import BLUE, GREY, INK, PALE, VERMILION, caption, name_rows, new_figure, shorten, styled

_MOST_UNITS = 12
_MOST_CLASSES = 12
_TOP = 10
_LONGEST_NAME = 22


@styled
def class_tuning(
    tuning: DataFrame, *, n_images: int, metric: str = "index", metric_label: str = "index", confidence: float = 0.95
) -> Figure:
    """Draw the mean response to each class, one panel per unit, with normal intervals.

    Parameters
    ----------
    tuning : DataFrame
        One row per unit and class: ``unit_id``, ``class_name``, ``mean``, ``se`` (standard error of the mean),
        ``preferred``, ``<metric>``, ``<metric>_low``, ``<metric>_high``. The first 12 units are drawn. Beyond 12
        classes, the ten with the strongest response and the mean of all others.
    n_images : int
        Images behind the means, for the caption.
    metric : str
        Selectivity metric.
    metric_label : str
        What to call it above the panels.
    confidence : float
        Of the intervals of the means, and of those of the metric in the table.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no units.
    """
    if tuning.empty:
        raise DataError("There are no units to draw.")
    units = list(dict.fromkeys(tuning["unit_id"]))[:_MOST_UNITS]
    n_classes = int(tuning["class_name"].nunique())
    rows = min(n_classes, _MOST_CLASSES if n_classes <= _MOST_CLASSES else _TOP + 1)
    n_columns = min(len(units), 3 if len(units) in (3, 5, 6, 9) or n_classes > _MOST_CLASSES else 4)
    n_lines = math.ceil(len(units) / n_columns)
    width = 2.3 + 0.06 * min(_LONGEST_NAME, max(len(name) for name in tuning["class_name"]))
    figure = new_figure(max(5.0, n_columns * width), n_lines * (0.95 + 0.19 * rows) + 0.5)
    panels = figure.subplots(n_lines, n_columns, squeeze=False).ravel()
    for axes in panels[len(units) :]:
        axes.set_visible(False)
    for axes, unit in zip(panels, units, strict=False):
        _panel(axes, unit, tuning[tuning["unit_id"] == unit], metric, metric_label, confidence)
    for axes in panels[max(0, len(units) - n_columns) : len(units)]:
        axes.set_xlabel("mean response")
    shown = "" if n_classes <= _MOST_CLASSES else f" The {_TOP} strongest of {n_classes} classes, and all others."
    level = f"{100 * confidence:g} %"
    caption(figure, f"Bars: mean over {n_images:,} images and {level} interval. Highlighted: preferred class.{shown}")
    return figure


def _panel(axes: Axes, unit: str, mine: DataFrame, metric: str, metric_label: str, confidence: float) -> None:
    names, means = list(mine["class_name"]), mine["mean"].to_numpy(dtype=float)
    errors, preferred = mine["se"].to_numpy(dtype=float), mine["preferred"].to_numpy(dtype=bool)
    colours = [VERMILION if yes else BLUE for yes in preferred]
    if len(names) > _MOST_CLASSES:
        order = np.argsort(-means, kind="stable")
        top, rest = order[:_TOP], order[_TOP:]
        names = [*(names[i] for i in top), f"{len(rest)} others"]
        colours = [*(colours[i] for i in top), GREY]
        means = np.append(means[top], means[rest].mean())
        errors = np.append(errors[top], np.sqrt(np.square(errors[rest]).sum()) / len(rest))
    places = np.arange(len(names))
    axes.barh(places, means, height=0.78, color=colours, alpha=0.85)
    reach = float(ndtri((1 + confidence) / 2)) * np.nan_to_num(errors)
    axes.errorbar(means, places, xerr=reach, fmt="none", ecolor=INK, elinewidth=1)
    if (means < 0).any():
        axes.axvline(0, color=INK, linewidth=0.8)
    else:
        axes.set_xlim(left=0)
    name_rows(axes, names, longest=_LONGEST_NAME)
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_color(PALE)
    first = mine.iloc[0]
    # Right-aligned: long class names leave narrow axes, whose titles may run to the left.
    axes.set_title(f"{shorten(unit, 30)}\n", fontsize=9, pad=3, loc="right")
    value, low, high = (first[column] for column in (metric, f"{metric}_low", f"{metric}_high"))
    note = f"{metric_label} {value:.2f}  [{low:.2f}, {high:.2f}]"
    axes.text(1, 1.015, note, transform=axes.transAxes, fontsize=8, color=GREY, va="bottom", ha="right")
