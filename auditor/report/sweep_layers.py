"""Selectivity by layer, one line for each alpha of a sweep."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report.style import GREY, caption, new_figure, styled, tell_apart
from auditor.report.sweep_colours import alpha_colours, alpha_legend, cut_to_shares

_LONGEST_NAME = 22


@styled
def layers_by_alpha(layers: DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw the mean selectivity of every layer, for every alpha, with intervals and the level of shuffled labels.

    Parameters
    ----------
    layers : DataFrame
        One row per alpha and site, sites in the network's order: ``alpha``, ``site``, ``mean_index``,
        ``mean_index_low``, ``mean_index_high``, ``over`` (``seeds`` or ``images``), ``null_mean``. A layer without a
        value (all units dead, or signed responses) breaks the line.
    confidence : float
        Of the intervals, for the caption.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If there are no layers.
    """
    if layers.empty:
        raise DataError("There are no layers to draw.")
    sites, colours = list(dict.fromkeys(layers["site"])), alpha_colours(layers["alpha"])
    figure = new_figure(min(14.0, max(6.4, 2.6 + 0.36 * len(sites))), 4.4)
    axes = figure.subplots()
    by_alpha = {alpha: layers[layers["alpha"] == alpha].set_index("site").reindex(sites) for alpha in colours}
    floors = np.array([table["null_mean"].to_numpy(dtype=float) for table in by_alpha.values()])
    shifts = np.linspace(-0.1, 0.1, len(colours)) if len(colours) > 1 else np.zeros(1)
    for shift, (alpha, table) in zip(shifts, by_alpha.items(), strict=True):
        x = np.arange(len(sites)) + shift
        mean, low, high = (table[f"mean_index{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        axes.vlines(x, low, high, color=colours[alpha], linewidth=0.9, alpha=0.7)
        axes.plot(x, mean, "-o", color=colours[alpha], markersize=3.6, linewidth=2.0 if alpha == 0 else 1.2)
    good = np.isfinite(floors).any(axis=0)
    if good.any():
        places = np.flatnonzero(good)
        low, high, mean = (how(floors[:, good], axis=0) for how in (np.nanmin, np.nanmax, np.nanmean))
        axes.fill_between(places, low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)
        axes.plot(places, mean, color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    names = tell_apart(sites, _LONGEST_NAME)
    crowded = sum(map(len, names)) > 70
    axes.set_xticks(range(len(sites)), names, rotation=55 if crowded else 0, ha="right" if crowded else "center",
                    rotation_mode="anchor" if crowded else "default")  # fmt: skip
    axes.set_xlim(-0.5, len(sites) - 0.5)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    cut = cut_to_shares(axes)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel("mean class selectivity index of the layer")
    alpha_legend(axes, colours, floor="labels shuffled" if good.any() else None, line=True)
    kinds = set(layers["over"])
    over = "seeds" if kinds == {"seeds"} else "images: one network each" if kinds == {"images"} else "seeds or images"
    level = f"{100 * confidence:g} %"
    caption(figure, f"Bars: {level} intervals over {over}.{cut} The floor is a mean over alphas, shaded their range.")
    return figure
