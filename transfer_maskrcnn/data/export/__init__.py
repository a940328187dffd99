"""The formats that datasets can be written in; what is written, our loaders read back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from transfer_maskrcnn.data.formats.base import LoadedDataset

from .base import export
from .documents import coco_document, fill_coco, fill_labelme, fill_yolo, labelme_document
from .png_masks import fill_png_masks

EXPORTERS: dict[str, Callable[[LoadedDataset, Path], list[str]]] = {
    "coco": partial(export, "coco", fill_coco),
    "yolo": partial(export, "yolo", fill_yolo),
    "labelme": partial(export, "labelme", fill_labelme),
    "labelme_masks": partial(export, "labelme_masks", partial(fill_labelme, masks=True)),
    "png_masks": partial(export, "png_masks", fill_png_masks),
}

__all__ = ["EXPORTERS", "coco_document", "labelme_document"]
