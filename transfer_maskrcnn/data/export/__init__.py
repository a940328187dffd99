"""One module a format that datasets can be written in; what is written, our loaders read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transfer_maskrcnn.data.formats.base import LoadedDataset

from .base import ExportReport
from .coco import coco_document, export_coco
from .labelme import export_labelme, labelme_document
from .masks import mask_to_polygons
from .png_masks import export_png_masks
from .yolo import export_yolo

EXPORTERS: dict[str, Callable[[LoadedDataset, Path], ExportReport]] = {
    "coco": export_coco,
    "yolo": export_yolo,
    "labelme": export_labelme,
    "png_masks": export_png_masks,
}

__all__ = [
    "EXPORTERS",
    "ExportReport",
    "coco_document",
    "labelme_document",
    "mask_to_polygons",
]
