"""Which detections become ground truth, which are doubtful, and which yield."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode

from transfer_maskrcnn.incremental.decide import Scores, decide, with_labels
from transfer_maskrcnn.modeling.ignored import IGNORED_CLASS

SIDE = 40
PLACES = {0: 10, 1: 11}  # the teacher's cat and dog; it has a bird, 2, which persons annotate
SCORES = Scores(sure=[0.5, 0.8, 0.5], doubtful=0.1)


def rle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def found(category: int, score: float, *box: int, mask: Any = None) -> dict[str, Any]:
    segmentation = mask or rle(*box)
    return {
        "category_id": category,
        "score": score,
        "bbox": [float(v) for v in box],
        "segmentation": segmentation,
    }


def own(*box: int, crowd: int = 0, mask: Any = None) -> dict[str, Any]:
    x, y, width, height = box
    return {
        "category_id": 3,
        "iscrowd": crowd,
        "bbox": [x, y, x + width, y + height],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": mask or rle(*box),
    }


A, B, NEAR_A, HALF_A = (2, 2, 10, 10), (20, 20, 10, 10), (3, 2, 10, 10), (2, 2, 10, 4)
CASES: list[tuple[str, list[Any], list[Any], list[float], list[float]]] = [
    # what, detections, annotations, scores of the sure, of the doubtful
    ("nothing", [], [], [], []),
    ("each class has its own score", [found(0, 0.6, *A), found(1, 0.6, *B)], [], [0.6], [0.6]),
    ("the score itself is enough", [found(1, 0.8, *A), found(0, 0.1, *B)], [], [0.8], [0.1]),
    ("below the doubtful", [found(0, 0.09, *A)], [], [], []),
    ("a class that persons annotate", [found(2, 0.9, *A)], [], [], []),
    ("yields to an annotation", [found(0, 0.9, *NEAR_A), found(0, 0.9, *B)], [own(*A)], [0.9], []),
    ("doubtful, too", [found(0, 0.3, *NEAR_A)], [own(*A)], [], []),
    ("overlaps it a little", [found(0, 0.9, *HALF_A)], [own(*A)], [0.9], []),
    ("lies within an annotated crowd", [found(0, 0.9, *A)], [own(0, 0, 40, 40, crowd=1)], [], []),
    ("large beside a small crowd", [found(0, 0.9, 0, 0, 40, 40)], [own(*A, crowd=1)], [0.9], []),
    ("two classes, one object", [found(0, 0.6, *A), found(1, 0.9, *NEAR_A)], [], [0.9], []),
    ("the sure one stays", [found(1, 0.7, *A), found(0, 0.6, *NEAR_A)], [], [0.6], []),
    ("best first", [found(0, 0.6, *A), found(0, 0.7, *B)], [], [0.7, 0.6], []),
    (
        "polygons of persons",
        [found(0, 0.9, *NEAR_A)],
        [own(*A, mask=[[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]])],
        [],
        [],
    ),
    (
        "same box, another mask: a ring around a disc",
        [found(0, 0.9, *A, mask=rle(2, 2, 10, 3))],
        [own(*A, mask=rle(2, 8, 10, 4))],
        [0.9],
        [],
    ),
]


@pytest.mark.parametrize(("detections", "annotations", "sure", "doubtful"), [c[1:] for c in CASES])
def test_decide(detections: Any, annotations: Any, sure: Any, doubtful: Any) -> None:
    record = {"height": SIDE, "width": SIDE, "annotations": annotations}
    for order in (detections, detections[::-1]):
        labels = decide(record, order, PLACES, SCORES)
        assert [a["score"] for a in labels.sure] == sure
        assert [a["score"] for a in labels.doubtful] == doubtful


def test_without_masks_boxes_tell() -> None:
    boxes = [{k: v for k, v in found(0, 0.9, *NEAR_A).items() if k != "segmentation"}]
    record = {"height": SIDE, "width": SIDE, "annotations": [own(*A)]}
    assert not decide(record, boxes, PLACES, SCORES).sure
    record["annotations"] = [own(*B)]
    (label,) = decide(record, boxes, PLACES, SCORES).sure
    assert "segmentation" not in label and label["bbox_mode"] == BoxMode.XYWH_ABS


def test_an_empty_mask_is_never_sure_and_its_box_is_left_out() -> None:
    record = {"height": SIDE, "width": SIDE, "annotations": []}
    nothing = mask_util.encode(np.zeros((SIDE, SIDE), np.uint8, order="F"))
    empty = {"size": nothing["size"], "counts": nothing["counts"].decode()}
    labels = decide(record, [found(0, 0.9, *A, mask=empty)], PLACES, SCORES)
    (doubtful,) = labels.doubtful
    assert not labels.sure
    assert mask_util.toBbox(doubtful["segmentation"]).tolist() == list(map(float, A))


def test_never_sure() -> None:
    record = {"height": SIDE, "width": SIDE, "annotations": []}
    labels = decide(record, [found(0, 1.0, *A)], PLACES, Scores([math.inf] * 3, 0.1))
    assert not labels.sure and len(labels.doubtful) == 1


def test_records_to_train_on() -> None:
    """The model's classes; doubtful objects are of none; what was given is left alone."""
    record = {"height": SIDE, "width": SIDE, "annotations": [own(*A)], "image_id": 7}
    labels = decide(record, [found(1, 0.9, *B), found(0, 0.2, 30, 2, 5, 5)], PLACES, SCORES)
    assert [a["category_id"] for a in (*labels.sure, *labels.doubtful)] == [11, 10]
    trained = with_labels(record, labels)
    assert [a["category_id"] for a in trained["annotations"]] == [3, 11, IGNORED_CLASS]
    assert trained["image_id"] == 7 and len(record["annotations"]) == 1
