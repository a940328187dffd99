"""The site: built without a warning, and opened from the disk in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .report.browser import Visit, browser, visit

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
__all__ = ["browser", "visit"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with mkdocs.yml's ``strict``: a page that is in no menu or a dead link is an error."""
    pytest.importorskip("mkdocstrings_handlers.python", reason="Python 3.11 or newer has it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_nothing_is_taken_from_elsewhere(site: Path) -> None:
    assert set(PAGES) <= {path.stem for path in site.glob("*.html")}
    for page in site.glob("**/*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]*", text)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(site: Path, visit: Callable[..., Visit], width: int) -> None:
    for name in PAGES:
        page = visit(site / f"{name}.html", width)
        assert not page.complaints, name
        assert all(url.startswith(("file:", "data:", "about:")) for url in page.requests), name
        assert page.ask("document.documentElement.scrollWidth <= innerWidth"), name


@pytest.mark.slow
def test_the_search_finds_something(site: Path, visit: Callable[..., Visit]) -> None:
    page = visit(site / "index.html")
    found = page.ask(
        """new Promise(done => {
            document.querySelector("#__search").click()
            const query = document.querySelector(".md-search__input")
            query.focus(); query.value = "distillation"; query.dispatchEvent(new Event("keyup"))
            const ask = () => {
                const links = document.querySelectorAll(".md-search-result__link")
                links.length ? done([...links].map(link => link.href)) : setTimeout(ask, 50)
            }
            ask()
        })"""
    )
    assert any("extending.html" in link for link in found)
