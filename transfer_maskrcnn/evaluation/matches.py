"""What COCO's matching found, per image: enough to recompute AP for any resample of the images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer_maskrcnn.errors import DatasetError, TransferError
from transfer_maskrcnn.files import atomic_path

GEOMETRY = {"bbox": "bbox", "segm": "segmentation"}
#: COCO's area range "all", in square pixels
ALL_AREAS = [0, 1e10]


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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file, whole or not at all."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Matches:
        """Read what ``save`` wrote.

        Raises:
            TransferError: the file is missing, cut off, or no such file.
        """
        if not os.path.exists(path):
            raise TransferError(f"{path}: no such file; write it with Matches.save first")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays: dict[str, Any] = {f.name: stored[f.name] for f in fields(cls)}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise TransferError(
                f"{path}: damaged, or not a file of matches ({error}); delete it, and match the "
                "detections afresh"
            ) from error
        for text in ("iou_type", "ground_truth"):
            arrays[text] = str(arrays[text])
        return cls(**arrays)


def require_same_ground_truth(matches: Iterable[Matches]) -> None:
    """Let only matches pass that can be compared image by image.

    Raises:
        TransferError: they differ in images, categories, annotations or IoU type.
    """
    first: Matches | None = None
    for other in matches:
        first = first or other
        if other.iou_type != first.iou_type:
            raise TransferError(
                f"matches of IoU type {other.iou_type!r} beside {first.iou_type!r}; compare "
                "matches of one type"
            )
        if other.ground_truth != first.ground_truth:
            raise TransferError(
                f"matches of two ground truths: one with {_size(first)}, one with {_size(other)}, "
                "or other annotations; evaluate all runs on the same validation set"
            )


def _size(matches: Matches) -> str:
    return f"{len(matches.image_ids)} images and {int(matches.objects.sum())} objects"


def match_detections(
    ground_truth: Path, results: Path, iou_type: str, max_dets: int = 100
) -> Matches:
    """Match detections to ground truth with pycocotools' COCOeval, over all object sizes.

    Args:
        ground_truth: a COCO json; InstanceEvaluator writes one.
        results: a COCO results json; an empty list, or no such file, is a model that detects
            nothing.
        iou_type: "bbox" or "segm".
        max_dets: how many detections of a category count in an image, those of highest score.

    Raises:
        DatasetError: a file is not what it should be, or the results are of other images.
        TransferError: another ``iou_type``.
    """
    if iou_type not in GEOMETRY:
        raise TransferError(f"IoU type {iou_type!r}: expected one of {', '.join(GEOMETRY)}")
    truth = _read_ground_truth(ground_truth)
    detections = _read_results(results, GEOMETRY[iou_type]) if results.exists() else []
    digest = _digest(truth)  # first: COCOeval writes its own entries into the annotations
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(truth, detections, results, iou_type, max_dets)
    return _gather(evaluation, iou_type, digest)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as JSON ({error}); evaluate again") from error


def _read_ground_truth(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    if not isinstance(content, dict) or not {"images", "categories"} <= content.keys():
        raise DatasetError(
            f"{path}: expected a COCO ground truth with 'images' and 'categories'; name the file "
            "that evaluation wrote"
        )
    # convert_to_coco_dict leaves the key out where no image has an object.
    return {"annotations": [], **content}


def _read_results(path: Path, geometry: str) -> list[dict[str, Any]]:
    content = _read_json(path)
    needed = {"image_id", "category_id", "score", geometry}
    if not isinstance(content, list) or not all(
        isinstance(d, dict) and needed <= d.keys() for d in content
    ):
        raise DatasetError(
            f"{path}: expected a list of COCO results, each with {', '.join(sorted(needed))}; name "
            "the file that evaluation wrote"
        )
    return content


def _digest(truth: dict[str, Any]) -> str:
    """Of what matching reads; file names and the date of writing may differ."""
    parts = [
        [image["id"] for image in truth["images"]],
        [category["id"] for category in truth["categories"]],
        truth["annotations"],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _evaluate(
    truth: dict[str, Any],
    detections: list[dict[str, Any]],
    results: Path,
    iou_type: str,
    max_dets: int,
) -> COCOeval:
    reference = COCO()
    reference.dataset = truth
    reference.createIndex()
    strangers = {d["image_id"] for d in detections} - reference.imgs.keys()
    if strangers:
        raise DatasetError(
            f"{results}: detections in image {sorted(strangers, key=str)[0]!r}, which the ground "
            "truth lacks; give the results of the same evaluation"
        )
    # loadRes cannot read an empty list.
    found = reference.loadRes(detections) if detections else COCO()
    evaluation = COCOeval(reference, found, iou_type)
    evaluation.params.areaRng = [ALL_AREAS]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    return evaluation


def _gather(evaluation: COCOeval, iou_type: str, digest: str) -> Matches:
    params = evaluation.params
    shape = (len(params.catIds), len(params.imgIds))
    thresholds = len(params.iouThrs)
    objects = np.zeros(shape, dtype=np.int64)
    # An empty start, so that there is something to join where no image has a detection.
    places, scores = [np.zeros((2, 0), dtype=np.int64)], [np.zeros(0)]
    matched = [np.zeros((thresholds, 0), dtype=bool)]
    ignored = [np.zeros((thresholds, 0), dtype=bool)]
    for place, found in zip(np.ndindex(shape), evaluation.evalImgs, strict=True):
        if found is None:  # neither ground truth nor detection
            continue
        objects[place] = np.count_nonzero(found["gtIgnore"] == 0)
        places.append(np.repeat(np.array([place]).T, len(found["dtScores"]), axis=1))
        scores.append(np.array(found["dtScores"], dtype=float))
        matched.append(found["dtMatches"].astype(bool))
        ignored.append(found["dtIgnore"].astype(bool))
    (category, image), score = np.concatenate(places, axis=1), np.concatenate(scores)
    order = np.lexsort((-score, category))  # stable, as COCO's mergesort is
    return Matches(
        iou_type=iou_type,
        ground_truth=digest,
        image_ids=np.array(params.imgIds),
        category_ids=np.array(params.catIds),
        iou_thresholds=np.array(params.iouThrs),
        objects=objects,
        category=category[order],
        image=image[order],
        score=score[order],
        matched=np.concatenate(matched, axis=1)[:, order],
        ignored=np.concatenate(ignored, axis=1)[:, order],
    )
