"""Annotation files in, detectron2 dataset dicts and a report of losses out.

Nothing here prints, logs or registers; a format that is added needs a parser and a line below.
"""

from __future__ import annotations

from collections.abc import Callable

from .base import LoadedDataset, LoadReport, MaskFormat
from .coco import load_coco_json
from .labelme_via import load_labelme_json, load_via_json
from .png_masks import load_png_masks
from .yolo import load_yolo

FORMATS: dict[str, Callable[..., LoadedDataset]] = {
    "coco": load_coco_json,
    "via": load_via_json,
    "labelme": load_labelme_json,
    "yolo": load_yolo,
    "png_masks": load_png_masks,
}

__all__ = [
    "FORMATS",
    "LoadReport",
    "LoadedDataset",
    "MaskFormat",
    "load_coco_json",
    "load_labelme_json",
    "load_png_masks",
    "load_via_json",
    "load_yolo",
]
