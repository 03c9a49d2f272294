"""The report: one HTML file that needs nothing else, from numbers that are already final."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from typing import Any, Literal, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pandas import DataFrame

from auditor.errors import DataError
from auditor.report import documents
from auditor.report.documents import visible

Outcome = Literal["supported", "refuted", "inconclusive"]
Kind = Literal["text", "number", "class", "flag"]

PAGE_SIZE = 50


@dataclass(frozen=True)
class Fact:
    """A named value."""

    label: str
    value: str


class FileLink(NamedTuple):
    """A file that lies beside the page or in a folder below it."""

    label: str
    path: str


@dataclass(frozen=True)
class VerdictBlock:
    """A tested hypothesis.

    ``effect`` comes with its interval, ``margin`` is what the effect was held against, ``needed`` says how much data
    an inconclusive test would take. ``key`` is unique among the verdicts of a page.
    """

    key: str
    title: str
    claim: str
    outcome: Outcome
    sentence: str
    effect: str
    margin: str
    p: str | None
    n: str
    reversed_by: str
    limits: Sequence[str] = ()
    needed: str | None = None


@dataclass(frozen=True)
class FigureBlock:
    """A figure: matplotlib's SVG, a caption for all and a text for those who do not see it."""

    key: str
    title: str
    svg: str
    caption: str
    alt: str
    files: Sequence[FileLink] = ()


@dataclass(frozen=True)
class Column:
    """A column of the table of units.

    ``text`` and ``class`` are searched; ``flag`` holds booleans. Numbers are shown with `digits` decimals in `unit`,
    with the interval that stands in the columns `low` and `high` if they are named. `choice` offers a filter.
    """

    key: str
    label: str
    kind: Kind = "text"
    unit: str = ""
    digits: int = 3
    help: str = ""
    low: str | None = None
    high: str | None = None
    choice: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """An image and the response of a unit to it; both addresses are ``data:`` URIs, `region_uri` an overlay."""

    uri: str
    class_name: str
    sample_id: str
    response: float
    region_uri: str | None = None


@dataclass(frozen=True)
class ClassResponse:
    """Mean response of a unit to the images of a class, and the standard error of that mean."""

    class_name: str
    mean: float
    se: float
    preferred: bool = False


@dataclass(frozen=True)
class Measure:
    """One measure of what silencing a unit does; without an interval the page says that there is none."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    digits: int = 3


@dataclass(frozen=True)
class UnitCard:
    """A notable unit; take ``anchor`` from :func:`auditor.report.documents.anchor`."""

    unit_id: str
    anchor: str
    why: str
    facts: Sequence[Fact] = ()
    importance: Sequence[Measure] = ()
    tuning: Sequence[ClassResponse] = ()
    top: Sequence[Thumbnail] = ()
    random: Sequence[Thumbnail] = ()


@dataclass(frozen=True)
class Reference:
    """A source; `url` starts with ``https://``."""

    text: str
    url: str | None = None


@dataclass(frozen=True)
class ReportPage:
    """All that the page shows; `units` has one row per unit, ``unit_id`` among its columns.

    `answer` is the one paragraph that a hurried reader takes home, `interval` names the intervals of the page.
    """

    title: str
    subtitle: str
    answer: str
    units: DataFrame
    columns: Sequence[Column]
    facts: Sequence[Fact] = ()
    verdicts: Sequence[VerdictBlock] = ()
    figures: Sequence[FigureBlock] = ()
    cards: Sequence[UnitCard] = ()
    methods: Sequence[str] = ()
    references: Sequence[Reference] = ()
    files: Sequence[FileLink] = ()
    footer: str = ""
    interval: str = "95 % interval"


def render(page: ReportPage) -> str:
    """Write the report as one HTML file: no network, every name shown as text, whatever it holds.

    Parameters
    ----------
    page : ReportPage
        All texts are plain text, never HTML.

    Returns
    -------
    str
        The document, to be saved as UTF-8.

    Raises
    ------
    DataError
        If a column is missing, two blocks share a key or anchor, an outcome is unknown, a picture is no ``data:``
        URI, or a link leads out of the run's folder.
    """
    _check(page)
    script = _resource("report.js")
    rows = _rows(page.units, page.columns)
    anchors = {visible(card.unit_id): card.anchor for card in page.cards}
    data = {"columns": _layout(page.columns), "rows": rows, "anchors": anchors, "pageSize": PAGE_SIZE}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            columns=_layout(page.columns),
            rows=rows[:PAGE_SIZE],
            anchors=anchors,
            data=Markup(documents.script_json(data)),
            style=Markup(_resource("report.css")),
            script=Markup(script),
            script_hash=documents.script_hash(script),
        )
    )


