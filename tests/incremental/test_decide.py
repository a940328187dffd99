"""Which detections become ground truth, are doubtful, or yield; and from which score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode

from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.incremental.decide import ENOUGH, Scores, decide, precise_scores, with_labels
from transfer_maskrcnn.modeling.rcnn import IGNORED_CLASS

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


R, W, CROWD = True, False, None


def matches(outcomes: list[tuple[float, bool | None]], objects: int) -> Matches:
    """One class; scores falling; a detection is right, wrong, or in a crowd."""
    right = np.array([outcome is True for _, outcome in outcomes], dtype=bool)
    ignored = np.array([outcome is None for _, outcome in outcomes], dtype=bool)
    return Matches(
        iou_type="segm",
        ground_truth="",
        image_ids=np.array([1]),
        category_ids=np.array([1]),
        # the first must not be taken for 0.5
        iou_thresholds=np.array([0.75, 0.5]),
        objects=np.array([[objects]]),
        category=np.zeros(len(outcomes), int),
        image=np.zeros(len(outcomes), int),
        score=np.array([score for score, _ in outcomes]),
        matched=np.stack([~right, right]) if outcomes else np.zeros((2, 0), bool),
        ignored=np.stack([ignored] * 2),
    )


def falling(*outcomes: bool | None) -> list[tuple[float, bool | None]]:
    return [(round(0.99 - 0.01 * i, 2), outcome) for i, outcome in enumerate(outcomes)]


LOW: list[tuple[float, bool | None]] = [(0.2, W), (0.19, W), (0.18, W)]
OUTCOMES = [
    # what, detections, objects, score at precision 0.8
    ("all right", falling(R, R, R, R, R), 9, 0.95),
    ("one of six wrong", falling(R, R, W, R, R, R), 9, 0.94),
    ("a wrong one at the end is not reached", falling(R, R, R, R, W, R, W, W), 9, 0.94),
    ("precise again further down", falling(R, W, W, R, R, R, R, R, R, R, R), 9, 0.89),
    ("too few to judge: the default", falling(R, R, R, R), 9, 0.7),
    ("of as few objects, too", falling(R, R, R, R), ENOUGH, 0.7),
    ("wrong ones below the default show nothing", [*falling(R, R, R), *LOW], 9, 0.7),
    ("enough, and too few right", falling(R, R, R, W, W), 9, math.inf),
    ("enough, and as many right as wanted", falling(R, R, R, R, W), 9, 0.7),
    ("many wrong ones after good ones", [*falling(R, R, R, R, *[W] * 9), (0.1, R)], 9, math.inf),
    ("below the default, enough are right", [*LOW, *[(0.1, R)] * 5], 9, math.inf),
    ("the last of these, far below", [*falling(R, R, R, R), *LOW, (0.1, R)], 9, 0.7),
    ("never precise", falling(R, W, R, W, R, W, R, W, R, W), 9, math.inf),
    ("no detection", [], 9, 0.7),
    ("crowds do not count", falling(R, R, CROWD, CROWD, CROWD, R, R, R), 9, 0.92),
    ("too few objects: the default", falling(R, R, R, R), ENOUGH - 1, 0.7),
    ("of these, most detections are wrong", falling(*[W] * 9), ENOUGH - 1, 0.7),
    # the threshold would let in the wrong ones of its own score
    ("equal scores", [(0.9, R)] * 5 + [(0.5, R), (0.5, W), (0.5, W)], 9, 0.9),
]


@pytest.mark.parametrize(("detections", "objects", "expected"), [case[1:] for case in OUTCOMES])
def test_precise_scores(
    detections: list[tuple[float, bool | None]], objects: int, expected: float
) -> None:
    assert precise_scores(matches(detections, objects), 0.8, default=0.7) == [expected]
