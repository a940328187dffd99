"""AP50 is COCO's, no repair lowers it, and all repairs together leave nothing to wish for."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_maskrcnn.evaluation.coco import evaluate_detections
from transfer_maskrcnn.evaluation.explain.figures import gains, measure
from transfer_maskrcnn.evaluation.explain.matching import class_ap, match, mean_ap, outcome
from transfer_maskrcnn.evaluation.explain.mistakes import KINDS, SIZES, find_mistakes, repaired
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps, find_overlaps

SIDE = 150
Record = dict[str, Any]


def shape(box: list[float]) -> Record:
    (rle,) = mask_util.frPyObjects(np.array([box]), SIDE, SIDE)
    return {"bbox": box, "segmentation": {**rle, "counts": rle["counts"].decode()}}


def random_data(seed: int) -> tuple[Record, list[Record]]:
    """Crowds, equal scores, duplicates, classes without objects, images without anything."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    annotations: list[Record] = []
    for image in range(images):
        for _ in range(int(rng.integers(0, 6))):
            side = float(rng.choice([12, 40, 110]))
            x, y = (float(v) for v in rng.integers(0, 40, 2))
            content = {"id": len(annotations) + 1, "image_id": image, "area": side * side}
            content |= {"iscrowd": int(rng.random() < 0.1)}
            category = int(rng.integers(1, classes + 1))
            annotations.append({**content, **shape([x, y, side, side]), "category_id": category})
    results = [
        {
            "image_id": a["image_id"],
            "category_id": int(rng.choice([a["category_id"]] * 4 + [1, classes])),
            "score": float(rng.integers(1, 10)) / 10,
            **shape([v + float(rng.normal(0, 4)) for v in a["bbox"]]),
        }
        for a in annotations
        for _ in range(int(rng.integers(0, 4)))
    ]
    truth = {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(classes)],
        "annotations": annotations,
    }
    return truth, results


def of_coco(truth: Record, results: list[Record], task: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        found = evaluate_detections(truth, results, task, [1, 10, 100])
    return 100 * float(found.stats[1])


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(25))
def test_ap50_is_that_of_coco(seed: int, task: str) -> None:
    truth, results = random_data(seed)
    if not results:
        return
    figures, _ = measure(find_overlaps(truth, results, task), task)
    expected = of_coco(truth, results, task)
    if figures.objects:
        assert figures.ap50 == pytest.approx(expected, abs=1e-9)
    else:
        assert np.isnan(figures.ap50) and expected == -100


def parts(overlaps: Overlaps) -> tuple[Any, Any]:
    found, in_crowd = match(overlaps)
    return outcome(overlaps, found, in_crowd), find_mistakes(overlaps, found, in_crowd)


@given(seed=st.integers(0, 10**6), task=st.sampled_from(["bbox", "segm"]))
@settings(max_examples=60, deadline=None)
def test_no_repair_lowers_ap_and_all_give_100(seed: int, task: str) -> None:
    truth, results = random_data(seed)
    overlaps = find_overlaps(truth, results, task)
    before, mistakes = parts(overlaps)
    if np.isnan(mean_ap(class_ap(before))):
        return
    for kind in KINDS:
        whole = gains(before, overlaps, mistakes, [kind], None)
        assert np.nanmin(whole) >= -1e-9
        for size in SIZES:
            part = gains(before, overlaps, mistakes, [kind], size)
            assert np.nanmin(part) >= -1e-9
            assert np.nanmax(part - whole) <= 1e-9, "a part is worth no more than the whole"
    after = class_ap(before) + gains(before, overlaps, mistakes, list(KINDS), None)
    assert after[~np.isnan(after)] == pytest.approx(100)


def test_each_false_positive_has_one_kind() -> None:
    for seed in range(20):
        overlaps = find_overlaps(*random_data(seed), "segm")
        before, mistakes = parts(overlaps)
        wrong = before.counted & (before.quality == 0)
        assert np.array_equal(wrong, mistakes.kind != -1)


def test_nothing_stays_as_it_is_without_a_kind() -> None:
    overlaps = find_overlaps(*random_data(3), "bbox")
    before, mistakes = parts(overlaps)
    same = repaired(before, overlaps, mistakes, [])
    assert class_ap(same) == pytest.approx(class_ap(before), nan_ok=True)


def test_masks_worse_than_boxes_are_told_from_inexact_boxes() -> None:
    truth, _ = random_data(0)
    truth["annotations"] = [
        {"id": 1, "image_id": 0, "category_id": 1, "area": 1600.0, "iscrowd": 0}
        | shape([10.0, 10.0, 40.0, 40.0])
    ]
    exact_box = {**shape([10.0, 10.0, 24.0, 40.0]), "bbox": [10.0, 10.0, 40.0, 40.0]}
    result = {"image_id": 0, "category_id": 1, "score": 0.9}
    masks, _ = measure(find_overlaps(truth, [{**result, **exact_box}], "segm"), "segm")
    boxes, _ = measure(
        find_overlaps(truth, [{**result, **shape([10.0, 10.0, 24.0, 40.0])}], "segm"), "segm"
    )
    assert (masks.loose_boxes, boxes.loose_masks) == (pytest.approx(0), pytest.approx(0))
    assert masks.loose_masks == boxes.loose_boxes == pytest.approx(70)  # IoU 0.6: 3 of 10 hold
