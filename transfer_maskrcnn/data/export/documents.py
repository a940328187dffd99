"""The formats that are text: one json of COCO's, which holds all that a dataset has, crowd flags
included; one of labelme's beside each image (https://github.com/wkentaro/labelme); or YOLO
segmentation in Ultralytics' layout: a data.yaml, and a text file of labels an image.

https://docs.ultralytics.com/datasets/segment/: one line an instance, so one closed line an
instance; several parts, and holes, are joined into it by bridges of no width.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.masks import polygons_to_rle, rle_to_mask
from transfer_maskrcnn.data.formats.rings import join_rings
from transfer_maskrcnn.files import write_text
from transfer_maskrcnn.text import plural

from .base import Filled, copy_images, image_files, write_yaml
from .masks import (
    Segmentation,
    as_rle,
    drop_collinear,
    editable_polygons,
    segmentation_area,
    segmentation_box,
    trace_rings,
)

COCO_FILE = "annotations/instances_default.json"
_LABELME_VERSION = "5.4.1"  # the first number is what labelme compares with its own
_PARTS = "of several parts became one line, its parts joined by bridges of no width"
_HOLES = "with holes became one line, the holes cut in by bridges of no width"
_OVERLAPS = "with parts that overlap became the outline of its pixels"
SAME_IMAGES = "train and val in data.yaml are the same images: name others as val to measure AP."


def fill_coco(dataset: LoadedDataset, folder: Path) -> Filled:
    """COCO's own layout, which datumaro asks for: ``annotations/instances_*.json``, ``images/``."""
    copied = copy_images(image_files(dataset), lambda stem: folder / "images")
    document = coco_document(copied.named(dataset), dataset.classes, dataset.category_ids)
    (folder / "annotations").mkdir()
    write_text(folder / COCO_FILE, json.dumps(document))
    return Filled(copied, {"annotations": COCO_FILE, "image_root": "images"})


def fill_labelme(dataset: LoadedDataset, folder: Path, masks: bool = False) -> Filled:
    """``images/`` with the json files in it; ``labelme out/images`` opens them."""
    copied = copy_images(image_files(dataset), lambda stem: folder / "images")
    for record, stem in zip(copied.named(dataset), copied.stems, strict=True):
        text = json.dumps(labelme_document(record, dataset.classes, masks), indent=1) + "\n"
        write_text(folder / "images" / f"{stem}.json", text)
    return Filled(copied, {"format": "labelme", "annotations": "images", "image_root": "images"})


