"""The colour of every alpha of a sweep: blue below 0, grey at 0, red above, stronger with every step away."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from auditor.report.style import GREY

_MAP = "RdBu_r"
_PALEST = 0.26


def alpha_colours(alphas: Iterable[float]) -> dict[float, str]:
    """Colours from both halves of a diverging map, by rank: the strongest alpha of each side has its end.

    Ranks, not values: with alphas from 0.1 to 20 on a common scale most would look alike.
    """
    colours = {0.0: GREY}
    known = sorted({float(alpha) for alpha in alphas})
    for sign, side in ((-1, [a for a in known[::-1] if a < 0]), (1, [a for a in known if a > 0])):
        for distance, alpha in zip(np.linspace(_PALEST, 0.5, len(side) + 1)[1:], side, strict=True):
            colours[alpha] = to_hex(mpl.colormaps[_MAP](0.5 + sign * float(distance) * 0.96))
    return {alpha: colours[alpha] for alpha in known}


percent = FuncFormatter(lambda share, _: f"{100 * share:.6g}")


def alpha_text(alpha: float) -> str:
    """``"−0.5"``, ``"0"``, ``"+20"``."""
    return "0" if alpha == 0 else f"{alpha:+g}".replace("-", "\N{MINUS SIGN}")


def cut_to_shares(axes: Axes) -> str:
    """Show shares from 0 to 1 and no more; words for the caption where an interval leaves that range."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(min(low, 0.0), -0.02) if low < 0 else low, min(high, 1.02))
    return " They are cut at 0 and 1." if low < -0.06 or high > 1.06 else ""


def alpha_legend(
    axes: Axes, alphas: Iterable[float], *, floor: str | None = None, line: bool = False, tick: bool = False
) -> None:
    """List every alpha right of the axes, the highest on top, and what the dashed line, or the grey ticks, are."""
    colours = alpha_colours(alphas)
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=5, linestyle="-" if line else "", linewidth=1.4,
               label=alpha_text(alpha))
        for alpha, colour in sorted(colours.items(), reverse=True)
    ]  # fmt: skip
    if floor is not None and tick:
        handles.append(Line2D([], [], color=GREY, marker="|", markersize=7, linestyle="", label=floor))
    elif floor is not None:
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1.1, label=floor))
    axes.figure.legend(handles=handles, loc="outside right upper", title="alpha", alignment="left")
