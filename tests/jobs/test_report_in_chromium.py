"""The nightly page as a reader has it: rendered by Chromium, in both themes, on a phone, on paper, by keyboard.

Needs the browser of the system (Debian: chromium) and downloads none; SYNCREC_CHROMIUM names another one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make setup")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGES = ("2024-01-30", "2024-01-31", "index")
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update", "--disable-sync"]
FIGURES = {"2024-01-30": 4, "2024-01-31": 4, "index": 0}
"""NTG of two domains, quality, times."""

# Of every visible text: its contrast with what is painted behind it, by the formula of WCAG 2.
CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), element = texts.currentNode.parentElement;
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = luminance(parse(element.closest('svg') ? style.fill : style.color));
    const paper = luminance(behind(element));
    found.push([text, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)]);
  }
  return found;
}"""
HINTED = """() => !CSS.supports('container-type: scroll-state') || [...document.querySelectorAll('.scroll')].every(
  e => (e.scrollWidth > e.clientWidth) === (getComputedStyle(e.querySelector('.sideways')).display !== 'none'))"""
PAPER = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
STOPS = "() => document.querySelectorAll('a[href], summary, .scroll').length"
FOCUS = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const place = [...document.querySelectorAll('a[href], summary, .scroll')].indexOf(e);
  return [place, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = os.environ.get("SYNCREC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("needs a Chromium (Debian: apt-get install chromium), or SYNCREC_CHROMIUM=/path/to/one")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def reports(reported: Path) -> Path:
    return reported.parent / "state" / "reports"


@pytest.fixture
def opened(browser: Any, reports: Path) -> Iterator[Any]:
    """Opens a page by name; whatever it says to the console or asks the network for fails the test."""
    heard: list[str] = []
    contexts = []

    def open_page(name: str, width: int = 1100, scheme: str = "light") -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("request", lambda request: heard.append(request.url))
        address = (reports / f"{name}.html").as_uri()
        page.goto(address)
        assert heard.pop(0) == address
        page.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = true)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_there_in_both_themes_and_every_text_can_be_read(
    opened: Any, reports: Path, name: str
) -> None:
    assert (reports / f"{name}.html").stat().st_size < 2_000_000
    for scheme in ("light", "dark"):
        page = opened(name, scheme=scheme)
        assert all((value > 128) == (scheme == "light") for value in page.evaluate(PAPER))
        figures = page.locator("figure")
        assert figures.count() == FIGURES[name]
        for figure in figures.all():
            assert figure.get_attribute("role") == "img"
            assert len(figure.get_attribute("aria-label") or "") > 20, "the figure in words"
            box = figure.locator("svg").bounding_box()
            assert box["width"] > 150 and box["height"] > 60
            assert figure.locator("svg path, svg use").count() > 5, "something is drawn"
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_nothing_leaves_the_screen(opened: Any, name: str) -> None:
    for width in (375, 320):
        page = opened(name, width=width)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        for figure in page.locator("figure svg").all():
            text = figure.locator("text").first.bounding_box()
            assert text["height"] >= 8, "the letters of a figure do not shrink away"
        wide = "e => e.scrollWidth > e.clientWidth && e.tabIndex < 0"
        assert not page.evaluate(f"() => [...document.querySelectorAll('.scroll')].some({wide})")
        assert page.evaluate(HINTED), "a table that goes on behind the edge says so, no other does"


@pytest.mark.parametrize("name", PAGES)
def test_it_prints_dark_on_white_whatever_the_theme(opened: Any, name: str) -> None:
    page = opened(name, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate(PAPER) == [255, 255, 255]
    assert [text for text, ratio in page.evaluate(CONTRASTS) if ratio < 4.5] == []
    paper = page.pdf(format="A4", print_background=False)
    assert paper.startswith(b"%PDF") and b"/Page" in paper


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(opened: Any, name: str) -> None:
    page = opened(name)
    seen = []
    for _ in range(page.evaluate(STOPS)):
        page.keyboard.press("Tab")
        place, outlined = page.evaluate(FOCUS)
        assert outlined
        seen.append(place)
    assert seen == list(range(len(seen))), "in the order of the page, none left out"


def test_links_and_folded_rules_work_by_keyboard(opened: Any) -> None:
    page = opened("2024-01-30")
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is None, "it was open"
    assert page.locator("a").first.inner_text() == "All nights"
    assert page.locator("a").first.get_attribute("href") == "index.html"


@pytest.mark.parametrize("name", PAGES)
def test_a_screen_reader_finds_language_title_headings_and_the_names_of_tables(opened: Any, name: str) -> None:
    page = opened(name)
    assert page.locator("html").get_attribute("lang") == "en" and page.title()
    levels = page.evaluate("() => [...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert page.locator("table:not([aria-label])").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("main").count() == 1