@cache
def _environment() -> Environment:
    loader = PackageLoader("auditor.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if not isinstance(value, str) or isinstance(value, Markup) else visible(value),
    )
    environment.filters |= {
        "brief": documents.brief,
        "number": documents.number,
        "picture": documents.svg_picture,
        "url": documents.local_url,
        "bars": _bars,
    }
    return environment


def _resource(name: str) -> str:
    return (resources("auditor.report") / "templates" / name).read_text(encoding="utf-8")


def _layout(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """What the script needs to know of each column; `low` is where its interval starts in a row, 0 for none."""
    place, layout = len(columns), []
    for column in columns:
        bounded = column.low is not None and column.high is not None
        layout.append(
            {
                "key": column.key,
                "label": visible(f"{column.label} ({column.unit})" if column.unit else column.label),
                "kind": column.kind,
                "digits": column.digits,
                "choice": column.choice,
                "low": place if bounded else 0,
            }
        )
        place += 2 * bounded
    return layout


def _rows(units: DataFrame, columns: Sequence[Column]) -> list[list[Any]]:
    """Values by row: first a value for each column, then the two ends of each interval."""
    values: list[list[Any]] = []
    for column in columns:
        cells = units[column.key]
        if column.kind == "number":
            values.append(_numbers(units, column.key))
        elif column.kind == "flag":
            values.append(
                [None if missing else int(bool(cell)) for cell, missing in zip(cells, cells.isna(), strict=True)]
            )
        else:
            values.append(
                ["" if missing else visible(str(cell)) for cell, missing in zip(cells, cells.isna(), strict=True)]
            )
    for column in columns:
        if column.low is not None and column.high is not None:
            values += [_numbers(units, column.low), _numbers(units, column.high)]
    return [list(row) for row in zip(*values, strict=True)]


def _numbers(units: DataFrame, key: str) -> list[float | int | None]:
    return [documents.compact(float(value)) for value in units[key].to_numpy(dtype=float, na_value=np.nan)]


def _bars(responses: Sequence[ClassResponse]) -> documents.Bars:
    return documents.tuning_bars(
        [visible(response.class_name) for response in responses],
        [response.mean for response in responses],
        [response.se for response in responses],
        [response.preferred for response in responses],
    )


def _check(page: ReportPage) -> None:
    if not page.columns or page.columns[0].key != "unit_id" or page.columns[0].kind != "text":
        got = repr(page.columns[0].key) if page.columns else "no columns"
        raise DataError("The table must name its units.", wanted="unit_id as the first column, a text", got=got)
    wanted = {"unit_id"}.union(*({c.key, *filter(None, (c.low, c.high))} for c in page.columns))
    missing = sorted(wanted - set(page.units.columns))
    if missing:
        raise DataError(
            "The table of units lacks columns.", wanted=", ".join(missing), got=", ".join(map(str, page.units.columns))
        )
    for kind, keys in (
        ("verdicts", [verdict.key for verdict in page.verdicts]),
        ("figures", [figure.key for figure in page.figures]),
        ("cards", [card.anchor for card in page.cards]),
    ):
        for key in keys:
            if keys.count(key) > 1 or documents.PLAIN.fullmatch(key) is None:
                wish = "a different name for each, of letters, digits, - and _"
                raise DataError(f"The {kind} cannot be told apart in an address.", wanted=wish, got=repr(key))
    for verdict in page.verdicts:
        if verdict.outcome not in ("supported", "refuted", "inconclusive"):
            wish = "supported, refuted or inconclusive"
            raise DataError("A verdict has an unknown outcome.", wanted=wish, got=repr(verdict.outcome))
    for thumb in (thumb for card in page.cards for thumb in (*card.top, *card.random)):
        if not all(uri is None or uri.startswith("data:image/") for uri in (thumb.uri, thumb.region_uri)):
            raise DataError("A thumbnail is not part of the page.", wanted="a data: URI", got=repr(thumb.uri[:60]))
    for reference in page.references:
        if reference.url is not None and not reference.url.startswith("https://"):
            raise DataError("A reference has an unusable address.", wanted="https://...", got=repr(reference.url))
