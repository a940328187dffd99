"""Predictions on a few validation images, for TensorBoard."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.events import EventStorage

from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.inference.drawing import draw_detections
from transfer_maskrcnn.inference.results import Detection

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
            for name, picture in _pictures(Path(output_dir, "inference", dataset), dataset):
                storage.put_image(name, picture)
        except Exception as error:  # training is worth more than its pictures
            logger.warning("no pictures of %s: %s: %s", dataset, type(error).__name__, error)


def _pictures(folder: Path, dataset: str) -> Iterator[tuple[str, np.ndarray]]:
    """``dataset/file`` and its pixels, (3, height, width), RGB."""
    truth = read_json(folder / f"{dataset}_ground_truth.json", dict, {"images": []})
    results = read_json(folder / "coco_instances_results.json", list, [])
    objects = Counter(a["image_id"] for a in truth.get("annotations", ()))
    numbers = {c["id"]: number for number, c in enumerate(truth.get("categories", ()))}
    for image in sorted(truth["images"], key=lambda image: -objects[image["id"]])[:_IMAGES]:
        found = [
            Detection(
                numbers[r["category_id"]], r["score"], tuple(r["bbox"]), r.get("segmentation")
            )
            for r in sorted(results, key=lambda r: -r["score"])
            if r["image_id"] == image["id"] and r["score"] > _MIN_SCORE
        ]
        pixels = read_image(image["file_name"], "BGR")
        drawn = draw_detections(pixels, found, MetadataCatalog.get(dataset).thing_classes)
        scale = min(1.0, _LONGEST_SIDE / max(drawn.shape[:2]))
        small = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        name = f"{dataset}/{os.path.basename(image['file_name'])}"
        yield name, np.ascontiguousarray(small[..., ::-1].transpose(2, 0, 1))
