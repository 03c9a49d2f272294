"""The page in a real browser: Chromium through Playwright, where both are installed."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from auditor.report.page import render

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import report_pages

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"needs a Chromium on the PATH ({', '.join(NAMES)})"),
    pytest.mark.filterwarnings("ignore:Glyph"),
]
MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, as in containers.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, page in (("ordinary", report_pages.ordinary()), ("hostile", report_pages.hostile())):
        (folder / f"{name}.html").write_text(render(page), encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser, files):
    """Open a page; at the end no error was logged and nothing but the page itself was asked for."""
    contexts, troubles = [], []

    def opener(name="ordinary", *, width=1440, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        address = (files / f"{name}.html").as_uri()
        wanted = (address, "data:")
        page.on("request", lambda request: request.url.startswith(wanted) or troubles.append(request.url))
        page.goto(address)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert troubles == []


def cells(page, column):
    return page.locator(f"#table tbody tr > :nth-child({column})").all_inner_texts()


def numbers(page, column):
    texts = [text.split(" ")[0].replace(MINUS, "-") for text in cells(page, column)]
    return [float(text) for text in texts if text != "–"]


def header(page, name):
    return page.locator("#table thead th", has_text=name)


def test_a_large_page_stays_below_five_megabytes(files):
    assert (files / "ordinary.html").stat().st_size < 5_000_000


@pytest.mark.parametrize("name", ["ordinary", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1440])
def test_nothing_overflows(visit, name, scheme, width):
    page = visit(name, width=width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider than the window lies in a box that scrolls.
    wide = page.evaluate(
        """width => [...document.body.querySelectorAll("*")].filter((node) => {
            const box = node.getBoundingClientRect();
            return box.width && box.right > width + 1 && !node.closest(".scroll, .paper, .chips, .away");
        }).map((node) => node.outerHTML.slice(0, 80))""",
        width,
    )
    assert wide == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("name", ["ordinary", "hostile"])
def test_anchors_resolve(visit, name):
    page = visit(name)
    lost = page.evaluate(
        """() => [...document.querySelectorAll('a[href^="#"]')].map((link) => link.getAttribute("href").slice(1))
            .filter((id) => !document.getElementById(id))"""
    )
    assert lost == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    for attribute in ("aria-labelledby", "data-copies"):
        named = page.evaluate(
            f"[...document.querySelectorAll('[{attribute}]')].map((n) => n.getAttribute('{attribute}'))"
        )
        assert set(named) <= set(ids)


def test_script_and_document_write_the_same_rows(visit):
    shown = visit(java_script_enabled=False).locator("#table tbody").inner_html()
    drawn = visit().locator("#table tbody").inner_html()
    assert re.sub(r"\s*(?=<)|(?<=>)\s*", "", drawn) == re.sub(r"\s*(?=<)|(?<=>)\s*", "", shown)


def test_headings_sort_by_click_and_key(visit):
    page = visit()
    selectivity = header(page, "Selectivity")
    assert selectivity.get_attribute("aria-sort") == "none"
    selectivity.get_by_role("button").click()
    assert selectivity.get_attribute("aria-sort") == "descending"
    index = np.sort(report_pages.units()["index"].dropna())
    assert numbers(page, 4) == [round(value, 3) for value in index[::-1][:50]]
    page.keyboard.press("Enter")  # the button still has the focus
    assert selectivity.get_attribute("aria-sort") == "ascending"
    np.testing.assert_allclose(numbers(page, 4), index[:50], atol=0.00051)
    # Units without a value come last either way.
    page.locator("#last").click()
    assert cells(page, 4)[-42:] == ["–"] * 42
    header(page, "Unit").get_by_role("button").click()
    assert selectivity.get_attribute("aria-sort") == "none"
    assert header(page, "Unit").get_attribute("aria-sort") == "ascending"
    assert cells(page, 1)[:3] == ["layer1.0.relu@1:0", "layer1.0.relu@1:1", "layer1.0.relu@1:2"]
    assert "sorted by Unit, ascending" in page.locator("#shown").inner_text()


def test_search_and_filters_narrow_the_table(visit):
    page, table = visit(), report_pages.units()
    status = page.get_by_role("status").filter(has_text="Rows")
    assert status.inner_text() == "Rows 1–50 of 4,000 units."
    page.get_by_label("Search").press_sequentially("LAYER2.1 frog")
    wanted = table[table["site"].str.contains("layer2.1", regex=False) & (table["preferred"] == "frog")]
    assert status.inner_text() == f"Rows 1–{len(wanted)} of {len(wanted)} matching units (4,000 in all)."
    page.get_by_label("Layer", exact=True).select_option("layer2.1.relu@2")
    page.get_by_label("Significant", exact=True).select_option("yes")
    wanted = wanted[(wanted["site"] == "layer2.1.relu@2") & wanted["significant"]]
    assert cells(page, 1) == list(wanted["unit_id"])
    page.get_by_label("Preferred class").select_option("ship")
    assert page.locator("#shown").inner_text() == "No matching units (4,000 in all)."
    assert cells(page, 1) == []
    page.get_by_role("button", name="Clear").click()
    assert status.inner_text() == "Rows 1–50 of 4,000 units."


def test_pages_turn(visit):
    page, ids = visit(), list(report_pages.units()["unit_id"])
    assert page.locator("#previous").get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="Next").click()
    assert cells(page, 1) == ids[50:100]
    page.get_by_role("button", name="Last").click()
    assert cells(page, 1) == ids[-50:]
    assert page.locator("#position").inner_text() == "Page 80 of 80"
    page.get_by_role("button", name="Next").press("Enter")  # keeps the focus, and does nothing
    assert page.evaluate("document.activeElement.id") == "next"
    assert cells(page, 1) == ids[-50:]
    page.get_by_role("button", name="First").click()
    assert cells(page, 1) == ids[:50]


def test_a_unit_leads_to_its_card(visit):
    page = visit()
    page.locator("#table").get_by_role("link", name="layer1.0.relu@1:5", exact=True).click()
    card = page.locator("article.unit").first
    assert page.url.endswith("#" + card.get_attribute("id"))
    page.wait_for_function("(node) => Math.abs(node.getBoundingClientRect().top) < 60", arg=card.element_handle())


def test_all_can_be_reached_by_keyboard(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#search").focus()
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent || document.activeElement.className"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert [text for text in reached if text in ("Unit", "Layer", "Selectivity", "Clear")] == [
        "Clear",
        "Unit",
        "Layer",
        "Selectivity",
    ]


def test_the_theme_is_remembered_or_at_least_works(visit):
    page = visit(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    button = page.get_by_role("button", name="Dark theme")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.evaluate(ground) == "rgb(20, 24, 29)"
    page.reload()
    assert page.evaluate(ground) == "rgb(20, 24, 29)"
    # Without storage the button works, and forgets.
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } });")
    page.reload()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    button.click()
    assert page.evaluate(ground) == "rgb(20, 24, 29)"


def test_methods_are_copied_from_a_page_on_disk(visit):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the text").click()
    page.get_by_text("Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.replace("\r\n", "\n") == "\n\n".join(report_pages.METHODS)


def test_methods_are_copied_without_the_clipboard_interface(visit):
    page = visit()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy the text").click()
    page.get_by_text("Copied.").wait_for()


def test_regions_can_be_hidden(visit):
    page = visit()
    region = page.locator("img.region").first
    assert region.is_visible()
    page.get_by_role("button", name="Show regions").click()
    assert not region.is_visible()
    page.emulate_media(media="print")
    assert region.is_visible()


def test_every_picture_is_drawn(visit):
    page = visit()
    assert page.evaluate("[...document.images].filter((image) => !image.complete || !image.naturalWidth).length") == 0
    assert page.locator("figure.figure img").count() == 10


@pytest.mark.parametrize("script", [True, False])
def test_hostile_names_do_nothing_and_are_shown_as_text(visit, script):
    page = visit("hostile", java_script_enabled=script)
    if script:
        page.locator("#last").click()
        page.locator("#first").click()
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.querySelectorAll('script').length") == 2
        options = page.get_by_label("Layer", exact=True).locator("option").all_text_contents()
        assert "<script>window.hacked=1</script>" in options
        # A name of JavaScript's own is no card's.
        page.get_by_label("Search").fill("constructor")
        assert all("constructor" in " ".join(row.split()) for row in page.locator("#table tbody tr").all_inner_texts())
    table = page.locator("#table").inner_text()
    assert page.title() == "</script><script>window.hacked=1</script>"
    shown = page.locator("main").inner_text()
    for name in report_pages.HOSTILE:
        seen = " ".join(name.replace("\u202e", "[U+202E]").split())
        assert seen in " ".join(shown.split())
    assert "constructor" in table


def test_without_javascript_the_table_begins(visit):
    page = visit(java_script_enabled=False)
    assert cells(page, 1) == list(report_pages.units()["unit_id"][:50])
    assert page.get_by_text("Without JavaScript").is_visible()
    for control in (".toolbar", ".pager", "#theme", "#copy", "#regions"):
        assert not page.locator(control).is_visible()
    assert page.locator("article.verdict").count() == 3


def test_print_shows_everything_but_the_controls(visit):
    page = visit(color_scheme="dark", width=720)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in (".toolbar", ".pager", "#theme", "#copy", "#regions", ".contents"):
        assert not page.locator(control).is_visible()
    for part in ("article", "figure.figure", "#table tr", "#methods-text", "#references li", "#files li", ".thumbs li"):
        found = page.locator(part)
        assert found.count() > 0
        assert found.evaluate_all("(nodes) => nodes.every((node) => node.checkVisibility() && node.offsetHeight > 0)")
    assert page.locator("article.unit").first.evaluate("(node) => getComputedStyle(node).breakInside") == "avoid"
    cut = page.locator(".scroll, .paper").evaluate_all(
        "(n) => n.filter((x) => x.scrollWidth > x.clientWidth + 1).length"
    )
    assert cut == 0


def test_motion_is_reduced_on_request(visit):
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    assert visit().evaluate(behaviour) == "smooth"
    assert visit(reduced_motion="reduce").evaluate(behaviour) == "auto"
