"""The folder that predictions are written to."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from transfer_maskrcnn.data.export import labelme_document
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import atomic_path, write_json
from transfer_maskrcnn.inference.overlay import draw_detections
from transfer_maskrcnn.inference.predictor import Detection, Pixels

OVERLAY, JSON, MASKS, LABELME = "overlay", "json", "masks", "labelme"
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 93),
    # Thin coloured lines would bleed where colours have a quarter of the pixels.
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video, that was predicted on.

    Attributes:
        path: the file it is from.
        name: of what is written about it, without a suffix.
        pixels: (height, width, 3), BGR.
    """

    path: Path
    name: str
    pixels: Pixels


class OutputFolder:
    """Writes ``overlays/``, ``masks/`` and ``labelme/``, each file whole or not at all."""

    def __init__(self, folder: Path, classes: Sequence[str], kinds: Collection[str]):
        """
        Args:
            kinds: of OVERLAY, MASKS and LABELME, those wanted.
        """
        self.folder = folder
        self._classes = list(classes)
        self._kinds = frozenset(kinds)

    def write(self, picture: Picture, detections: Sequence[Detection]) -> None:
        """What is wanted of one image. Its detections are in its pixels, best first."""
        if OVERLAY in self._kinds:
            drawn = draw_detections(picture.pixels, detections, self._classes)
            write_image(self.folder / "overlays" / f"{picture.name}.jpg", drawn)
        if MASKS in self._kinds:
            self._write_masks(self.folder / "masks" / picture.name, detections)
        if LABELME in self._kinds:
            self._write_labelme(picture, detections)

    def _write_masks(self, folder: Path, detections: Sequence[Detection]) -> None:
        """One PNG an instance, 255 where it is, best first: ``001_cat_0.93.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, detection in enumerate(detections, 1):
            if detection.segmentation is None:
                continue
            name = re.sub(r"[^\w-]+", "_", self._classes[detection.class_index])
            mask = mask_util.decode(detection.segmentation) * np.uint8(255)
            write_image(folder / f"{number:03d}_{name}_{detection.score:.2f}.png", mask)

    def _write_labelme(self, picture: Picture, detections: Sequence[Detection]) -> None:
        folder = self.folder / "labelme"
        folder.mkdir(parents=True, exist_ok=True)
        height, width = picture.pixels.shape[:2]
        record = {
            "file_name": str(picture.path),
            "height": height,
            "width": width,
            "annotations": [_annotation(detection) for detection in detections],
        }
        document: dict[str, Any] = labelme_document(record, self._classes)
        relative = os.path.relpath(picture.path.resolve(), folder.resolve())
        document["imagePath"] = relative.replace(os.sep, "/")
        write_json(folder / f"{picture.name}.json", document)


def _annotation(detection: Detection) -> dict[str, Any]:
    x, y, width, height = detection.bbox
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "category_id": detection.class_index,
        "bbox": list(detection.bbox),
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": detection.segmentation or [corners],
        "score": detection.score,
    }


def write_image(path: Path, pixels: Pixels) -> None:
    """Write an image in the format of the suffix, whole or not at all.

    Raises:
        DatasetError: the format cannot hold it (a JPEG of over 65,500 pixels a side).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _, encoded = cv2.imencode(path.suffix, pixels, _JPEG if path.suffix == ".jpg" else [])
    except cv2.error as error:
        raise DatasetError(f"{path}: cannot be encoded: {' '.join(str(error).split())}") from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
