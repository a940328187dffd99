"""labelme: a json file beside each image. https://github.com/wkentaro/labelme"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.masks import rle_to_mask
from transfer_maskrcnn.files import write_text

from .base import ExportReport, copy_images, count_instances, crowd_notes, new_folder, write_catalog

_VERSION = "5.4.1"  # of labelme; the first number is what it compares with its own


def export_labelme(dataset: LoadedDataset, out: Path) -> ExportReport:
    """Write ``images/``, with the json files in it, and ``catalog.yaml`` into the new folder
    ``out``; ``labelme out/images`` opens them.

    Raises DatasetError where ``out`` is anything but missing or empty.
    """
    with new_folder(out) as folder:
        (folder / "images").mkdir()
        sources = [record["file_name"] for record in dataset.dicts]
        copied = copy_images(sources, lambda stem: folder / "images")
        for record, name in zip(dataset.dicts, copied.names, strict=True):
            document = labelme_document({**record, "file_name": name}, dataset.classes)
            path = folder / "images" / f"{Path(name).stem}.json"
            write_text(path, json.dumps(document, indent=1) + "\n")
        paths = {"annotations": "images", "image_root": "images"}
        write_catalog(folder, out, "labelme", dataset.classes, **paths)
    notes = (*crowd_notes(dataset, "labelme"), *copied.notes())
    return ExportReport(len(dataset.dicts), count_instances(dataset), notes)


def labelme_document(record: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The content of the labelme json that lies beside the image of one detectron2 record.

    Polygons become polygon shapes, those of one instance with a ``group_id`` of their own; RLE
    becomes a mask shape, exact to the pixel. An RLE without a pixel has no shape. Where an
    annotation has a ``score``, the shape's description shows it.
    """
    shapes: list[dict[str, Any]] = []
    for number, annotation in enumerate(record["annotations"], start=1):
        label = classes[annotation["category_id"]]
        score = annotation.get("score")
        common = {
            "label": label,
            "description": "" if score is None else f"score {score:.3f}",
            "flags": {},
        }
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            shapes += [{**common, **shape} for shape in _mask_shapes(rle_to_mask(segmentation))]
            continue
        group = number if len(segmentation) > 1 else None
        shapes += [{**common, **_polygon_shape(part, group)} for part in segmentation]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(record["file_name"]).name,
        "imageData": None,
        "imageHeight": record["height"],
        "imageWidth": record["width"],
    }


def _polygon_shape(polygon: Sequence[float], group: int | None) -> dict[str, Any]:
    points = np.asarray(polygon, dtype=float).reshape(-1, 2).tolist()
    return {"points": points, "group_id": group, "shape_type": "polygon", "mask": None}


def _mask_shapes(mask: np.ndarray) -> list[dict[str, Any]]:
    """The one shape of a mask: a PNG of its box, whose last row and column ``points`` include."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return []
    x0, y0, x1, y1 = (int(value) for value in (xs[0], ys[0], xs[-1], ys[-1]))
    file = io.BytesIO()
    # bool, so that the PNG has one bit a pixel: labelme indexes an array with what it decodes
    Image.fromarray(mask[y0 : y1 + 1, x0 : x1 + 1]).save(file, "PNG")
    return [
        {
            "points": [[float(x0), float(y0)], [float(x1), float(y1)]],
            "group_id": None,
            "shape_type": "mask",
            "mask": base64.b64encode(file.getvalue()).decode("ascii"),
        }
    ]
