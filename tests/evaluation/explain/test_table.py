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
    assert "Masks: AP -, AP50 -; 0 objects, 0 detections" in lines(truth, [])
