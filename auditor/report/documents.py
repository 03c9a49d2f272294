"""What a self-contained page is made of: text, addresses, pictures and data that do no harm where they are put."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from auditor.errors import DataError
from auditor.report.style import shorten

_VIEW_BOX = re.compile(r"<svg\b[^>]*?\bviewBox=\"0 0 ([0-9.]+) ([0-9.]+)\"", re.DOTALL)
_FONT = re.compile(r"'DejaVu Sans'(?=[^<>]*>)")
PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NO_ID = re.compile(r"[^A-Za-z0-9]+")
_MINUS, _NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
_TOP_DIGITS, _HUGE = 6, 1e15
_MOST_CLASSES, _TOP, _LONGEST_NAME = 12, 10, 19


class Picture(NamedTuple):
    """An image of a page: its ``data:`` URI, and its size in CSS pixels."""

    uri: str
    width: int
    height: int


def svg_picture(svg: str) -> Picture:
    """Turn a figure's SVG into an image.

    Inside an ``<img>`` no script of an SVG runs, nothing is fetched, and its styles and ids do not meet the page's.

    Parameters
    ----------
    svg : str
        As matplotlib writes it; lengths in points.

    Raises
    ------
    DataError
        If `svg` has no ``<svg>`` element with a ``viewBox``.
    """
    size = _VIEW_BOX.search(svg)
    if size is None:
        raise DataError("This is no SVG figure.", wanted='<svg viewBox="0 0 WIDTH HEIGHT" ...>', got=repr(svg[:60]))
    body = svg[svg.index("<svg") :]
    # Verdana has the same widths, where DejaVu is not installed.
    body = _FONT.sub("'DejaVu Sans', Verdana, sans-serif", body)
    uri = f"data:image/svg+xml;base64,{b64encode(body.encode(errors='replace')).decode('ascii')}"
    width, height = (round(float(points) * 96 / 72) for points in size.groups())
    return Picture(uri, width, height)


def script_json(value: Any) -> str:
    """Compact JSON that can stand inside a ``<script>`` element whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def visible(text: str) -> str:
    """Show what would turn the text around it (overrides of its direction) or cannot be written in a file."""
    return _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def script_hash(script: str) -> str:
    """``sha256-...`` of a script, as a Content-Security-Policy names it."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode('ascii')}"


def local_url(path: str) -> str:
    """Address of a file beside the page; nothing in `path` can make it a scheme, a query or another host.

    Raises
    ------
    DataError
        If `path` is absolute or empty.
    """
    if not path or path.startswith("/") or "\\" in path:
        fix = "Give it relative to the page, with forward slashes."
        raise DataError("A page cannot link to this file.", wanted="a relative path", got=repr(path), fix=fix)
    return quote(path)


def anchor(unit_id: str) -> str:
    """Stable name for the card of a unit: readable, valid in an address, different for different units."""
    digest = sha256(unit_id.encode(errors="surrogatepass")).hexdigest()[:8]
    readable = _NO_ID.sub("-", unit_id).strip("-")[:60]
    return f"unit-{readable}-{digest}" if readable else f"unit-{digest}"


def compact(value: float | None) -> float | int | None:
    """Six significant digits, enough for any table; ``None`` for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{_TOP_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < _HUGE else short


def number(value: float | None, digits: int) -> str:
    """Write a number with a fixed count of decimals, as ``report.js`` does too.

    Thousands are separated, the minus is a real one, and what would read as zero without being it is written as a
    power of ten. Missing values are an en dash.
    """
    if value is None or not math.isfinite(value):
        return _NONE
    size = abs(value)
    fixed = Decimal(size).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) if size < _HUGE else Decimal(0)
    if size and not fixed:
        mantissa, exponent = f"{size:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}".replace("-", _MINUS)
    else:
        text = f"{fixed:,}"
    return f"{_MINUS if value < 0 else ''}{text}"


def brief(value: float) -> str:
    """Three significant digits."""
    if not math.isfinite(value):
        return _NONE
    return f"{value:#.3g}".rstrip(".").replace("-", _MINUS)


class Bar(NamedTuple):
    """A class in a tuning chart; places run from 0 to 100 across it, `low` and `high` are the ends of the interval."""

    name: str
    short: str
    mean: float
    start: float
    width: float
    low: float
    high: float
    look: str


class Bars(NamedTuple):
    """A tuning chart: where zero lies, and a bar for each class."""

    zero: float
    rows: list[Bar]


def tuning_bars(
    names: Sequence[str], means: Sequence[float], errors: Sequence[float], preferred: Sequence[bool]
) -> Bars:
    """Lay out the mean responses of a unit to C classes, with 95 % intervals of 1.96 standard errors.

    Beyond 12 classes, the ten with the strongest mean, preferred ones in any case, and the mean of all others. Classes
    without a mean are left out; an unknown error is drawn as none.

    Parameters
    ----------
    names, means, errors, preferred : sequences of length C
        `errors` are standard errors of `means`, in the same unit.
    """
    mean, error = np.array(means, dtype=float), np.array(errors, dtype=float)
    known = np.flatnonzero(np.isfinite(mean))
    looks = ["preferred" if yes else "other" for yes in preferred]
    rows = [(names[i], mean[i], error[i], looks[i]) for i in map(int, known)]
    if len(rows) > _MOST_CLASSES:
        order = sorted(rows, key=lambda row: (row[3] == "other", -row[1]))
        rows, rest = sorted(order[:_TOP], key=lambda row: -row[1]), order[_TOP:]
        centre, spread = np.mean([row[1] for row in rest]), np.linalg.norm([row[2] for row in rest]) / len(rest)
        rows.append((f"{len(rest):,} others", centre, spread, "rest"))
    reach = [1.96 * float(np.nan_to_num(row[2])) for row in rows]
    low = min([0.0, *(row[1] - half for row, half in zip(rows, reach, strict=True))])
    high = max([0.0, *(row[1] + half for row, half in zip(rows, reach, strict=True))])
    scale = 100 / (high - low) if high > low else 0.0
    bars = [
        Bar(
            name,
            shorten(name, _LONGEST_NAME),
            float(centre),
            float(min(centre, 0) - low) * scale,
            float(abs(centre)) * scale,
            float(centre - half - low) * scale,
            float(centre + half - low) * scale,
            look,
        )
        for (name, centre, _, look), half in zip(rows, reach, strict=True)
    ]
    return Bars(float(-low * scale), bars)
