"""Masks as PNG files, in the layouts that the loader of ``png_masks`` reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.masks import labels_to_rles, mask_to_rle, rle_area, rle_to_mask
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import plural

from .base import CopiedImages, Filled, copy_images, distinct_stems, image_files
from .masks import as_rle, segmentation_box

_SMALL = "{} that covered no pixel's centre became one pixel."
_EMPTY = (
    "{} without objects got an empty mask, since the layout cannot do without: the loader counts "
    "it as an instance left out."
)


def fill_png_masks(dataset: LoadedDataset, folder: Path) -> Filled:
    """Images and masks.

    One class: a folder per sample, with ``samples/a/images/a.jpg`` and a binary
    ``samples/a/masks/1.png`` for each instance; that layout cannot say that an image has no
    objects, so where some have none, and no instances overlap, one indexed PNG an image,
    ``masks/a.png``, whose values number the instances. Several classes: one indexed PNG an image
    whose values are the classes.

    Raises:
        DatasetError: the dataset does not fit: several classes with instances that touch, overlap,
            or have several parts.
    """
    counts: Counter[str] = Counter()
    records = [{**record, "rles": _rles(record, counts)} for record in dataset.dicts]
    empty = sum(not record["rles"] for record in records)
    by_class = len(dataset.classes) > 1
    notes = [_SMALL.format(plural(n, "instance")) for n in counts.values()]
    if not by_class and (empty == 0 or any(map(_overlap, records))):
        notes += [_EMPTY.format(plural(empty, "image"))] if empty else []
        copied = _write_samples(dataset, records, folder / "samples")
        return Filled(copied, {"annotations": "samples", "image_root": "samples"}, notes)
    (folder / "masks").mkdir()
    for record, stem in zip(records, distinct_stems(image_files(dataset)), strict=True):
        canvas = _numbered(record, by_class)
        if by_class:
            _check_regions(record, canvas)
        Image.fromarray(canvas).save(folder / "masks" / f"{stem}.png")
    copied = copy_images(
        image_files(dataset), lambda stem: folder / "images"
    )  # last: masks may not fit
    values = "class" if by_class else "instance"
    entry = {"annotations": "masks", "image_root": "images", "pixel_values": values}
    return Filled(copied, entry, notes)


def _rles(record: dict[str, Any], counts: Counter[str]) -> list[dict[str, Any]]:
    """The mask of every instance, each of at least one pixel; ``counts`` learns of smaller ones."""
    height, width = record["height"], record["width"]
    rles = []
    for annotation in record["annotations"]:
        rle = as_rle(annotation["segmentation"], height, width)
        if rle_area(rle) == 0:
            counts[_SMALL] += 1
            x, y, box_width, box_height = segmentation_box(annotation["segmentation"])
            mask = np.zeros((height, width), dtype=bool)
            column = min(int(x + box_width / 2), width - 1)
            mask[min(int(y + box_height / 2), height - 1), column] = True
            rle = mask_to_rle(mask)
        rles.append(rle)
    return rles


def _overlap(record: dict[str, Any]) -> bool:
    rles = record["rles"]
    return bool(rles) and rle_area(mask_util.merge(rles)) < sum(map(rle_area, rles))


def _write_samples(
    dataset: LoadedDataset, records: list[dict[str, Any]], samples: Path
) -> CopiedImages:
    copied = copy_images(image_files(dataset), lambda stem: samples / stem / "images")
    for record, stem in zip(records, copied.stems, strict=True):
        folder = samples / stem / "masks"
        folder.mkdir()
        masks = [rle_to_mask(rle) for rle in record["rles"]]
        for number, mask in enumerate(masks or [np.zeros((record["height"], record["width"]))], 1):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number}.png")
    return copied


def _numbered(record: dict[str, Any], by_class: bool) -> np.ndarray:
    """(height, width) uint16: the number of the class or the instance, from 1, or 0."""
    canvas = np.zeros((record["height"], record["width"]), dtype=np.uint16)
    for k, (rle, annotation) in enumerate(zip(record["rles"], record["annotations"], strict=True)):
        canvas[rle_to_mask(rle)] = 1 + (annotation["category_id"] if by_class else k)
    return canvas


def _check_regions(record: dict[str, Any], canvas: np.ndarray) -> None:
    """Raises DatasetError where the connected regions of the classes are not the instances."""
    found = []
    for value in np.unique(canvas[canvas > 0]):
        _, regions = cv2.connectedComponents((canvas == value).astype(np.uint8), connectivity=8)
        found += [rle["counts"] for rle in labels_to_rles(regions).values()]
    if sorted(found) != sorted(rle["counts"] for rle in record["rles"]):
        raise DatasetError(
            f"png_masks cannot hold this dataset: {record['file_name']} has instances that "
            "overlap, that touch one of the same class, or have several parts. Of several classes, "
            "each connected region of one PNG an image is an instance; write the dataset as coco "
            "instead, which holds everything"
        )
