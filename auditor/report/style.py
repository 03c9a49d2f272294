"""How every figure looks, and how it is saved: the same data gives the same bytes."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, cast
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from auditor.errors import OptionError
from auditor.store.files import replacing

# Okabe & Ito (2008): told apart with every common kind of colour blindness.
BLUE, VERMILION, GREEN, ORANGE, SKY, PINK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PINK, SKY)
DPI = 150

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_POINTS = re.compile(r"url\(#([^)]+)\)")

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
    "pdf.fonttype": 42,  # letters stay text; journals refuse the default
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


def save(figure: Figure, stem: str | os.PathLike[str], *, pdf: bool = False) -> tuple[Path, ...]:
    """Write ``<stem>.png`` (150 dpi) and ``<stem>.svg``, without dates and in the same bytes for the same data.

    Parameters
    ----------
    figure : Figure
    stem : path
    pdf : bool
        Write ``<stem>.pdf``, too.

    Returns
    -------
    tuple of Path
        What was written: PNG, SVG and, if asked for, PDF.
    """
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": DPI, "metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None}},
    }
    if pdf:
        options["pdf"] = {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}}
    paths = []
    for kind, how in options.items():
        paths.append(Path(f"{os.fspath(stem)}.{kind}"))
        with replacing(paths[-1]) as file:
            file.write(rendered(figure, kind, **how))
    return tuple(paths)


def rendered(figure: Figure, kind: str, **options: Any) -> bytes:
    """Bytes of a figure as a file of some kind (``"png"``, ``"svg"``, ``"pdf"``), in auditor's style."""
    buffer = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        _apply_style()
        # A box in place of an emoji says it well enough.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def svg_text(figure: Figure, *, prefix: str, label: str | None = None) -> str:
    """Return a figure as an ``<svg>`` element to put into an HTML page, any number of them side by side.

    Every id begins with `prefix`, no rule of style reaches beyond the element, and letters stay text, which can be
    searched. It fills the width that it is given, up to its own.

    Parameters
    ----------
    figure : Figure
    prefix : str
        A letter, then letters, digits, ``-`` and ``_``; another one for each figure of a page.
    label : str, optional
        What a screen reader says in place of the picture.

    Returns
    -------
    str

    Raises
    ------
    OptionError
        If `prefix` has another form.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", prefix, re.ASCII):
        raise OptionError("A prefix of ids must be a plain word.", wanted="letters, digits, - and _", got=repr(prefix))
    root = ElementTree.fromstring(rendered(figure, "svg", metadata={"Date": None}))
    for unwanted in (f"{_SVG}metadata", f"{_SVG}defs"):  # who drew it; one rule for every element of the page
        for child in root.findall(unwanted):
            if unwanted.endswith("metadata") or child.find(f"{_SVG}style") is not None:
                root.remove(child)
    elements = list(root.iter())
    used = {name for one in elements for value in one.attrib.values() for name in _POINTS.findall(value)}
    used |= {one.attrib[_LINK][1:] for one in elements if one.get(_LINK, "").startswith("#")}
    for one in elements:
        one.tag = one.tag.removeprefix(_SVG)
        link, name = one.attrib.pop(_LINK, None), one.attrib.pop("id", None)
        for key, value in one.attrib.items():
            one.set(key, _POINTS.sub(rf"url(#{prefix}-\1)", value))
        if link is not None:  # to another element, or a picture's own bytes
            one.set("href", f"#{prefix}-{link[1:]}" if link.startswith("#") else link)
        if name in used:
            one.set("id", f"{prefix}-{name}")
        if "font" in (style := one.get("style", "")):
            # Verdana's letters are as wide, where DejaVu is not installed.
            one.set("style", style.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif"))
    width, _ = root.attrib.pop("width"), root.attrib.pop("height")
    style = f"width: 100%; max-width: {width}; height: auto; stroke-linejoin: round; stroke-linecap: butt"
    root.attrib |= {"xmlns": _SVG[1:-1], "style": style, "role": "img"}
    if label is not None:
        root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def caption(figure: Figure, text: str) -> None:
    """Put a line of small print below the axes."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=GREY)


def name_rows(axes: Axes, names: Sequence[str], *, longest: int = 34) -> None:
    """Give rows 0, 1, ... names, the first at the top; long names are shortened as long as they differ."""
    axes.set_yticks(range(len(names)), tell_apart(names, longest))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def stripes(axes: Axes, n: int) -> None:
    """Shade every other one of `n` rows, so that the eye keeps to its row."""
    for row in range(0, n, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F6F6F6", linewidth=0, zorder=0)


def beside(axes: Axes, row: float, text: str, points: float, **options: Any) -> None:
    """Write a note right of the axes, so many points away from them, at the height of a row."""
    axes.annotate(
        text,
        (1, row),
        xycoords=axes.get_yaxis_transform(),
        xytext=(points, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **({"fontsize": 8.5} | options),
    )


def not_estimated(axes: Axes, row: float, reason: str = "") -> None:
    """Say in a row that it has no value, and why."""
    text = f"not estimated: {shorten(reason, 60)}" if reason else "not estimated"
    axes.text(
        0.5,
        row,
        text,
        transform=axes.get_yaxis_transform(),
        ha="center",
        va="center",
        fontsize=8,
        color=GREY,
        bbox={"facecolor": "white", "linewidth": 0, "pad": 1.5},
        zorder=5,
    )


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


def decades(low: float, high: float, linear: float, *, most: int = 9) -> list[float]:
    """Ticks for an axis that is linear up to `linear` and logarithmic beyond: 0 and powers of ten on both sides.

    Parameters
    ----------
    low, high : float
        What the axis spans.
    linear : float
        Powers of ten from here on.
    most : int
        About how many ticks, at most.
    """
    first = math.ceil(math.log10(linear) - 1e-9)
    last = max(first, math.floor(math.log10(max(abs(low), abs(high), linear)) + 1e-9))
    sides = (low < 0) + (high > 0)
    step = max(1, math.ceil((last - first + 1) * sides / (most - 1)))
    powers = [10.0**power for power in range(last, first - 1, -step)]
    ticks = [*(-power for power in powers), 0.0, *reversed(powers)]
    return [tick for tick in ticks if min(low, 0) <= tick <= max(high, 0)]


def plain(value: float) -> str:
    """``"0.01"``, ``"−1e-4"``: a tick as text, in a form that needs no formula."""
    if value == 0:
        return "0"
    text = f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if not 1e-3 <= abs(value) < 1e5 else f"{value:g}"
    # The exponent keeps its hyphen, which is shorter.
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def signed(value: float, digits: int = 3) -> str:
    """``"+0.031"`` or ``"−0.031"``, with a real minus sign."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
