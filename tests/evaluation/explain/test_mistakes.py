"""One detection on one object: which kind of mistake it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transfer_maskrcnn.evaluation.explain.matching import match
from transfer_maskrcnn.evaluation.explain.mistakes import KINDS, find_mistakes
from transfer_maskrcnn.evaluation.explain.overlaps import find_overlaps

OBJECT = [20.0, 20.0, 40.0, 40.0]
CASES: list[tuple[str, list[tuple[list[float], int]], list[str], int]] = [
    # what, (box, class) by falling score, kinds ("" is right), missed objects
    ("exact", [(OBJECT, 1)], [""], 0),
    ("another class", [(OBJECT, 2)], ["classification"], 0),
    ("a third of it", [([20, 20, 40, 13], 1)], ["localisation"], 0),
    ("a third, another class", [([20, 20, 40, 13], 2)], ["both"], 1),
    ("a twentieth", [([20, 20, 40, 2], 1)], ["background"], 1),
    ("elsewhere", [([80, 80, 9, 9], 1)], ["background"], 1),
    ("twice", [(OBJECT, 1), ([21, 20, 40, 40], 1)], ["", "duplicate"], 0),
    ("a part of what is found", [(OBJECT, 1), ([20, 20, 40, 13], 1)], ["", "localisation"], 0),
    ("a second label", [(OBJECT, 1), (OBJECT, 2)], ["", "classification"], 0),
    ("nothing", [], [], 1),
]


@pytest.mark.parametrize(("what", "detections", "kinds", "missed"), CASES)
def test_kinds(
    what: str, detections: list[tuple[list[float], int]], kinds: list[str], missed: int
) -> None:
    truth: dict[str, Any] = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": OBJECT, "area": 1600}],
    }
    results = [
        {"image_id": 1, "category_id": c, "bbox": box, "score": 0.9 - 0.1 * n}
        for n, (box, c) in enumerate(detections)
    ]
    overlaps = find_overlaps(truth, results, "bbox")
    mistakes = find_mistakes(overlaps, *match(overlaps))
    assert [("" if k < 0 else list(KINDS)[k]) for k in mistakes.kind] == kinds
    assert np.count_nonzero(mistakes.missed) == missed
