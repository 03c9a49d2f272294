"""The page as a document: what it holds, what it refuses, and that no name can do harm."""

import base64
import hashlib
import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import DataError
from auditor.report import documents
from auditor.report.page import PAGE_SIZE, ClassResponse, Column, FileLink, Reference, Thumbnail, UnitCard, render

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import report_pages

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")
VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """Elements of a page with their attributes, and the texts of those that were asked for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def page():
    return report_pages.ordinary(n_units=200, n_cards=3, n_figures=3)


@pytest.fixture(scope="module")
def outline(page):
    return Outline(render(page))


@pytest.fixture(scope="module")
def hostile():
    return Outline(render(report_pages.hostile()))


def test_the_page_is_well_formed_and_the_same_every_time(page, outline):
    assert outline.open == []
    assert render(page) == render(page)
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_headings_step_down_one_level_at_a_time(outline):
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_sections_stand_in_the_order_in_which_they_are_read(outline):
    order = [attrs["id"] for attrs in outline.all("section")]
    assert order == ["verdicts", "figures", "units", "cards", "methods", "references", "files"]


def test_nothing_is_loaded_and_only_our_script_may_run(outline):
    (policy,) = [attrs["content"] for attrs in outline.all("meta") if "http-equiv" in attrs]
    script, data = outline.texts["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert all(attrs["src"].startswith("data:image/") for attrs in outline.all("img"))
    assert outline.all("link") == [{"rel": "icon", "href": "data:,"}]
    assert not any(re.search(r"url\(|@import", text) for text in outline.texts["style"])
    assert json.loads(data)["rows"]


def test_every_picture_and_field_has_a_text(outline):
    assert all("alt" in attrs for attrs in outline.all("img"))
    assert all(attrs["alt"] for attrs in outline.all("img") if attrs.get("class") != "region")
    assert all(attrs.get("aria-hidden") or attrs.get("aria-label") for attrs in outline.all("svg"))


def test_rows_are_the_numbers_of_the_table(page, outline):
    data = json.loads(outline.texts["script"][1])
    assert [column["key"] for column in data["columns"]] == [column.key for column in page.columns]
    place = {column["key"]: i for i, column in enumerate(data["columns"])}
    for key in ("index", "q", "loss"):
        got = np.array([row[place[key]] for row in data["rows"]], dtype=float)
        np.testing.assert_allclose(got, page.units[key], rtol=1e-5)
    low = data["columns"][place["loss"]]["low"]
    ends = np.array([row[low : low + 2] for row in data["rows"]], dtype=float)
    np.testing.assert_allclose(ends, page.units[["loss_low", "loss_high"]], rtol=1e-5)
    assert [bool(row[place["significant"]]) for row in data["rows"]] == list(page.units["significant"])
    assert len(outline.all("tr")) == 1 + PAGE_SIZE + 3 * 6


def test_hostile_names_stay_text(hostile):
    assert {tag for tag, _ in hostile.elements if tag.startswith("scr")} == {"script"}
    assert len(hostile.all("script")) == 2
    assert not any(name.startswith("on") for _, attrs in hostile.elements for name in attrs)
    assert all(attrs["src"].startswith("data:") for attrs in hostile.all("img"))
    links = [attrs["href"] for attrs in hostile.all("a")]
    assert not any(link.lower().startswith(("javascript:", "data:", "//")) for link in links)
    assert "javascript%3Awindow.hacked%3D1" in links
    shown = "".join(hostile.texts["bdi"])
    assert "{{7*7}}{% raw %}" in shown
    assert "49{%" not in shown
    assert "<script>window.hacked=1</script>" in shown
    assert "[U+202E]gnihton" in shown
    assert "\u202e" not in "".join(text for texts in hostile.texts.values() for text in texts)


def test_a_page_without_most_of_its_parts(page):
    bare = replace(
        page, units=page.units[:0], cards=(), figures=(), verdicts=(), methods=(), references=(), files=(), facts=()
    )
    outline = Outline(render(bare))
    assert [attrs["id"] for attrs in outline.all("section")] == ["units"]
    assert "There are no units to show." in outline.texts["p"]
    ids = {attrs["id"] for _, attrs in outline.elements if "id" in attrs}
    assert {attrs["href"][1:] for attrs in outline.all("a")} <= ids


@pytest.mark.parametrize(
    "change, message",
    [
        ({"columns": (*report_pages.COLUMNS, Column("gone", "Gone", "number"))}, "lacks columns"),
        ({"columns": (*report_pages.COLUMNS, Column("index", "I", "number", low="no", high="yes"))}, "no, yes"),
        ({"columns": report_pages.COLUMNS[1:]}, "must name its units"),
        ({"columns": ()}, "must name its units"),
        ({"verdicts": report_pages.verdicts() * 2}, "verdicts cannot be told apart"),
        ({"verdicts": [replace(report_pages.verdicts()[0], outcome="maybe")]}, "unknown outcome"),
        ({"cards": [UnitCard("a", "two words", "")]}, "cards cannot be told apart"),
        ({"cards": [UnitCard("a", "a", "", top=[Thumbnail("http://x/y.png", "", "", 0.0)])]}, "not part of the page"),
        ({"references": [Reference("x", "javascript:alert(1)")]}, "unusable address"),
        ({"files": [FileLink("x", "//example.org/x")]}, "cannot link"),
        ({"files": [FileLink("x", "C:\\x")]}, "cannot link"),
    ],
)
def test_what_cannot_be_shown_is_refused(page, change, message):
    with pytest.raises(DataError, match=message):
        render(replace(page, **change))


def test_a_figure_that_is_no_svg_is_refused(page):
    with pytest.raises(DataError, match="no SVG figure"):
        render(replace(page, figures=[replace(page.figures[0], svg="<p>x</p>")]))


@given(st.text(max_size=30))
def test_any_text_comes_back_from_a_script_element(text):
    written = documents.script_json(text)
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == text


@given(st.text(max_size=40), st.text(max_size=40))
def test_anchors_are_plain_and_differ(one, other):
    assert documents.PLAIN.fullmatch(documents.anchor(one))
    assert (documents.anchor(one) == documents.anchor(other)) == (one == other)


@pytest.mark.parametrize(
    "value, digits, text",
    [
        (None, 3, "–"),
        (math.nan, 3, "–"),
        (math.inf, 3, "–"),
        (0.0, 3, "0.000"),
        (0.125, 2, "0.13"),  # halves are rounded away from zero, as in JavaScript
        (-0.125, 2, "−0.13"),
        (-1234.5, 1, "−1,234.5"),
        (4000, 0, "4,000"),
        (0.00012, 3, "1.2e−4"),
        (-3e-17, 3, "−3.0e−17"),
        (2e20, 1, "2.0e20"),
    ],
)
def test_numbers_are_written_for_people(value, digits, text):
    assert documents.number(value, digits) == text


def test_a_tuning_chart_is_to_scale():
    zero, bars = documents.tuning_bars(["a", "b", "c"], [2.0, -1.0, float("nan")], [0.5, float("nan"), 1], [1, 0, 0])
    span = 2 + 1.96 * 0.5 + 1
    assert zero == pytest.approx(100 / span)
    assert [bar.name for bar in bars] == ["a", "b"]
    assert (bars[0].start, bars[0].width) == pytest.approx((100 / span, 200 / span))
    assert (bars[0].low, bars[0].high) == pytest.approx((100 * (3 - 0.98) / span, 100))
    assert (bars[1].start, bars[1].width, bars[1].low) == pytest.approx((0, 100 / span, bars[1].high))
    assert [bar.look for bar in bars] == ["preferred", "other"]


def test_of_many_classes_the_strongest_are_drawn_and_the_mean_of_the_others():
    means = np.arange(100.0)
    preferred = means == 3
    _, bars = documents.tuning_bars([f"class {i}" for i in range(100)], means, np.full(100, 0.2), preferred)
    assert [bar.mean for bar in bars[:-1]] == [99, 98, 97, 96, 95, 94, 93, 92, 91, 3]
    rest = np.delete(means, [3, *range(91, 100)])
    assert bars[-1].name == "90 others"
    assert bars[-1].mean == pytest.approx(rest.mean())
    top = 99 + 1.96 * 0.2
    # The error of a mean of 90 independent means.
    half = 1.96 * 0.2 / math.sqrt(90)
    assert bars[-1].high - bars[-1].low == pytest.approx(2 * half * 100 / top)


def test_a_flat_or_empty_tuning_does_not_divide_by_zero(page):
    assert documents.tuning_bars([], [], [], []) == (0.0, [])
    flat = [ClassResponse("a", 0.0, 0.0), ClassResponse("b", 0.0, 0.0)]
    text = render(replace(page, cards=[UnitCard("x", "x", "", tuning=flat)]))
    assert 'width="0.0"' in text


def test_missing_values_of_every_kind_are_shown(page):
    units = pd.DataFrame({"unit_id": ["a"], "name": [None], "flag": pd.array([pd.NA], dtype="boolean"), "x": [pd.NA]})
    columns = [
        Column("unit_id", "U"),
        Column("name", "N", "class"),
        Column("flag", "F", "flag"),
        Column("x", "X", "number"),
    ]
    data = Outline(render(replace(page, units=units, columns=columns))).texts["script"][1]
    assert json.loads(data)["rows"] == [["a", "", None, None]]


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_is_enough_in_both_themes(outline, theme):
    (style,) = outline.texts["style"]
    pairs = re.findall(r"--([a-z-]+): light-dark\((#\w+), (#\w+)\);", style)
    light = {name: luminance(both[theme]) for name, *both in pairs}

    def contrast(one, other):
        dark, bright = sorted((light[one], light[other]))
        return (bright + 0.05) / (dark + 0.05)

    texts = ("ink", "muted", "link", "supported", "refuted", "inconclusive")
    assert all(contrast(name, ground) >= 4.5 for name in texts for ground in ("page", "raised"))
    graphics = ("bar", "bar-preferred", "bar-rest", "strong-line")
    assert all(contrast(name, "page") >= 3 for name in graphics), {name: contrast(name, "page") for name in graphics}
