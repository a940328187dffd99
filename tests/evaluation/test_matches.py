"""What is kept of COCO's matching, by hand-made data sets of a few boxes."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.matches import (
    Matches,
    match_detections,
    require_same_ground_truth,
)

SIDE = 60


def polygons(bbox: list[float]) -> list[list[float]]:
    x, y, width, height = bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(image: int, category: int, bbox: list[float], crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "segmentation": polygons(bbox),
        "area": bbox[2] * bbox[3],
        "iscrowd": crowd,
    }


def truth(*annotations: dict[str, Any], images: tuple[int, ...] = (3, 8, 20)) -> dict[str, Any]:
    return {
        "info": {"date_created": "today"},
        # not in the order of their ids
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in images[::-1]],
        "categories": [{"id": 1, "name": "blob"}, {"id": 5, "name": "bar"}],
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, 1)],
    }


def mask(bbox: list[float]) -> dict[str, Any]:
    (rle,) = mask_util.frPyObjects(polygons(bbox), SIDE, SIDE)
    return {**rle, "counts": rle["counts"].decode()}


def result(image: int, category: int, bbox: list[float], score: float) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "segmentation": mask(bbox),
        "score": score,
    }


BOX, LOW_BOX, ELSEWHERE = [0, 0, 20, 20], [0, 0, 20, 13], [40, 40, 10, 10]
TRUTH = truth(
    annotation(3, 1, BOX),
    annotation(3, 1, ELSEWHERE),
    annotation(8, 1, BOX),
    annotation(20, 5, BOX, crowd=1),
    annotation(20, 5, ELSEWHERE),
)
RESULTS = [
    result(8, 1, BOX, 0.7),
    result(8, 1, [30, 30, 5, 5], 0.85),  # wrong
    result(3, 1, LOW_BOX, 0.8),  # IoU 0.65
    result(3, 1, BOX, 0.7),  # tied with image 8's: the smaller id goes first
    result(3, 1, [20, 20, 5, 5], 0.9),  # wrong
    result(20, 5, BOX, 0.6),  # in the crowd
    result(20, 5, ELSEWHERE, 0.95),
]


def matched(
    folder: Path,
    truth: dict[str, Any] = TRUTH,
    results: list[dict[str, Any]] | None = RESULTS,
    iou_type: str = "bbox",
    max_dets: int = 100,
) -> Matches:
    (folder / "truth.json").write_text(json.dumps(truth))
    path = folder / "results.json"
    path.unlink(missing_ok=True)
    if results is not None:
        path.write_text(json.dumps(results))
    return match_detections(folder / "truth.json", path, iou_type, max_dets)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_detections_in_the_order_of_coco(iou_type: str, tmp_path: Path) -> None:
    matches = matched(tmp_path, iou_type=iou_type)
    assert matches.iou_type == iou_type
    assert matches.image_ids.tolist() == [3, 8, 20]
    assert matches.category_ids.tolist() == [1, 5]
    assert matches.iou_thresholds == pytest.approx(np.arange(0.5, 1, 0.05))
    assert matches.objects.tolist() == [[2, 1, 0], [0, 0, 1]], "the crowd does not count"
    assert matches.category.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert matches.image.tolist() == [0, 1, 0, 0, 1, 2, 2]
    assert matches.score.tolist() == [0.9, 0.85, 0.8, 0.7, 0.7, 0.95, 0.6]


def test_matches_by_threshold(tmp_path: Path) -> None:
    matches = matched(tmp_path)
    at_50, at_95 = matches.matched[0].tolist(), matches.matched[-1].tolist()
    # At IoU 0.5 the low box takes the object that the exact one gets at 0.95.
    assert at_50 == [False, False, True, False, True, True, True]
    assert at_95 == [False, False, False, True, True, True, True]
    assert matches.ignored.tolist() == [[False] * 6 + [True]] * 10, "in the crowd, no mistake"


def test_a_mask_counts_by_its_own_shape(tmp_path: Path) -> None:
    mask_elsewhere = {**result(8, 1, BOX, 0.7), "segmentation": mask(ELSEWHERE)}
    assert matched(tmp_path, results=[mask_elsewhere], iou_type="bbox").matched.all()
    assert not matched(tmp_path, results=[mask_elsewhere], iou_type="segm").matched.any()


def test_max_dets_is_per_image_and_category(tmp_path: Path) -> None:
    matches = matched(tmp_path, max_dets=1)
    assert list(zip(matches.image.tolist(), matches.score.tolist(), strict=True)) == [
        (0, 0.9),
        (1, 0.85),
        (2, 0.95),
    ]


@pytest.mark.parametrize("results", [[], None])
def test_no_detections(results: list[dict[str, Any]] | None, tmp_path: Path) -> None:
    matches = matched(tmp_path, results=results)
    assert matches.objects.sum() == 4
    assert matches.matched.shape == matches.ignored.shape == (10, 0)
    assert len(matches.score) == len(matches.image) == len(matches.category) == 0


def test_no_annotations_at_all(tmp_path: Path) -> None:
    bare = {k: v for k, v in TRUTH.items() if k != "annotations"}
    matches = matched(tmp_path, truth=bare)
    assert matches.objects.sum() == 0
    assert len(matches.score) == len(RESULTS)
    assert not matches.matched.any()


def test_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matched(tmp_path)
    assert capsys.readouterr().out == ""


MOVED = [*TRUTH["annotations"][:-1], {**TRUTH["annotations"][-1], "bbox": [41, 40, 10, 10]}]
OTHER_TRUTHS = [
    {**TRUTH, "images": [*TRUTH["images"], {"id": 21, "height": SIDE, "width": SIDE}]},
    {**TRUTH, "annotations": TRUTH["annotations"][:-1]},
    {**TRUTH, "annotations": MOVED},  # as many objects in the same images
    {**TRUTH, "categories": [*TRUTH["categories"], {"id": 6, "name": "ring"}]},
]


@pytest.mark.parametrize("other", OTHER_TRUTHS)
def test_different_ground_truths_are_no_pair(other: dict[str, Any], tmp_path: Path) -> None:
    pair = [matched(tmp_path), matched(tmp_path, truth=other)]
    with pytest.raises(TransferError, match=r"two ground truths.*same validation set"):
        require_same_ground_truth(pair)


def test_one_ground_truth_pairs_up_whatever_was_detected(tmp_path: Path) -> None:
    written_again = {**TRUTH, "info": {"date_created": "tomorrow"}}
    pair = [matched(tmp_path), matched(tmp_path, truth=written_again, results=[])]
    require_same_ground_truth(pair)
    assert pair[0].ground_truth == pair[1].ground_truth


def test_boxes_and_masks_are_no_pair(tmp_path: Path) -> None:
    pair = [matched(tmp_path), matched(tmp_path, iou_type="segm")]
    with pytest.raises(TransferError, match="IoU type 'segm' beside 'bbox'"):
        require_same_ground_truth(pair)


NO_SCORE = [{k: v for k, v in RESULTS[0].items() if k != "score"}]
BAD_FILES = [
    # ground truth, results, the file that the error names
    ("{", "[]", r"truth\.json"),
    ("[]", "[]", r"truth\.json"),
    ('{"images": []}', "[]", r"truth\.json"),
    (json.dumps(TRUTH), "[", r"results\.json"),
    (json.dumps(TRUTH), "{}", r"results\.json"),
    (json.dumps(TRUTH), json.dumps(NO_SCORE), r"results\.json"),
    (json.dumps(TRUTH), json.dumps([result(4, 1, BOX, 0.5)]), r"image 4.*ground truth does not"),
]


@pytest.mark.parametrize(("ground_truth", "results", "named"), BAD_FILES)
def test_files_that_are_no_evaluation(
    ground_truth: str, results: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "truth.json").write_text(ground_truth)
    (tmp_path / "results.json").write_text(results)
    with pytest.raises(TransferError, match=named):
        match_detections(tmp_path / "truth.json", tmp_path / "results.json", "bbox")


def test_a_missing_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"truth\.json"):
        match_detections(tmp_path / "truth.json", tmp_path / "results.json", "bbox")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_without_hotcoco_pycocotools_finds_the_same(
    iou_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = matched(tmp_path, iou_type=iou_type)
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it fails
    slow = matched(tmp_path, iou_type=iou_type)
    for field in fields(Matches):
        assert np.array_equal(getattr(fast, field.name), getattr(slow, field.name)), field.name
