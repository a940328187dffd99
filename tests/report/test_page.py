"""A page is written whole, escapes its text, and asks for nothing outside itself."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from transfer_maskrcnn.report.page import write_page

CONTENT = {
    "name": "a & <b>",
    "sentences": ['<script>alert("1")</script>'],
    "damaged": (),
    "cost": "",
    "plots": [],
    "extension": None,
    "pseudo_labels": "",
    "evaluations": [],
    "plan": None,
    "explanations": [],
    "moved": None,
    "pictures": [],
    "min_score": 0.5,
    "command": "",
    "repeat": [],
}


def test_text_is_escaped(tmp_path: Path) -> None:
    html = write_page(tmp_path, "run.html", CONTENT).read_text(encoding="utf-8")
    assert "<title>Run a &amp; &lt;b&gt;</title>" in html
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in html
    assert "<script" not in html


def test_nothing_steers_the_reader(tmp_path: Path) -> None:
    """Codes of a terminal and of the direction are told; words from right to left stay in place."""
    said = "\x1b[2J\x07 gnp.\u202egpj \u05d0\u05d1 \u05d2: 4 <b>"
    page = write_page(tmp_path, "run.html", CONTENT | {"sentences": [said], "command": "a\nb"})
    html = page.read_text(encoding="utf-8")
    assert "\\x1b[2J\\x07 gnp.\\u202egpj \u2068\u05d0\u05d1 \u05d2\u2069: 4 &lt;b&gt;" in html
    assert not {"\x1b", "\x07", "\u202e"} & set(html) and "<pre>a\nb</pre>" in html


def test_head(tmp_path: Path) -> None:
    html = write_page(tmp_path, "run.html", CONTENT).read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert html.startswith("<!DOCTYPE html>")


def test_an_error_leaves_the_page_before(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("before")
    with pytest.raises(jinja2.UndefinedError):
        write_page(tmp_path, "run.html", {"name": "x"})
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "before"
