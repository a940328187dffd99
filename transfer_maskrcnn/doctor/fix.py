"""A repaired copy of a dataset in COCO json, with a list of all that differs from the original."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.export.base import new_folder
from transfer_maskrcnn.data.export.coco import fill_coco_folder
from transfer_maskrcnn.data.export.images import CopiedImages
from transfer_maskrcnn.data.export.masks import (
    Segmentation,
    as_rle,
    encloses,
    segmentation_area,
    segmentation_box,
)
from transfer_maskrcnn.data.export.outline import mask_to_simple_polygons
from transfer_maskrcnn.data.formats.base import WORDS, LoadedDataset, Reason
from transfer_maskrcnn.data.formats.bitmasks import rle_area, rle_to_mask
from transfer_maskrcnn.files import write_text

from .instances import crosses_itself

_SAME_MASK = 0.999  # IoU above which two instances are one
_SAME_AREA = 0.01  # of the mask's area
_SAME_BOX = 1.0  # pixels: tools round their boxes, or cut off the fractions


@dataclass(frozen=True)
class Change:
    """One difference between a dataset and its repaired copy.

    ``image`` is a file, ``place`` where in its annotations; either may be empty. ``what`` says what
    was wrong. ``before`` and ``after`` are values of the annotation, in pixels; ``before`` is None
    where the loader set it right, so that only the original has it, ``after`` is None for what the
    copy lacks.
    """

    image: str
    place: str
    what: str
    before: Any
    after: Any


def repair(dataset: LoadedDataset, out: Path) -> list[Change]:
    """Write a repaired copy of ``dataset`` into the new folder ``out``; the original is only read.

    The folder has the files of the ``coco`` exporter and ``changes.json``, the changes that are
    returned. On top of what the loader left out and mended: polygons that cross themselves are
    replaced by the outline of the mask that training would see; of instances of one class with one
    mask, the first stays; boxes and areas become those of the mask. Repaired again, the copy does
    not change.

    Raises DatasetError where ``out`` is anything but missing or empty.
    """
    changes = [*_of_loader(dataset)]
    records = []
    matching = len(dataset.places) == len(dataset.dicts)  # a cached dataset has no places
    total = len(dataset.dicts)
    for index, record in enumerate(progress(dataset.dicts, "repairing", total)):
        count = len(record["annotations"])
        numbered = [f"instance {number}" for number in range(1, count + 1)]
        records.append(
            _mend_record(
                record, [p.where for p in dataset.places[index]] if matching else numbered, changes
            )
        )
    counts = tuple(len(record["annotations"]) for record in records)
    mended = replace(dataset, dicts=records, instances=counts, places=())
    with new_folder(out) as folder:
        changes += _of_images(fill_coco_folder(mended, folder, out))
        lines = ",\n".join(json.dumps(asdict(change)) for change in changes)
        write_text(folder / "changes.json", f"[\n{lines}\n]\n")
    return changes


def _of_loader(dataset: LoadedDataset) -> Iterator[Change]:
    """What the loader left out and mended; of a reason with very many, those whose place is known,
    and the number of the others."""
    report = dataset.report
    lost = [*report.images_left_out.items(), *report.left_out.items()]
    for counts, after in ((lost, None), (list(report.repaired.items()), "set right")):
        for reason, count in counts:
            places = report.places.get(reason, [])
            for place in places:
                yield Change(place.image, str(place._replace(image="")), WORDS[reason], None, after)
            # all instances of a left-out image have one place
            if count > len(places) and reason != Reason.IN_LEFT_OUT_IMAGE:
                yield Change("", f"{count - len(places)} more", WORDS[reason], None, after)


def _of_images(copied: CopiedImages) -> Iterator[Change]:
    for source, name in zip(copied.sources, copied.names, strict=True):
        why = copied.saved_anew.get(source)
        if why or Path(source).name != name:
            what = f"image {why}" if why else "two images of one name"
            yield Change(source, "", what, Path(source).name, f"{name}, upright" if why else name)


def _mend_record(
    record: dict[str, Any], places: Sequence[str], changes: list[Change]
) -> dict[str, Any]:
    """A copy of a record with its annotations set right; ``changes`` grows by what was done."""
    height, width, image = record["height"], record["width"], record["file_name"]
    annotations: list[dict[str, Any]] = []
    for annotation, place in zip(record["annotations"], places, strict=True):
        segmentation, what = _valid(annotation["segmentation"], height, width)
        found = [(what, annotation["segmentation"], segmentation)] if what else []
        found += _measures(annotation, segmentation, height, width)
        changes += [Change(image, place, *difference) for difference in found]
        annotations.append({**annotation, "segmentation": segmentation})
    doubles = _duplicates(annotations, height, width)
    for later, first in doubles.items():
        what = f"duplicate of {places[first]}"
        changes.append(Change(image, places[later], what, annotations[later]["segmentation"], None))
    kept = [annotation for k, annotation in enumerate(annotations) if k not in doubles]
    return {**record, "annotations": kept}


def _valid(segmentation: Segmentation, height: int, width: int) -> tuple[Segmentation, str]:
    """Polygons that cross neither themselves nor enclose another area than their mask covers; and
    what was wrong, or "". A mask without any pixel is left alone."""
    if isinstance(segmentation, dict):
        return segmentation, ""
    rle = as_rle(segmentation, height, width)
    pixels = rle_area(rle)
    if any(map(crosses_itself, segmentation)):
        what = "polygon that crosses itself"
    elif not encloses(segmentation, pixels):
        what = "polygons that overlap"
    else:
        return segmentation, ""
    outlines = mask_to_simple_polygons(rle_to_mask(rle))
    return (outlines, what) if outlines else (segmentation, "")


def _measures(
    annotation: dict[str, Any], segmentation: Segmentation, height: int, width: int
) -> list[tuple[str, Any, Any]]:
    """(what, before, after) of an area and a box that are not the mask's."""
    found: list[tuple[str, Any, Any]] = []
    area, stated = segmentation_area(segmentation, height, width), annotation.get("area")
    if stated is not None and abs(stated - area) > _SAME_AREA * area:
        found.append(("area that is not the mask's", stated, area))
    x, y, box_width, box_height = segmentation_box(segmentation)
    before, after = list(annotation["bbox"]), [x, y, x + box_width, y + box_height]
    if max(abs(a - b) for a, b in zip(before, after, strict=True)) > _SAME_BOX:
        found.append(("box (x0, y0, x1, y1) that is not around the mask", before, after))
    return found


def _duplicates(annotations: list[dict[str, Any]], height: int, width: int) -> dict[int, int]:
    """Index of each instance that has the class and the mask of an earlier one -> the earlier."""
    rles = [as_rle(annotation["segmentation"], height, width) for annotation in annotations]
    if len(rles) < 2:
        return {}
    same = mask_util.iou(rles, rles, [0] * len(rles)) > _SAME_MASK
    doubles: dict[int, int] = {}
    for later, first in zip(*same.nonzero(), strict=True):
        keys = [(annotations[k]["category_id"], annotations[k]["iscrowd"]) for k in (first, later)]
        if first < later and first not in doubles and keys[0] == keys[1]:
            doubles.setdefault(int(later), int(first))
    return doubles