def coco_document(
    records: Sequence[dict[str, Any]],
    classes: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The content of a COCO json.

    Args:
        records: detectron2's; ``file_name`` and ``image_id`` are written as they are. Masks stay
            polygons or compressed RLE; ``bbox`` (x, y, width, height) and ``area`` are those of the
            mask, whatever a record says. Annotation ids run from 1.
        classes: in the order of ``category_id``.
        category_ids: their ids in the file; None: 1 to K.
    """
    ids = category_ids or range(1, len(classes) + 1)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], "file_name": record["file_name"], **size})
        for annotation in record["annotations"]:
            segmentation = annotation["segmentation"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": ids[annotation["category_id"]],
                    "segmentation": segmentation,
                    "bbox": segmentation_box(segmentation),
                    "area": segmentation_area(segmentation, **size),
                    "iscrowd": int(annotation["iscrowd"]),
                }
            )
    categories = [{"id": k, "name": name} for k, name in zip(ids, classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def labelme_document(
    record: dict[str, Any], classes: Sequence[str], masks: bool = False
) -> dict[str, Any]:
    """The content of the labelme json that lies beside the image of one detectron2 record.

    Polygons become polygon shapes, those of one instance with a ``group_id`` of their own. RLE
    becomes polygons of few points, its holes cut in by bridges of no width, IoU 0.98 or more; or,
    where ``masks``, a mask shape: exact to the pixel, but labelme moves no point of it. An RLE
    without a pixel has no shape. Where an annotation has a ``score``, the shape's description shows
    it.
    """
    shapes: list[dict[str, Any]] = []
    for number, annotation in enumerate(record["annotations"], start=1):
        score, segmentation = annotation.get("score"), annotation["segmentation"]
        if masks and isinstance(segmentation, dict):
            drawn = _mask_shapes(rle_to_mask(segmentation))
        else:
            if isinstance(segmentation, dict):
                segmentation = editable_polygons(rle_to_mask(segmentation))
            group = number if len(segmentation) > 1 else None
            drawn = [
                {
                    "points": np.reshape(part, (-1, 2)).astype(float).tolist(),
                    "group_id": group,
                    "shape_type": "polygon",
                    "mask": None,
                }
                for part in segmentation
            ]
        common = {
            "label": classes[annotation["category_id"]],
            "description": "" if score is None else f"score {score:.3f}",
            "flags": {},
        }
        shapes += [{**common, **shape} for shape in drawn]
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(record["file_name"]).name,
        "imageData": None,
        "imageHeight": record["height"],
        "imageWidth": record["width"],
    }


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


def fill_yolo(dataset: LoadedDataset, folder: Path) -> Filled:
    """``data.yaml``, ``images/`` and ``labels/``.

    ``train`` and ``val``, which Ultralytics both asks for, are the same images.
    """
    counts: Counter[str] = Counter()
    (folder / "labels").mkdir()
    copied = copy_images(image_files(dataset), lambda stem: folder / "images")
    for record, stem in zip(dataset.dicts, copied.stems, strict=True):
        lines = _label_lines(record, counts)
        write_text(folder / "labels" / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
    content = {"train": "images", "val": "images", "names": dict(enumerate(dataset.classes))}
    write_yaml(folder / "data.yaml", content)
    notes = [f"{plural(count, 'instance')} {what}." for what, count in sorted(counts.items())]
    entry = {"annotations": "data.yaml", "split": "train"}
    return Filled(copied, entry, [*notes, SAME_IMAGES])


def _label_lines(record: dict[str, Any], counts: Counter[str]) -> list[str]:
    """One line an instance: class number, then x y of each point in fractions of the image."""
    height, width = record["height"], record["width"]
    lines = []
    for annotation in record["annotations"]:
        ring = single_ring(annotation["segmentation"], height, width, counts)
        shares = _fractions(ring, np.array([width, height], dtype=np.float64))
        numbers = map(repr, shares.reshape(-1).tolist())
        lines.append(" ".join([str(annotation["category_id"]), *numbers]))
    return lines


def _fractions(ring: np.ndarray, size: np.ndarray) -> np.ndarray:
    """``ring / size``, to the last bit such that their product is rasterised as ``ring`` is.

    pycocotools rounds to fifths of a pixel. Of a coordinate halfway between two, as 50.1 is, the
    last bit decides, and a small instance may lose half of its pixels.
    """
    fifths = np.floor(ring * 5 + 0.5)
    shares = ring / size
    for nearby in (np.nextafter(shares, 0), np.nextafter(shares, 1)):
        differs = np.floor(shares * size * 5 + 0.5) != fifths
        shares = np.where(differs, nearby, shares)
    return shares


def single_ring(
    segmentation: Segmentation, height: int, width: int, counts: Counter[str]
) -> np.ndarray:
    """The outline of a mask as one closed line, (N, 2) in pixels, which fills to the same mask.

    ``counts`` learns what had to be joined.
    """
    if isinstance(segmentation, dict):
        return _traced(segmentation, counts)
    parts = [np.asarray(part, dtype=float).reshape(-1, 2) for part in segmentation]
    if len(parts) == 1:
        return parts[0]
    rle = as_rle(segmentation, height, width)
    joined = join_rings(parts)
    if polygons_to_rle([joined.reshape(-1).tolist()], height, width) == rle:
        counts[_PARTS] += 1
        return joined
    counts[_OVERLAPS] += 1  # where two cover a pixel, the joined line would leave it out
    return _traced(rle, counts)


def _traced(rle: dict[str, Any], counts: Counter[str]) -> np.ndarray:
    pieces = trace_rings(rle_to_mask(rle))
    joined = {_PARTS: len(pieces) > 1, _HOLES: any(len(piece) > 1 for piece in pieces)}
    counts.update(what for what, is_so in joined.items() if is_so)
    return drop_collinear(join_rings([ring for piece in pieces for ring in piece]))
