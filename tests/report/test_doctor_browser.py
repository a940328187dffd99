"""The doctor's page in a real browser: what is painted, not only what is in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.report.doctor_page import CLOSE_COLOURS, write_doctor_page

pytestmark = pytest.mark.slow

PHONE, DESKTOP = 390, 1280
Visit = Callable[..., Any]
Share = Callable[..., float]


@pytest.fixture
def page(doctor_content: dict[str, Any], tmp_path: Path) -> Path:
    return write_doctor_page(doctor_content, tmp_path / "doctor.html")


def test_the_page_asks_for_nothing_and_complains_of_nothing(visit: Visit, page: Path) -> None:
    found = visit(page)
    assert [url for url in found.requests if not url.startswith("data:")] == [page.as_uri()]
    assert found.complaints == []
    assert found.ask("document.scripts.length") == 0


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_sideways_scrolling(visit: Visit, page: Path, width: int) -> None:
    found = visit(page, width)
    assert found.ask("innerWidth") == width
    assert found.ask("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_thumbnails_show_the_image_and_the_shapes(
    visit: Visit, page: Path, share_near: Share, width: int
) -> None:
    found = visit(page, width)
    close, whole, gallery = found.looks(".thumbnails img")
    for tile in (close, whole, gallery):
        assert tile.shape[0] > 80 and tile.shape[1] > 100
        assert tile.std() > 4  # no blank rectangle
        assert share_near(tile, "#5a5a5a") > 0.5  # the image behind the shapes
    orange, blue = CLOSE_COLOURS
    assert share_near(close, orange) > 0.01 and share_near(close, blue) > 0.005
    assert share_near(close[: len(close) // 5], orange) == 0  # they are in the middle
    assert share_near(whole, "#0072b2") > 0.0002  # 12 of 800 pixels


def test_badges_have_colour_and_word(visit: Visit, page: Path, share_near: Share) -> None:
    found = visit(page)
    colours = {"error": "#b42318", "warning": "#f2c14e", "note": "#dbeaf5"}
    words = found.ask("[...document.querySelectorAll('.badge')].map(b => b.innerText)")
    assert words == ["ERROR", "WARNING", "NOTE"]
    for (kind, colour), badge in zip(colours.items(), found.looks(".badge"), strict=True):
        assert share_near(badge, colour, 20) > 0.5, kind
        ink = "#ffffff" if kind == "error" else "#1f2328"
        assert share_near(badge, ink) > 0.03, kind


def test_text_and_plots_are_painted(visit: Visit, page: Path, share_near: Share) -> None:
    found = visit(page)
    texts = found.looks("h1, h2, h3, .verdict, .finding > p, dd")
    assert len(texts) > 15
    assert all(share_near(text, "#1f2328", 90) > 0.001 for text in texts)
    plots = found.looks(".plots img")
    assert len(plots) == 3
    assert all(share_near(plot, "#0072b2") > 0.005 for plot in plots[:2])
    assert share_near(plots[2], "#08306b") > 0.05  # where all objects are
    assert all(share_near(plot, "#ffffff") > 0.5 for plot in plots)
