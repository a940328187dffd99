"""Masks as PNG files, in the layouts that the loader of ``png_masks`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.masks import is_empty, mask_to_rle, rle_area, rle_to_mask
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import plural

from .base import (
    CopiedImages,
    ExportReport,
    copy_images,
    count_instances,
    crowd_notes,
    distinct_stems,
    new_folder,
    write_catalog,
)
from .masks import as_rle, segmentation_box

_MOST_VALUES = 65_535  # of a 16-bit PNG, 0 being the background
_SMALL = "{} that covered no pixel's centre became one pixel."
_EMPTY = (
    "{} without objects got an empty mask, since the layout cannot do without: the loader counts "
    "it as an instance left out."
)


def export_png_masks(dataset: LoadedDataset, out: Path) -> ExportReport:
    """Write images, masks and ``catalog.yaml`` into the new folder ``out``.

    One class: a folder per sample, with ``samples/a/images/a.jpg`` and a binary
    ``samples/a/masks/1.png`` for each instance; that layout cannot say that an image has no
    objects, so where some have none, and no instances overlap, one indexed PNG an image,
    ``masks/a.png``, whose values number the instances. Several classes: one indexed PNG an image
    whose values are the classes.

    Raises:
        DatasetError: ``out`` is anything but missing or empty, or the dataset does not fit: several
            classes with instances that touch, overlap, or have several parts.
    """
    records = [{**record, "rles": _rles(record)} for record in dataset.dicts]
    empty = sum(not record["rles"] for record in records)
    by_class = len(dataset.classes) > 1
    in_samples = not by_class and (empty == 0 or any(map(_overlap, records)))
    with new_folder(out) as folder:
        if in_samples:
            copied = _write_samples(records, folder / "samples")
            paths = {"annotations": "samples", "image_root": "samples"}
        else:
            copied = _write_indexed(records, folder, by_class)
            values = "class" if by_class else "instance"
            paths = {"annotations": "masks", "image_root": "images", "pixel_values": values}
        write_catalog(folder, out, "png_masks", dataset.classes, **paths)
    small = sum(
        is_empty(as_rle(annotation["segmentation"], record["height"], record["width"]))
        for record in records
        for annotation in record["annotations"]
    )
    notes = crowd_notes(dataset, "png_masks") + copied.notes()
    notes += [_SMALL.format(plural(small, "instance"))] if small else []
    notes += [_EMPTY.format(plural(empty, "image"))] if in_samples and empty else []
    return ExportReport(len(records), count_instances(dataset), tuple(notes))


def _rles(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The mask of every instance, each of at least one pixel."""
    height, width = record["height"], record["width"]
    rles = []
    for annotation in record["annotations"]:
        rle = as_rle(annotation["segmentation"], height, width)
        if is_empty(rle):
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


def _write_samples(records: list[dict[str, Any]], samples: Path) -> CopiedImages:
    sources = [record["file_name"] for record in records]
    copied = copy_images(sources, lambda stem: samples / stem / "images")
    for record, stem in zip(records, copied.stems, strict=True):
        folder = samples / stem / "masks"
        folder.mkdir()
        masks = [rle_to_mask(rle) for rle in record["rles"]]
        for number, mask in enumerate(masks or [np.zeros((record["height"], record["width"]))], 1):
            _save(mask.astype(np.uint8) * 255, folder / f"{number}.png")
    return copied


def _write_indexed(records: list[dict[str, Any]], folder: Path, by_class: bool) -> CopiedImages:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    sources = [record["file_name"] for record in records]
    for record, stem in zip(records, distinct_stems(sources), strict=True):
        canvas = _by_class(record) if by_class else _by_instance(record)
        _save(canvas, folder / "masks" / f"{stem}.png")
    return copy_images(sources, lambda stem: folder / "images")  # last: masks may not fit


def _by_instance(record: dict[str, Any]) -> np.ndarray:
    """(height, width) uint16: the number of the instance, from 1, or 0. None overlap."""
    if len(record["rles"]) > _MOST_VALUES:
        raise _unfit(record, f"has more instances than a PNG has values, {_MOST_VALUES}")
    canvas = np.zeros((record["height"], record["width"]), dtype=np.uint16)
    for number, rle in enumerate(record["rles"], start=1):
        canvas[rle_to_mask(rle)] = number
    return canvas


def _by_class(record: dict[str, Any]) -> np.ndarray:
    """(height, width) uint16: the number of the class, from 1, or 0.

    Raises DatasetError where the regions of a class are not its instances.
    """
    canvas = np.zeros((record["height"], record["width"]), dtype=np.uint16)
    if _overlap(record):
        raise _unfit(record, "has instances that overlap")
    classes = [annotation["category_id"] + 1 for annotation in record["annotations"]]
    for rle, value in zip(record["rles"], classes, strict=True):
        mask = rle_to_mask(rle)
        if cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] > 2:
            raise _unfit(record, "has an instance of several parts")
        canvas[mask] = value
    for value in set(classes):
        regions = cv2.connectedComponents((canvas == value).astype(np.uint8), connectivity=8)[0]
        if regions - 1 != classes.count(value):  # one of them is the background
            raise _unfit(record, "has instances of one class that touch")
    return canvas


def _unfit(record: dict[str, Any], why: str) -> DatasetError:
    return DatasetError(
        f"png_masks cannot hold this dataset: {record['file_name']} {why}. Of several classes, "
        "each connected region of one PNG an image is an instance; write the dataset as coco "
        "instead, which holds everything"
    )


def _save(values: np.ndarray, path: Path) -> None:
    Image.fromarray(values).save(path, "PNG")
