"""The pages in a real browser: no error, no request, every image shown, no sideways scrolling."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfer_maskrcnn.report.run_page import write_run_report
from transfer_maskrcnn.report.study_page import write_study_report

pytestmark = pytest.mark.slow

PHONE, DESKTOP = 375, 1200
Visit = Callable[..., Any]


@pytest.fixture(params=["study", "run"])
def page(request: pytest.FixtureRequest) -> Path:
    if request.param == "study":
        return write_study_report(request.getfixturevalue("whole_study"))
    return write_run_report(request.getfixturevalue("whole_run"))


def test_the_page_asks_for_nothing_and_complains_of_nothing(visit: Visit, page: Path) -> None:
    found = visit(page)
    outside = [url for url in found.requests if not url.startswith("data:")]
    assert outside == [page.as_uri()]
    assert found.complaints == []
    assert found.ask("document.scripts.length") == 0


def test_every_image_is_shown_and_has_words(visit: Visit, page: Path) -> None:
    found = visit(page)
    images = found.ask("[...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt])")
    assert len(images) > 4
    assert all(natural > 0 and shown > 0 and alt for natural, shown, alt in images)


def test_names_are_text(visit: Visit, page: Path) -> None:
    found = visit(page)
    assert '<b>"x"&' in found.ask("document.body.innerText")
    assert found.ask("[...document.querySelectorAll('b')].every(b => !b.innerText.includes('x'))")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_sideways_scrolling(visit: Visit, page: Path, width: int) -> None:
    found = visit(page, width)
    assert found.ask("innerWidth") == width  # a page that is too wide is zoomed out on a phone
    assert found.ask("document.documentElement.scrollWidth") <= width


def test_wide_tables_scroll_in_their_own_box_on_a_phone(visit: Visit, whole_study: Path) -> None:
    found = visit(write_study_report(whole_study), PHONE)
    boxes = found.ask(
        "[...document.querySelectorAll('.wide')].map(b => [b.scrollWidth, b.clientWidth])"
    )
    assert any(content > box for content, box in boxes)
    assert all(box <= PHONE for _, box in boxes)


def test_the_run_page_shows_plots_and_outlines(
    visit: Visit, share_near: Callable[..., float], whole_run: Path
) -> None:
    found = visit(write_run_report(whole_run))
    plots, tiles = found.looks(".plots img"), found.looks(".tiles img")
    assert len(plots) == 2 and len(tiles) == 4
    for plot in plots:
        assert 0.5 < share_near(plot, "#ffffff") < 0.99  # lines on white
        assert share_near(plot, "#0072b2") > 0.001
    for i, tile in enumerate(tiles):
        colour = ("#0072b2", "#d55e00")[i // 2]
        top = tile[round(len(tile) * 10 / 64) - 3 :][:6]  # of the square: the rest is noise
        middle = slice(3 * len(tile) // 8, 3 * len(tile) // 4)
        assert share_near(top[:, middle], colour, 50) > 2 * share_near(tile[:20], colour, 50)
    for text in found.looks("h1, h2, .verdict"):
        assert share_near(text, "#1f2328") > 0.002


def luminance(css: str) -> float:
    """Of "rgb(1, 2, 3)", as WCAG 2 has it."""
    shares = [int(n) / 255 for n in re.findall(r"\d+", css)[:3]]
    r, g, b = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(visit: Visit, page: Path, scheme: str) -> None:
    found = visit(page, scheme=scheme)
    ground = luminance(found.ask("getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.9) if scheme == "light" else (ground < 0.05)
    for selector in ("p", "td", "th", ".soft", "h1", ".heat td"):
        colours = found.ask(
            f"[...document.querySelectorAll('{selector}')].map(e => getComputedStyle(e).color)"
        )
        for colour in set(colours):
            lighter, darker = sorted((luminance(colour), ground), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) > 4.5, (selector, colour)
    for plot in found.looks(".plots img"):  # on the page's ground, with ink that differs from it
        brightness = plot.mean(axis=-1)
        usual = np.median(brightness)
        assert (usual > 240) if scheme == "light" else (usual < 40)
        assert (np.abs(brightness - usual) > 120).mean() > 0.004


def test_pages_use_their_width(visit: Visit, page: Path) -> None:
    found = visit(page, 1280)
    right = found.ask(
        "Math.max(...[...document.querySelectorAll('table, figure')]"
        ".map(e => e.getBoundingClientRect().right))"
    )
    assert right > 1200
    tiles = found.ask("[...document.querySelectorAll('.tiles img')].map(i => i.clientWidth)")
    assert min(tiles) > 280  # of four columns


def test_the_checks_find_what_they_look_for(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'>"
        "<p style='width: 900px'>wide</p><script>console.error('oh')</script>"
        "<script src='http://example.org/x.js'></script>"
    )
    found = visit(path, PHONE)
    assert "http://example.org/x.js" in found.requests
    assert any("oh" in text for text in found.complaints)
    assert any("ERR_NAME_NOT_RESOLVED" in text for text in found.complaints)
    assert found.ask("document.documentElement.scrollWidth") > PHONE
