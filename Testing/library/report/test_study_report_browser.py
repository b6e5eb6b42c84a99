"""The page of a whole study in a real headless Chromium: light and dark, wide and narrow, on screen and on paper."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsers import Listener, needs_chromium
from study_examples import a_study
from whole_study import a_grid

from VFMTransferLib.report.study_page import write_study_report
from VFMTransferLib.study.examples import write_examples
from VFMTransferLib.study.tables import write_tables
from VFMTransferLib.tasks import TASKS

pytestmark = needs_chromium
VIEWS = [(1400, "light"), (1400, "dark"), (900, "light"), (900, "dark")]
RGB = """const pixel = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color) => { pixel.fillStyle = color; pixel.fillRect(0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3); };"""
# Contrast as WCAG defines it, of the text in each element with what lies behind it.
CONTRAST = f"""(selector) => {{ {RGB}
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => {{ const [r, g, b] = c.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; }};
  const behind = (e) => {{ for (; e; e = e.parentElement) {{ const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)') return rgb(c); }} return [255, 255, 255]; }};
  return Math.min(...[...document.querySelectorAll(selector)].map((e) => {{
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); }}));
}}"""
BACKGROUND = f"(e) => {{ {RGB} return rgb(getComputedStyle(e).backgroundColor); }}"
BOX = "(e) => { const b = e.getBoundingClientRect(); return [b.left, b.top + 3, b.right, b.bottom - 3]; }"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for task in TASKS:
        case = a_study(task)
        write_examples(folder, TASKS[task].baseline, "trivial", [(TASKS[task].naive_baseline([case])(case), case)])
    write_tables(a_grid(), folder)
    write_study_report(folder)
    return folder


@pytest.fixture
def opened(chromium, study) -> Iterator[Callable]:
    """Opens the page; at the end it must have loaded nothing else and complained of nothing."""
    pages, heard = [], []

    def open_page(width: int = 1400, scheme: str = "light"):
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        heard.append(Listener(page))
        page.goto((study / "report.html").as_uri())
        pages.append(page)
        return page

    yield open_page
    for listener in heard:
        assert listener.messages == []
        asked = [url for url in listener.requests if not url.startswith("data:image/png")]
        assert asked == [(study / "report.html").as_uri()]
    for page in pages:
        page.close()


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_is_cut_off_or_hard_to_read(opened, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    overflowing = "[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(overflowing) == 0
    assert page.evaluate(CONTRAST, ".matrix td b, .matrix td .interval, .good, .bad, .muted, .tile p") >= 4.5
    assert page.evaluate(CONTRAST, "main p, main td, main th, main li, main figcaption") >= 4.5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(13, 17, 22)") == (scheme == "dark")


def test_what_is_seen_in_the_matrix_is_the_summary(opened, study):
    page = opened()
    with (study / "summary.csv").open(newline="", encoding="utf-8") as stream:
        gains = sorted(float(row["rpg_percent"]) for row in csv.DictReader(stream))
    shown = page.locator("#matrix tbody td b").all_inner_texts()
    assert sorted(float(text.replace("−", "-").rstrip(" %")) for text in shown) == pytest.approx(gains, abs=0.05)


def test_every_picture_and_chart_has_words_and_is_drawn(opened):
    page = opened()
    assert page.locator("img").evaluate_all("(all) => all.every((e) => e.alt && e.complete && e.naturalWidth > 20)")
    charts = page.locator("svg[role=img]")
    assert charts.count() >= 2 + 12 + 12 + 1
    assert charts.evaluate_all("(all) => all.every((e) => e.getAttribute('aria-label').length > 20)")
    pictures = page.locator(".tile img").evaluate_all(
        "(all) => all.map((e) => [e.width / e.height, e.naturalWidth / e.naturalHeight])"
    )
    assert all(shown == pytest.approx(own, rel=0.02) for shown, own in pictures)


def test_names_of_points_do_not_lie_over_each_other(opened):
    page = opened()
    names = page.locator("#relation .chart").first.locator("[id=name] text")
    boxes = [name.evaluate(BOX) for name in names.all()]
    assert len(boxes) == 6
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in pairs)


def test_every_case_can_be_opened_and_is_on_paper_anyway(opened):
    page = opened()
    hidden = page.locator("#real details:not([open]) table").first
    assert not hidden.is_visible()
    page.emulate_media(media="print")
    assert page.locator("#real details:not([open]) td").first.evaluate("(e) => e.getBoundingClientRect().height") > 0
    page.emulate_media(media="screen")
    page.locator("#real details:not([open]) summary").first.click()
    assert page.locator("#real details[open] table").count() > 6
