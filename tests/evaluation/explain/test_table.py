"""The text of an explanation fits a terminal of 80 columns, whatever the names and numbers."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.evaluation.explain.explanation import explain
from transfer_maskrcnn.evaluation.explain.table import text

Record = dict[str, Any]


def lines(truth: Record, results: list[Record]) -> list[str]:
    explained = {task: explain(truth, results, task=task) for task in ("segm", "bbox")}
    return text("a_dataset", explained).splitlines()


def test_figures_stand_where_they_belong(truth: Record, perfect: list[Record]) -> None:
    shown = lines(truth, [r for r in perfect if r["bbox"][2] > 32])
    assert shown[0].startswith("a_dataset: Masks are fine, 100 % of the loss is missed small")
    assert "Masks: AP 50.5, AP50 50.5; 24 objects, 12 detections" in shown
    (missed,) = (line.split() for line in shown[:20] if line.startswith("missed"))
    assert missed == ["missed", "12", "49.5", "49.5", "0.0", "0.0"]
    (found,) = (line.split() for line in shown[:20] if line.startswith("found/objects"))
    assert found == ["found/objects", "12/24", "0/12", "8/8", "4/4"]


@pytest.mark.parametrize("many", [True, False])
def test_no_line_is_longer_than_80(many: bool, truth: Record, perfect: list[Record]) -> None:
    truth["categories"] = [{"id": c["id"], "name": "n" * 60} for c in truth["categories"]]
    for line in lines(truth, perfect[::2] * 500 if many else []):
        assert len(line) <= 80, line


def test_what_is_undefined_has_a_dash(truth: Record) -> None:
    truth["annotations"] = []
    shown = lines(truth, [])
    assert "Masks: AP -, AP50 -; 0 objects, 0 detections" in shown
    assert not any(line.startswith(("mistake", "class", "missed")) for line in shown)


def test_long_names_stay_different_and_columns_straight(
    truth: Record, perfect: list[Record]
) -> None:
    names = [
        "a_very_long_name_of_a_class_A",
        "a_very_long_name_of_a_class_B",
        "樹木と建物の集まり樹木",
    ]
    truth["categories"] = [
        {"id": c["id"], "name": name} for c, name in zip(truth["categories"], names, strict=True)
    ]
    shown = lines(truth, perfect)
    start = next(n for n, line in enumerate(shown) if line.startswith("class  "))
    header, *rows = shown[start : start + 4]
    assert len({row.split()[0] for row in rows}) == 3
    assert rows[0].split()[0].endswith("A")
    for row in rows:
        wide = sum(character in names[2] for character in row)
        assert len(row) + wide == len(header)
