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

from transfer_maskrcnn.evaluation.bootstrap import class_ap, mean_ap
from transfer_maskrcnn.evaluation.coco import evaluate_detections
from transfer_maskrcnn.evaluation.explain import explain
from transfer_maskrcnn.evaluation.explain.tide import (
    KINDS,
    SIZES,
    find_mistakes,
    gains,
    read_scene,
    repaired,
)

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


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(25))
def test_ap_is_that_of_coco(seed: int, task: str) -> None:
    truth, results = random_data(seed)
    if not results:
        return
    figures = explain(truth, results, task=task).figures
    with contextlib.redirect_stdout(io.StringIO()):
        coco = evaluate_detections(truth, results, task, [1, 10, 100])
    if figures.objects:
        assert (figures.ap, figures.ap50) == pytest.approx(100 * coco.stats[:2], abs=1e-9)
    else:
        assert np.isnan(figures.ap) and np.isnan(figures.ap50) and coco.stats[0] == -1


@given(seed=st.integers(0, 10**6), task=st.sampled_from(["bbox", "segm"]))
@settings(max_examples=60, deadline=None)
def test_no_repair_lowers_ap_and_all_give_100(seed: int, task: str) -> None:
    truth, results = random_data(seed)
    scene = read_scene(truth, results, task)
    mistakes, before = find_mistakes(scene), scene.ap50
    if np.isnan(mean_ap(before)):
        return
    for kind in KINDS:
        whole = gains(scene, mistakes, [kind])
        assert np.nanmin(whole) >= -1e-9
        for size in SIZES:
            part = gains(scene, mistakes, [kind], size)
            assert np.nanmin(part) >= -1e-9
            assert np.nanmax(part - whole) <= 1e-9, "a part is worth no more than the whole"
    after = before + gains(scene, mistakes, KINDS)
    assert after[~np.isnan(after)] == pytest.approx(100)


def test_each_false_positive_has_one_kind() -> None:
    for seed in range(20):
        scene = read_scene(*random_data(seed), "segm")
        wrong = ~scene.matches.ignored[0] & ~scene.matches.matched[0]
        assert np.array_equal(wrong, find_mistakes(scene).kind != -1)


def test_nothing_stays_as_it_is_without_a_kind() -> None:
    scene = read_scene(*random_data(3), "bbox")
    same = repaired(scene, find_mistakes(scene), [])
    assert class_ap(same) == pytest.approx(scene.ap50, nan_ok=True)


def test_masks_worse_than_boxes_are_told_from_inexact_boxes() -> None:
    truth, _ = random_data(0)
    truth["annotations"] = [
        {"id": 1, "image_id": 0, "category_id": 1, "area": 1600.0, "iscrowd": 0}
        | shape([10.0, 10.0, 40.0, 40.0])
    ]
    exact_box = {**shape([10.0, 10.0, 24.0, 40.0]), "bbox": [10.0, 10.0, 40.0, 40.0]}
    result = {"image_id": 0, "category_id": 1, "score": 0.9}
    masks = explain(truth, [{**result, **exact_box}], task="segm").figures
    both = [{**result, **shape([10.0, 10.0, 24.0, 40.0])}]
    boxes = explain(truth, both, task="segm").figures
    assert (masks.loose_boxes, boxes.loose_masks) == (pytest.approx(0), pytest.approx(0))
    assert masks.loose_masks == boxes.loose_boxes == pytest.approx(70)  # IoU 0.6: 3 of 10 hold
