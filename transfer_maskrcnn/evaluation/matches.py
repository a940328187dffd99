"""What COCO's matching found, per image: enough to recompute AP for any resample of the images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer_maskrcnn.errors import DatasetError, TransferError, refuse
from transfer_maskrcnn.files import read_json

GEOMETRY = {"bbox": "bbox", "segm": "segmentation"}
#: COCO's area range "all", in square pixels
ALL_SIZES = {"all": [0.0, 1e10]}


@dataclass(frozen=True, eq=False)
class Matches:
    """One model's detections on one data set, matched to its ground truth as COCO does.

    With N images, K categories, T IoU thresholds and D detections. The detections stand in the
    order in which COCO adds them up: by category, then score descending; equal scores by image.
    """

    iou_type: str
    #: a digest of images, categories and annotations
    ground_truth: str
    image_ids: np.ndarray  # (N,) ascending
    category_ids: np.ndarray  # (K,) ascending
    iou_thresholds: np.ndarray  # (T,)
    objects: np.ndarray  # (K, N) ground truths that count: neither crowd nor ignored
    category: np.ndarray  # (D,) row of ``objects``
    image: np.ndarray  # (D,) column of ``objects``
    score: np.ndarray  # (D,)
    matched: np.ndarray  # (T, D) bool: to any ground truth, a crowd too
    ignored: np.ndarray  # (T, D) bool: neither right nor wrong


def require_same_ground_truth(matches: Iterable[Matches]) -> None:
    """Let only matches pass that can be compared image by image.

    Raises:
        TransferError: they differ in images, categories, annotations or IoU type.
    """
    first: Matches | None = None
    for other in matches:
        first = first or other
        refuse(
            (
                other.iou_type != first.iou_type,
                f"matches of IoU type {other.iou_type!r} beside {first.iou_type!r}; compare "
                "matches of one type",
            ),
            (
                other.ground_truth != first.ground_truth,
                f"matches of two ground truths: one with {_size(first)}, one with {_size(other)}, "
                "or other annotations; evaluate all runs on the same validation set",
            ),
            error=TransferError,
        )


def _size(matches: Matches) -> str:
    return f"{len(matches.image_ids)} images and {int(matches.objects.sum())} objects"


def match_detections(
    ground_truth: Path, results: Path, iou_type: str, max_dets: int = 100
) -> Matches:
    """Match detections to ground truth as COCO does, over all object sizes.

    Args:
        ground_truth: a COCO json; InstanceEvaluator writes one.
        results: a COCO results json; an empty list, or no such file, is a model that detects
            nothing.
        iou_type: "bbox" or "segm".
        max_dets: how many detections of a category count in an image, those of highest score.

    Raises:
        TransferError: a file is not what it should be, the results are of other images, or another
            ``iou_type``.
    """
    truth, detections = read_json(ground_truth, dict), read_json(results, list, [])
    try:
        return match(truth, detections, iou_type, max_dets)
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{results}, or {ground_truth.name}, which it is matched to, is not a file of an "
            f"evaluation ({type(error).__name__}: {error}); evaluate again"
        ) from error


def match(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_type: str, max_dets: int
) -> Matches:
    """As :func:`match_detections`, of what such files hold."""
    return gather(evaluate(truth, results, iou_type, [max_dets], ALL_SIZES), truth, iou_type)


def evaluate(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    max_dets: Sequence[int],
    areas: Mapping[str, list[float]] | None = None,
    image_ids: Iterable[Any] | None = None,
) -> Any:
    """COCOeval after ``evaluate``: hotcoco's or, where that cannot be imported, pycocotools'.

    They are equal to the bit. In the one that comes back images have their places by rising id as
    ids, and annotations and detections their places from 1 on. Nothing is printed.

    Args:
        truth: COCO ground truth; stays as it is, as do the results.
        results: COCO results: "bbox" as XYWH in pixels, for "segm" RLEs under "segmentation".
        iou_type: "bbox" or "segm".
        max_dets: limits of detections an image and category.
        areas: size -> from and to, in square pixels; None: COCO's four.
        image_ids: images to look at; None for all.

    Raises:
        DatasetError: results of an image or a category that the ground truth does not have.
    """
    ids = sorted(image["id"] for image in truth["images"])
    numbers = {image: number for number, image in enumerate(ids)}  # ids may be of any kind
    _check_known(results, "image_id", numbers)
    _check_known(results, "category_id", {c["id"] for c in truth["categories"]})
    keys = ("category_id", "score", GEOMETRY[iou_type])
    detections = [{"image_id": numbers[r["image_id"]], **{k: r[k] for k in keys}} for r in results]
    library = _library()
    with contextlib.redirect_stdout(io.StringIO()):
        reference = library.COCO()
        reference.dataset = {
            "images": [{**image, "id": numbers[image["id"]]} for image in truth["images"]],
            "categories": truth["categories"],
            "annotations": [
                {**a, "id": place, "image_id": numbers[a["image_id"]]}
                # where no image has an object, detectron2 leaves the key out
                for place, a in enumerate(truth.get("annotations", ()), 1)
            ],
        }
        reference.createIndex()
        # pycocotools' loadRes cannot read an empty list.
        found = reference.loadRes(detections) if detections else library.COCO()
        evaluation = library.COCOeval(reference, found, iou_type)
        params = evaluation.params
        params.maxDets = sorted(max_dets)
        params.catIds = sorted(c["id"] for c in truth["categories"])
        params.imgIds = sorted(numbers[i] for i in (ids if image_ids is None else image_ids))
        if areas is not None:
            params.areaRng, params.areaRngLbl = list(areas.values()), list(areas)
        evaluation.evaluate()
    return evaluation


def _library() -> Any:
    try:
        return import_module("hotcoco")
    except ImportError:  # there is no wheel for this platform
        return SimpleNamespace(COCO=COCO, COCOeval=COCOeval)


def _check_known(results: Sequence[Mapping[str, Any]], key: str, known: Collection[Any]) -> None:
    strangers = {result[key] for result in results}.difference(known)
    if strangers:
        raise DatasetError(
            f"results of {key.removesuffix('_id')} {sorted(strangers, key=str)[0]!r}, and "
            f"{len(strangers) - 1} more, that the ground truth does not have; give the ground "
            "truth and the results of the same evaluation"
        )


def _digest(truth: Mapping[str, Any]) -> str:
    """Of what matching reads; file names and the date of writing may differ."""
    parts = [
        [image["id"] for image in truth["images"]],
        [category["id"] for category in truth["categories"]],
        truth.get("annotations", []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def gather(evaluation: Any, truth: Mapping[str, Any], iou_type: str) -> Matches:
    params = evaluation.params
    image_ids = np.array(sorted(image["id"] for image in truth["images"]))
    row = {category: place for place, category in enumerate(params.catIds)}
    objects = np.zeros((len(row), len(image_ids)), dtype=np.int64)
    # None: neither ground truth nor detection
    per_image = [found for found in evaluation.evalImgs if found is not None]
    places = [(row[found["category_id"]], found["image_id"]) for found in per_image]
    for place, found in zip(places, per_image, strict=True):
        objects[place] = len(found["gtIgnore"]) - sum(found["gtIgnore"])
    times = [len(found["dtScores"]) for found in per_image]
    category, image = np.repeat(np.array(places, dtype=np.int64).reshape(-1, 2), times, axis=0).T
    score = np.fromiter(chain.from_iterable(found["dtScores"] for found in per_image), float)
    order = np.lexsort((image, -score, category))  # stable, as COCO's mergesort is

    def flags(key: str) -> np.ndarray:
        of_thresholds = range(len(params.iouThrs))
        values = [list(chain.from_iterable(f[key][t] for f in per_image)) for t in of_thresholds]
        return np.array(values, dtype=bool)[:, order]

    return Matches(
        iou_type=iou_type,
        ground_truth=_digest(truth),
        image_ids=image_ids,
        category_ids=np.array(params.catIds),
        iou_thresholds=np.array(params.iouThrs),
        objects=objects,
        category=category[order],
        image=image[order],
        score=score[order],
        matched=flags("dtMatches"),
        ignored=flags("dtIgnore"),
    )
