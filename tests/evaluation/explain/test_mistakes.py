"""One detection on one object: which kind of mistake it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.evaluation.explain.tide import KINDS, find_mistakes, read_scene

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
    found, count = kinds_of(truth, results, "bbox")
    assert found == kinds
    assert count == missed


def kinds_of(truth: dict[str, Any], results: list[Any], task: str) -> tuple[list[str], int]:
    """The kind of each detection, "" for a right one, and how many objects are missed."""
    mistakes = find_mistakes(read_scene(truth, results, task))
    kinds = [("" if k < 0 else KINDS[k].value) for k in mistakes.kind]
    return kinds, np.count_nonzero(mistakes.missed)


def of_two_classes(boxes: list[list[float]]) -> dict[str, Any]:
    """An object of class 1, then one of class 2."""
    return {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": n + 1, "area": 1600, **mask(box)}
            for n, box in enumerate(boxes)
        ],
    }


def mask(box: list[float], outline: list[float] | None = None) -> dict[str, Any]:
    x, y, width, height = outline or box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    (rle,) = mask_util.frPyObjects([[float(v) for v in corners]], 100, 100)
    return {"bbox": box, "segmentation": {**rle, "counts": rle["counts"].decode()}}


def test_a_place_comes_before_a_class_as_in_tide() -> None:
    truth = of_two_classes([[20, 20, 40, 40], [45, 20, 40, 40]])
    between = {"image_id": 1, "category_id": 1, "bbox": [40, 20, 40, 40], "score": 0.9}
    # IoU 0.33 with its own class, 0.78 with the other
    assert kinds_of(truth, [between], "bbox") == (["localisation"], 1)


def test_a_bad_mask_is_no_duplicate_of_a_later_good_one() -> None:
    truth = of_two_classes([OBJECT, [80, 80, 9, 9]])
    bad = {"image_id": 1, "category_id": 1, **mask(OBJECT, outline=[20, 20, 9, 9])}
    good = {**bad, **mask(OBJECT)}
    later = [{**bad, "score": 0.9}, {**good, "score": 0.8}]
    assert kinds_of(truth, later, "segm") == (["mask", ""], 1)
    sooner = [{**bad, "score": 0.8}, {**good, "score": 0.9}]
    assert kinds_of(truth, sooner, "segm") == (["", "duplicate"], 1)
