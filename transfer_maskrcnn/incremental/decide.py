"""Which of a teacher's detections become ground truth, which are doubtful, and which are neither;
and, for each class, the score from which they are right often enough.

Boxes and masks are in pixels of the image as it lies on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.modeling.rcnn import IGNORED_CLASS

Record = Mapping[str, Any]  # a detectron2 dataset dict
Annotation = dict[str, Any]
Detection = Mapping[str, Any]  # a COCO result, whose category_id is the teacher's class

#: two outlines of this IoU are of the same object, as in COCO's AP50
SAME_OBJECT = 0.5
#: right detections that a class needs before its precision is believed
ENOUGH = 5


@dataclass(frozen=True)
class Scores:
    """From which score on a detection is ground truth, and from which it is doubtful.

    Attributes:
        sure: for each of the teacher's classes; infinity: never.
        doubtful: for all.
    """

    sure: Sequence[float]
    doubtful: float

    def is_sure(self, detection: Detection) -> bool:
        """One whose mask is empty never is: it would be an object that nothing is learnt from."""
        return bool(detection["score"] >= self.sure[detection["category_id"]]) and has_mask(
            detection
        )


@dataclass(frozen=True)
class PseudoLabels:
    """Annotations of one image, in detectron2's form, best score first.

    Each has its ``score``, and the model's class as ``category_id``, doubtful ones too.
    """

    sure: list[Annotation]
    doubtful: list[Annotation]


def decide(
    record: Record, detections: Sequence[Detection], places: Mapping[int, int], scores: Scores
) -> PseudoLabels:
    """What a teacher's detections add to an image's annotations.

    A detection yields to an annotation of the same object, of whatever class, and to what lies in
    an annotated crowd; of two detections of the same object, the sure one stays, else the better.

    Args:
        record: with ``height``, ``width`` and ``annotations``.
        detections: the teacher's.
        places: the teacher's class -> the model's; detections of other classes are left out.
        scores: the thresholds.
    """
    found = [d for d in detections if d["category_id"] in places and d["score"] >= scores.doubtful]
    found.sort(key=lambda d: (not scores.is_sure(d), -d["score"]))
    distinct = [(scores.is_sure(d), _annotation(d, places)) for d in _distinct(found, record)]
    sure, doubtful = ([a for kind, a in distinct if kind is wanted] for wanted in (True, False))
    return PseudoLabels(sure, doubtful)


def with_labels(record: Record, labels: PseudoLabels) -> dict[str, Any]:
    """A copy of ``record`` to train on: doubtful objects are of class ``IGNORED_CLASS``."""
    doubtful = [{**a, "category_id": IGNORED_CLASS} for a in labels.doubtful]
    return {**record, "annotations": [*record["annotations"], *labels.sure, *doubtful]}


def _annotation(detection: Detection, places: Mapping[int, int]) -> Annotation:
    annotation = {
        "bbox": list(detection["bbox"]),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": places[detection["category_id"]],
        "iscrowd": 0,
        "score": detection["score"],
    }
    mask = detection.get("segmentation")
    if mask and not has_mask(detection):
        # detectron2's mapper drops an empty mask, and with it the box that no loss may depend on:
        # the whole box
        x, y, w, h = detection["bbox"]
        mask = as_rle([[x, y, x + w, y, x + w, y + h, x, y + h]], *mask["size"])
    return {**annotation, "segmentation": mask} if mask else annotation


def has_mask(detection: Detection) -> bool:
    """Whether its mask has a pixel; True of a model without masks."""
    mask = detection.get("segmentation")
    return mask is None or bool(mask_util.area(mask) > 0)


def _distinct(found: Sequence[Detection], record: Record) -> list[Detection]:
    """Those that are the same object as no annotation, and as no earlier one that stays."""
    annotations = record["annotations"]
    iou = np.hstack([_overlaps(found, annotations, record), _overlaps(found, found, record)])
    kept = list(range(len(annotations)))  # columns of what counts
    for i in range(len(found)):
        if not kept or iou[i, kept].max() < SAME_OBJECT:
            kept.append(len(annotations) + i)
    return [found[k - len(annotations)] for k in kept[len(annotations) :]]


def _overlaps(
    found: Sequence[Detection], others: Sequence[Mapping[str, Any]], record: Record
) -> np.ndarray:
    """(found, others) IoU of masks, or of boxes where one has no mask; with a crowd, the share of
    the detection that lies in it."""
    if all(item.get("segmentation") for item in (*found, *others)):
        size = record["height"], record["width"]
        shapes: Any = [
            [as_rle(i["segmentation"], *size) for i in items] for items in (found, others)
        ]
    else:
        shapes = [[_box(item) for item in items] for items in (found, others)]
    crowd = [int(item.get("iscrowd", 0)) for item in others]
    return np.reshape(mask_util.iou(*shapes, crowd), (len(found), len(others)))


def _box(item: Mapping[str, Any]) -> list[float]:
    mode = item.get("bbox_mode", BoxMode.XYWH_ABS)
    return [float(v) for v in BoxMode.convert(list(item["bbox"]), mode, BoxMode.XYWH_ABS)]


def precise_scores(matches: Matches, precision: float, default: float) -> list[float]:
    """The lowest score of each class from which at least ``precision`` of its detections are right.

    A detection is right if it matches an object at IoU 0.5; those matched to a crowd do not count.

    Args:
        matches: of the teacher on held-out images; its categories are the teacher's classes.
        precision: 0 to 1.
        default: the score of a class of which the images say too little.

    Returns:
        a score for each of the K categories: the lowest that is precise enough with ``ENOUGH``
        right detections; else infinity where the images show that the class is not precise; else
        ``default``, as for a class with fewer than ``ENOUGH`` objects.

        They show it where at least ``ENOUGH`` detections are judged, and fewer than ``precision``
        of these are right. Judged are those from ``default`` on; of a class with ``ENOUGH`` right
        ones, at whatever score, at least its ``ENOUGH`` best.
    """
    half = int(np.argmin(np.abs(matches.iou_thresholds - 0.5)))
    objects, counted = matches.objects.sum(axis=1), ~matches.ignored[half]
    of_class = [counted & (matches.category == category) for category in range(len(objects))]
    return [
        _lowest(matches.score[mine], matches.matched[half, mine], precision, default)
        if number >= ENOUGH
        else default
        for number, mine in zip(objects, of_class, strict=True)
    ]


def _lowest(score: np.ndarray, right: np.ndarray, precision: float, default: float) -> float:
    """Of one class, scores in falling order."""
    found = np.cumsum(right)
    share = found / np.arange(1, len(right) + 1)
    # The last of equal scores: a threshold lets all of them pass, or none.
    last = np.append(score[1:] != score[:-1], True)[: len(score)]
    good = np.flatnonzero(last & (share >= precision) & (found >= ENOUGH))
    if len(good):
        return float(score[good[-1]])
    best = score[ENOUGH - 1] if right.sum() >= ENOUGH else math.inf
    judged = right[score >= min(best, default)]
    imprecise = len(judged) >= ENOUGH and judged.mean() < precision
    return math.inf if imprecise else default
