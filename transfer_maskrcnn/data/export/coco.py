"""COCO json: the one format here that holds all that a dataset has, crowd flags included."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.files import write_text

from .base import (
    CopiedImages,
    ExportReport,
    copy_images,
    count_instances,
    new_folder,
    write_catalog,
)
from .masks import segmentation_area, segmentation_box


def export_coco(dataset: LoadedDataset, out: Path) -> ExportReport:
    """Write ``annotations.json``, ``images/`` and ``catalog.yaml`` into the new folder ``out``.

    Raises DatasetError where ``out`` is anything but missing or empty.
    """
    with new_folder(out) as folder:
        copied = fill_coco_folder(dataset, folder, out)
    notes = tuple(copied.notes())
    return ExportReport(len(dataset.dicts), count_instances(dataset), notes)


def fill_coco_folder(
    dataset: LoadedDataset, folder: Path, out: str | os.PathLike[str]
) -> CopiedImages:
    """Write the files of a COCO dataset, which will be named after ``out``, into ``folder``."""
    (folder / "images").mkdir()
    sources = [record["file_name"] for record in dataset.dicts]
    copied = copy_images(sources, lambda stem: folder / "images")
    write_text(folder / "annotations.json", json.dumps(coco_document(dataset, copied.names)))
    paths = {"annotations": "annotations.json", "image_root": "images"}
    write_catalog(folder, out, "coco", dataset.classes, **paths)
    return copied


def coco_document(dataset: LoadedDataset, file_names: Sequence[str]) -> dict[str, Any]:
    """The content of a COCO json; ``file_names[i]`` is the name that image ``i`` has in it.

    Image and category ids are the dataset's, annotation ids run from 1. Masks stay as they are,
    polygons or compressed RLE; ``bbox`` (x, y, width, height) and ``area`` are those of the mask,
    whatever the dataset says.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record, file_name in zip(dataset.dicts, file_names, strict=True):
        height, width = record["height"], record["width"]
        image = {"id": record["image_id"], "file_name": file_name}
        images.append({**image, "height": height, "width": width})
        for annotation in record["annotations"]:
            segmentation = annotation["segmentation"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": dataset.category_ids[annotation["category_id"]],
                    "segmentation": segmentation,
                    "bbox": segmentation_box(segmentation),
                    "area": segmentation_area(segmentation, height, width),
                    "iscrowd": int(annotation["iscrowd"]),
                }
            )
    categories = [
        {"id": number, "name": name}
        for number, name in zip(dataset.category_ids, dataset.classes, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
