"""Predictions on a few validation images, for TensorBoard."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.events import EventStorage

from transfer_maskrcnn.inference.drawing import draw_detections
from transfer_maskrcnn.inference.predictor import Detection

logger = logging.getLogger(__name__)

_IMAGES = 4  # of each dataset: those with the most objects, the same at every evaluation
_MIN_SCORE = 0.5
_LONGEST_SIDE = 640  # pixels


def put_sample_pictures(storage: EventStorage, output_dir: str, datasets: Sequence[str]) -> None:
    """Give ``storage`` pictures of what the last evaluation found, named ``dataset/file``.

    Args:
        output_dir: of the run; evaluation has written ground truth and results below it.
        datasets: the test sets. A warning names one that cannot be drawn, and why.
    """
    for dataset in datasets:
        try:
            pictures = _pictures(Path(output_dir, "inference", dataset), dataset)
        except Exception as error:  # training is worth more than its pictures
            logger.warning("no pictures of %s: %s: %s", dataset, type(error).__name__, error)
            continue
        for name, picture in pictures.items():
            storage.put_image(name, np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)))


def _pictures(folder: Path, dataset: str) -> dict[str, np.ndarray]:
    """``dataset/file`` -> (height, width, 3), BGR; none where no evaluation left its files."""
    truth_file = folder / f"{dataset}_ground_truth.json"
    results_file = folder / "coco_instances_results.json"
    if not (truth_file.is_file() and results_file.is_file()):  # an evaluator of another kind
        return {}
    truth = json.loads(truth_file.read_text("utf-8"))
    results = json.loads(results_file.read_text("utf-8"))
    classes = list(MetadataCatalog.get(dataset).thing_classes)
    found = {}
    for image in _fullest(truth):
        detections = [r for r in results if r["image_id"] == image["id"]]
        name = f"{dataset}/{os.path.basename(image['file_name'])}"
        found[name] = _picture(image, detections, _numbers(truth), classes)
    return found


def _fullest(truth: dict[str, Any]) -> list[dict[str, Any]]:
    objects = Counter(a["image_id"] for a in truth.get("annotations", ()))
    images: list[dict[str, Any]] = truth["images"]
    return sorted(images, key=lambda image: -objects[image["id"]])[:_IMAGES]


def _numbers(truth: dict[str, Any]) -> dict[int, int]:
    """Category id -> number of the class."""
    return {category["id"]: k for k, category in enumerate(truth["categories"])}


def _picture(
    image: dict[str, Any],
    results: Sequence[dict[str, Any]],
    numbers: dict[int, int],
    classes: Sequence[str],
) -> np.ndarray:
    """(height, width, 3), BGR."""
    detections = [
        Detection(numbers[r["category_id"]], r["score"], tuple(r["bbox"]), r.get("segmentation"))
        for r in results
        if r["score"] > _MIN_SCORE and r["category_id"] in numbers
    ]
    pixels = read_image(image["file_name"], "BGR")
    drawn = draw_detections(pixels, sorted(detections, key=lambda d: -d.score), classes)
    scale = min(1.0, _LONGEST_SIDE / max(drawn.shape[:2]))
    return cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
