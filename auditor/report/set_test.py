"""Whether a set of units matters more than random sets like it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from auditor.errors import DataError
from auditor.report.style import BLUE, INK, VERMILION, caption, new_figure, signed, styled


@styled
def set_test(
    null: ArrayLike, observed: float, low: float, high: float, p: float, *, label: str, n_units: int
) -> Figure:
    """Draw the effects of matched random sets and that of the selected set.

    Parameters
    ----------
    null : (n,) array
        Effect of each random set.
    observed : float
        Effect of the selected set, in the same unit.
    low, high : float
        Range of the middle 95 % of the random sets (``null_low`` and ``null_high`` of
        :class:`auditor.causal.set_test.SetTest`).
    p : float
        p-value shown in the caption.
    label : str
        What the effect is.
    n_units : int
        Units in each set.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        If `null` is empty.
    """
    random = np.asarray(null, dtype=float).ravel()
    if not random.size:
        raise DataError("There are no random sets to draw.")
    centre = float(random.mean())
    figure = new_figure(6.6, 3.7)
    axes = figure.add_subplot()
    bins = int(np.clip(np.sqrt(random.size) * 1.5, 8, 40))
    axes.hist(random, bins=bins, color=BLUE, alpha=0.55, label=f"{random.size} matched random sets")
    axes.axvline(centre, color=BLUE, linewidth=1.4, linestyle="--", label="their mean")
    axes.axvspan(low, high, color=BLUE, alpha=0.1, linewidth=0, label="middle 95 % of them")
    axes.axvline(observed, color=VERMILION, linewidth=2.2, label="selected set")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_ylabel("random sets")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper left", ncols=4)
    caption(
        figure,
        f"{n_units} units a set. Selected minus mean of random: {signed(observed - centre)}, p = {p:.3g}.",
    )
    return figure
