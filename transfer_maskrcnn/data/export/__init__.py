"""The formats that datasets can be written in; what is written, our loaders read back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from transfer_maskrcnn.data.formats.base import LoadedDataset

from .base import ExportReport, export
from .documents import coco_document, fill_coco, fill_labelme, labelme_document
from .png_masks import fill_png_masks
from .yolo import fill_yolo

EXPORTERS: dict[str, Callable[[LoadedDataset, Path], ExportReport]] = {
    "coco": partial(export, "coco", fill_coco),
    "yolo": partial(export, "yolo", fill_yolo),
    "labelme": partial(export, "labelme", fill_labelme),
    "png_masks": partial(export, "png_masks", fill_png_masks),
}

__all__ = ["EXPORTERS", "ExportReport", "coco_document", "labelme_document"]
