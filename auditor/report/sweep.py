"""The study's figure: one dot per trained network, accuracy against selectivity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import GREY, caption, new_figure, styled
from auditor.report.sweep_colours import alpha_colours, alpha_legend, percent

_SIZE = 0.38
_WORTH = 0.45
FLOOR = "the same network,\nlabels shuffled"


class _Box(NamedTuple):
    """A part of the plane."""

    left: float
    right: float
    bottom: float
    top: float

    def share(self, other: _Box) -> float:
        """Larger of the shares that this has of another's width and height."""
        return max(
            (self.right - self.left) / (other.right - other.left), (self.top - self.bottom) / (other.top - other.bottom)
        )


@styled
def accuracy_against_selectivity(networks: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw every network of a sweep by its mean selectivity and its accuracy, with intervals over images.

    A tick at the height of each network shows its mean selectivity with shuffled labels. An inset enlarges alpha 0 and
    its neighbours where they take a small part of the figure.

    Parameters
    ----------
    networks : DataFrame
        One row per network: ``alpha``; ``accuracy`` (from 0 to 1) and ``mean_index``, each with ``_low`` and ``_high``;
        ``null_mean``. Networks without a value are left out.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there is no network with both values.
    """
    drawn = networks[networks["accuracy"].notna() & networks["mean_index"].notna()]
    if drawn.empty:
        raise DataError("There are no networks with accuracy and selectivity to draw.")
    figure = new_figure(7.6, 4.8)
    axes = figure.subplots()
    _dots(axes, drawn)
    floored = bool(drawn["null_mean"].notna().any())
    axes.set_xlabel("mean class selectivity index")
    axes.set_ylabel("test accuracy, %")
    axes.yaxis.set_major_formatter(percent)
    axes.margins(0.06)
    alpha_legend(axes, drawn["alpha"], floor=FLOOR if floored else None, tick=True)
    enlarged = any(_inset(axes, drawn, near) for near in _near_zero(drawn))
    caption(
        figure,
        f"One dot per network ({len(drawn)})."
        + (" Inset: around alpha 0." if enlarged else "")
        + f" Bars: {100 * confidence:g} % intervals over images, none over trainings.",
    )
    return figure


def _dots(axes: Axes, networks: DataFrame, size: float = 5.5) -> None:
    colours = alpha_colours(networks["alpha"])
    axes.plot(networks["null_mean"], networks["accuracy"], "|", color=GREY, markersize=7, markeredgewidth=1.1, zorder=1)
    # Those near 0 are drawn last: most lie on top of one another there.
    for alpha in sorted(colours, key=abs, reverse=True):
        mine = networks[networks["alpha"] == alpha]
        x, y = (mine[name].to_numpy(dtype=float) for name in ("mean_index", "accuracy"))
        bars = [
            np.nan_to_num(np.abs([mine[f"{name}{end}"] - mine[name] for end in ("_low", "_high")]))
            for name in ("mean_index", "accuracy")
        ]
        axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=colours[alpha], elinewidth=0.7, alpha=0.55)
        axes.plot(x, y, "o", color=colours[alpha], markersize=size, markeredgecolor="white", markeredgewidth=0.6)


def _near_zero(networks: DataFrame) -> Iterator[DataFrame]:
    """Networks of alpha 0 and of the nearest alpha on either side; among many alphas then of one side alone."""
    alphas = np.unique(networks["alpha"].to_numpy(dtype=float))
    below, above = alphas[alphas < 0][-1:], alphas[alphas > 0][:1]
    if 0 in alphas:
        for sides in ((*below, *above), *((tuple(below), tuple(above)) if len(alphas) > 3 else ())):
            if sides:
                yield networks[networks["alpha"].isin([0.0, *sides])]


def _inset(axes: Axes, networks: DataFrame, near: DataFrame) -> bool:
    """Enlarge the region of `near` where no dot is, if that is worth it; returns whether."""
    whole, region = _Box(*axes.get_xlim(), *axes.get_ylim()), _region(near)
    if region.share(whole) > _WORTH:
        return False
    marks = [networks[[name, "accuracy"]].dropna().to_numpy(dtype=float) for name in ("mean_index", "null_mean")]
    corner, free = _free_corner(np.concatenate(marks), whole)
    if not free:
        height = whole.top - whole.bottom
        ticks = [tick for tick in axes.get_yticks() if whole.bottom <= tick <= whole.top]
        axes.set_ylim(whole.bottom - 0.62 * height, whole.top)
        axes.set_yticks(ticks)  # below them is room for the inset, not accuracy
        corner = (0.56, 0.06)
    inset = axes.inset_axes((*corner, _SIZE, _SIZE))
    _dots(inset, networks, 5)
    inset.set_xlim(region.left, region.right)
    inset.set_ylim(region.bottom, region.top)
    inset.tick_params(labelsize=7)
    inset.xaxis.set_major_locator(MaxNLocator(3))
    inset.yaxis.set_major_locator(MaxNLocator(4))
    inset.yaxis.set_major_formatter(percent)
    for spine in inset.spines.values():
        spine.set_visible(True)
        spine.set_color(GREY)
    axes.indicate_inset_zoom(inset, edgecolor=GREY, linewidth=0.8)
    return True


def _region(near: DataFrame) -> _Box:
    """Around the dots, with room for the intervals of most."""
    ends = []
    for name in ("mean_index", "accuracy"):
        values = near[name].to_numpy(dtype=float)
        bar = float(np.nanmedian((near[f"{name}_high"] - near[f"{name}_low"]).fillna(0))) / 2
        room = max(0.12 * float(np.ptp(values)), bar, 1e-4)
        ends += [float(values.min()) - room, float(values.max()) + room]
    return _Box(*ends)


def _free_corner(points: NDArray[np.float64], whole: _Box) -> tuple[tuple[float, float], bool]:
    """Where an inset hides fewest marks, and whether it hides none; in shares of the axes."""
    x = (points[:, 0] - whole.left) / (whole.right - whole.left)
    y = (points[:, 1] - whole.bottom) / (whole.top - whole.bottom)
    best, least = (0.56, 0.09), (np.inf, 0.0)
    for left in np.linspace(0.11, 0.97 - _SIZE, 12):
        for bottom in np.linspace(0.09, 0.97 - _SIZE, 12):
            # Labels of the ticks lie left of the inset and below it.
            begin, under = left - 0.09, bottom - 0.07
            beyond = np.maximum(np.maximum(begin - x, x - left - _SIZE), np.maximum(under - y, y - bottom - _SIZE))
            rank = int((beyond < 0.015).sum()), -float(beyond.min())
            if rank < least:
                best, least = (float(left), float(bottom)), rank
    return best, least[0] == 0
