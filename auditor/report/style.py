"""How every figure looks, and how it is saved: the same data gives the same bytes."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from auditor.store.files import replacing

# Okabe & Ito (2008): told apart with every common kind of colour blindness.
BLUE, VERMILION, GREEN, ORANGE, SKY, PINK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PINK, SKY)
DPI = 150

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.w_pad": 0.07,
    "figure.facecolor": "white",
    "figure.titlesize": 11.5,
    "figure.titleweight": "bold",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#ECECEC",
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "auditor",
    "text.color": INK,
    "text.parse_math": False,  # names of classes and layers may hold dollar signs
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}
_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw in auditor's style, whatever the caller's own settings are."""

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context():
            _apply_style()
            return draw(*args, **kwargs)

    return wrapper


def _apply_style() -> None:
    mpl.rcdefaults()
    # Newer stubs allow known names only, older ones have no such type.
    cast("dict[str, Any]", mpl.rcParams).update(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, known to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``<stem>.png`` (150 dpi) and ``<stem>.svg``, without dates and in the same bytes for the same data.

    Returns
    -------
    png, svg : Path
    """
    png, svg = Path(f"{os.fspath(stem)}.png"), Path(f"{os.fspath(stem)}.svg")
    for path, options in ((png, {"dpi": DPI, "metadata": {"Software": None}}), (svg, {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        with mpl.rc_context(), warnings.catch_warnings():
            _apply_style()
            # A box in place of an emoji says it well enough.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            figure.savefig(buffer, format=path.suffix[1:], **options)
        with replacing(path) as file:
            file.write(buffer.getvalue())
    return png, svg


def caption(figure: Figure, text: str) -> None:
    """Put a line of small print below the axes."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=GREY)


def name_rows(axes: Axes, names: Sequence[str], *, longest: int = 34) -> None:
    """Give rows 0, 1, ... names, the first at the top; long names are shortened as long as they differ."""
    axes.set_yticks(range(len(names)), tell_apart(names, longest))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def tell_apart(names: Sequence[str], longest: int) -> list[str]:
    """Shorten `names` to about `longest` characters; different names stay different.

    The middle of long names is left out. Where that makes two alike, the parts that all names share at their ends go
    instead.
    """
    distinct = len(set(names))
    short = [shorten(name, longest) for name in names]
    if len(set(short)) == distinct:
        return short
    parts = [name.split(".") for name in names]
    head, tail = _shared(parts), _shared([part[::-1] for part in parts])
    middles = [".".join(part[head : max(head + 1, len(part) - tail)]) for part in parts]
    return [f"{'…' if head else ''}{middle}{'…' if tail else ''}" for middle in middles]


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """How many first items all `rows` share, without their last."""
    most = min(len(row) for row in rows) - 1
    return next((i for i in range(most) if len({row[i] for row in rows}) > 1), most)


def shorten(text: str, longest: int) -> str:
    """Return `text`, with its middle replaced by an ellipsis beyond `longest` characters."""
    if len(text) <= longest:
        return text
    tail = (longest - 1) * 2 // 3
    return f"{text[: longest - 1 - tail]}…{text[-tail:]}"


def signed(value: float, digits: int = 3) -> str:
    """``"+0.031"`` or ``"−0.031"``, with a real minus sign."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
