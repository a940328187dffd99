"""Detections and objects of a whole data set as flat arrays, and how much they overlap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.errors import DatasetError

Record = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """D detections, by score descending as COCO orders them; G objects; P pairs that overlap.

    A pair is of one image, of any two classes. Classes are places in ``class_names``.
    """

    class_names: tuple[str, ...]
    detection_class: np.ndarray  # (D,)
    detection_image: np.ndarray  # (D,) place among the images by id
    detection_area: np.ndarray  # (D,) of the box, in square pixels
    detection_score: np.ndarray  # (D,)
    detection_place: np.ndarray  # (D,) in the results as given
    object_image: np.ndarray  # (G,) place among the images by id
    object_box: np.ndarray  # (G, 4) XYWH in pixels
    object_class: np.ndarray  # (G,)
    object_area: np.ndarray  # (G,) as annotated, in square pixels
    object_crowd: np.ndarray  # (G,) bool
    pair_detection: np.ndarray  # (P,) ascending
    pair_object: np.ndarray  # (P,) ascending within a detection
    box_iou: np.ndarray  # (P,) over 0; with a crowd, the share of the detection that lies in it
    iou: np.ndarray  # (P,) of masks where they are looked at, else of boxes

    def renamed(self, classes: np.ndarray) -> Overlaps:
        """The same with class ``classes[i]`` for detections of class i."""
        return replace(self, detection_class=classes[self.detection_class])


def find_overlaps(truth: Record, results: Sequence[Record], task: str) -> Overlaps:
    """All that overlaps.

    Args:
        truth: COCO ground truth: ``images``, ``categories``, ``annotations``.
        results: COCO results, "bbox" as XYWH in pixels, for "segm" with masks.
        task: "bbox" or "segm".

    Raises:
        DatasetError: a result is of an image or a category that the ground truth lacks.
    """
    annotations = truth.get("annotations", [])
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    class_of = {c["id"]: place for place, c in enumerate(categories)}
    images = sorted(truth["images"], key=lambda image: image["id"])
    image_of = {image["id"]: place for place, image in enumerate(images)}
    _check(results, image_of, class_of)
    detections_of, objects_of = _by_image(results), _by_image(annotations)
    listed = [place for image in images for place in detections_of[image["id"]]]
    scores = np.array([results[place]["score"] for place in listed], dtype=float)
    order = np.argsort(-scores, kind="stable")
    places = np.array(listed, dtype=np.int64)[order]
    rank = np.empty(len(results), dtype=np.int64)
    rank[places] = np.arange(len(places))
    parts = [
        _pairs(results, annotations, detections_of[i["id"]], objects_of[i["id"]], task, i)
        for i in images
    ]
    detection, object_, box_iou, iou = np.concatenate([np.zeros((4, 0)), *parts], axis=1)
    pair_detection, pair_object = rank[detection.astype(np.int64)], object_.astype(np.int64)
    by_rank = np.lexsort((pair_object, pair_detection))
    ordered = [results[place] for place in places]
    return Overlaps(
        class_names=tuple(str(c.get("name", c["id"])) for c in categories),
        detection_class=np.array([class_of[r["category_id"]] for r in ordered], dtype=np.int64),
        detection_image=np.array([image_of[r["image_id"]] for r in ordered], dtype=np.int64),
        detection_area=np.array([r["bbox"][2] * r["bbox"][3] for r in ordered], dtype=float),
        detection_score=scores[order],
        detection_place=places,
        object_image=np.array([image_of[a["image_id"]] for a in annotations], dtype=np.int64),
        object_box=np.array([a["bbox"] for a in annotations], dtype=float).reshape(-1, 4),
        object_class=np.array([class_of[a["category_id"]] for a in annotations], dtype=np.int64),
        object_area=np.array([a["area"] for a in annotations], dtype=float),
        object_crowd=np.array([a.get("iscrowd", 0) for a in annotations], dtype=bool),
        pair_detection=pair_detection[by_rank],
        pair_object=pair_object[by_rank],
        box_iou=box_iou[by_rank],
        iou=iou[by_rank],
    )


def _check(
    results: Sequence[Record], images: Mapping[Any, int], classes: Mapping[Any, int]
) -> None:
    for key, known, what in (("image_id", images, "image"), ("category_id", classes, "category")):
        strangers = {result[key] for result in results} - known.keys()
        if strangers:
            raise DatasetError(
                f"results of {what} {sorted(strangers, key=str)[0]!r}, which the ground truth "
                "lacks; give the ground truth and the results of the same evaluation"
            )


def _by_image(records: Sequence[Record]) -> dict[Any, list[int]]:
    places: dict[Any, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        places[record["image_id"]].append(place)
    return places


def _pairs(
    results: Sequence[Record],
    annotations: Sequence[Record],
    detections: Sequence[int],
    objects: Sequence[int],
    task: str,
    image: Record,
) -> np.ndarray:
    """(4, P) of one image: detection, object, IoU of boxes, IoU of the task."""
    if not detections or not objects:
        return np.zeros((4, 0))
    crowd = [int(annotations[o].get("iscrowd", 0)) for o in objects]
    boxes = mask_util.iou(
        np.array([results[d]["bbox"] for d in detections], dtype=float),
        np.array([annotations[o]["bbox"] for o in objects], dtype=float),
        crowd,
    )
    rows, columns = np.nonzero(boxes)
    overlap = boxes
    if task == "segm" and len(rows):
        # What overlaps nothing needs no mask; most detections of a bad model are so.
        some_rows, some_columns = np.unique(rows), np.unique(columns)
        overlap = np.zeros_like(boxes)
        overlap[np.ix_(some_rows, some_columns)] = mask_util.iou(
            [results[detections[row]]["segmentation"] for row in some_rows],
            [_run_lengths(annotations[objects[c]]["segmentation"], image) for c in some_columns],
            [crowd[c] for c in some_columns],
        )
    found = np.array(detections)[rows], np.array(objects)[columns]
    return np.stack([*found, boxes[rows, columns], overlap[rows, columns]])


def _run_lengths(segmentation: Any, image: Record) -> Record:
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        merged: Record = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
        return merged
    if isinstance(segmentation["counts"], list):
        compressed: Record = mask_util.frPyObjects(segmentation, height, width)
        return compressed
    return dict(segmentation)
