"""The section of a run's page that says why AP is what it is."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.evaluation.explain.folder import explain_folder
from transfer_maskrcnn.report.explanation_view import view_explanation
from transfer_maskrcnn.report.run_page import write_run_report

SECTION = "Why AP is what it is on shapes_val"


@pytest.fixture
def explained(whole_run: Path) -> Path:
    """Both images' squares: one called by the wrong class, one missed, one where nothing is."""
    folder = whole_run / "inference" / "shapes_val"
    path = folder / "shapes_val_ground_truth.json"
    truth = json.loads(path.read_text())
    truth["annotations"] = [{**a, "area": 900, "iscrowd": 0} for a in truth["annotations"]]
    path.write_text(json.dumps(truth))
    path = folder / "coco_instances_results.json"
    (first, _) = json.loads(path.read_text())
    elsewhere = {**first, "image_id": 2, "bbox": [0, 50, 9, 9]}
    path.write_text(json.dumps([{**first, "category_id": 2}, elsewhere]))
    explain_folder(folder)
    return whole_run


def page_of(run: Path) -> tuple[str, str]:
    """The HTML, and what a reader sees."""
    page = write_run_report(run).read_text(encoding="utf-8")
    body = re.sub(r"<style>.*?</style>", "", page.partition("<body>")[2], flags=re.DOTALL)
    return page, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_sentence_tables_and_pictures(explained: Path) -> None:
    before = page_of(explained)[0].count("<img")
    page, shown = page_of(explained)
    content = json.loads((explained / "inference/shapes_val/explanation.json").read_text())
    assert SECTION in shown
    assert content["segm"]["sentence"] in shown
    assert "Classification the box fits an object of another class" in shown
    assert 'there: star, detected: <b>"x"& 0.90' in shown
    assert '<b>"x"&' not in page, "names are escaped"
    assert "Box AP :" in shown
    assert before == page.count("<img") == 2 + 2 * 2 + 3


def test_without_images_there_are_tables_alone(explained: Path) -> None:
    for image in (explained / "images").iterdir():
        image.unlink()
    shown = page_of(explained)[1]
    assert SECTION in shown
    assert "Examples of each mistake" not in shown


def cut(content: dict[str, Any]) -> Any:
    del content["segm"]["figures"]["repairs"]
    return content


def of_other_results(content: dict[str, Any]) -> Any:
    content["segm"]["examples"]["missed"][0]["object"] = 99
    return content


DAMAGED: list[Callable[[dict[str, Any]], Any]] = [cut, of_other_results, lambda c: {"segm": 3}]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_explanation_is_named(
    damage: Callable[[dict[str, Any]], Any], explained: Path
) -> None:
    path = explained / "inference/shapes_val/explanation.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    shown = page_of(explained)[1]
    assert "explanation.json of shapes_val is damaged; evaluate again." in shown
    assert SECTION not in shown


def test_more_is_darker(explained: Path) -> None:
    folder = explained / "inference" / "shapes_val"
    content = json.loads((folder / "explanation.json").read_text())
    task = view_explanation(folder, content).tasks[0]
    cells = [row.gains[0] for row in task.mistakes]
    red = {cell.text: int(cell.colour[5:7], 16) for cell in cells}
    assert red["0.0"] == 255 > red[max(red, key=float)]
