"""A repaired copy of a dataset in COCO json, with a list of all that differs from the original."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.export.base import fill_folder, new_folder
from transfer_maskrcnn.data.export.documents import fill_coco
from transfer_maskrcnn.data.export.masks import (
    Segmentation,
    as_rle,
    encloses,
    mask_to_simple_polygons,
    segmentation_area,
    segmentation_box,
)
from transfer_maskrcnn.data.formats.base import WORDS, LoadedDataset, LoadReport, Reason
from transfer_maskrcnn.data.formats.masks import clean_rle, rle_area, rle_to_mask
from transfer_maskrcnn.files import write_text

from .images import crosses_itself

_SAME_MASK = 0.999  # IoU above which two instances are one
_SAME_AREA = 0.01  # of the mask's area
_SAME_BOX = 1.0  # pixels: tools round their boxes, or cut off the fractions

# What was wrong, by code; those of the loader are its own.
_WORDS = {
    "area_wrong": "area that is not the mask's",
    "box_off": "box (x0, y0, x1, y1) that is not around the mask",
    "self_crossing": "polygon that crosses itself",
    "overlapping": "polygons that overlap",
    "duplicate": "instance that is there twice",
    "image_saved_anew": "image that had to be saved anew",
    "image_renamed": "two images of one name",
}
_NEVER_READ = "set right"  # only the original file has the value


@dataclass(frozen=True)
class Change:
    """One difference between a dataset and its repaired copy.

    ``image`` is a file, ``place`` where in its annotations; either may be empty. ``kind`` is a code
    and ``what`` its words. ``before`` and ``after`` are values of the annotation, in pixels;
    ``before`` is None where the loader set it right, so that only the original has it, ``after`` is
    None for what the copy lacks. ``count`` is above 1 where single places are not known.
    """

    image: str
    place: str
    kind: str
    before: Any = None
    after: Any = None
    count: int = 1

    @property
    def what(self) -> str:
        return _WORDS.get(self.kind) or WORDS[Reason(self.kind)]


def repair(dataset: LoadedDataset, out: Path) -> list[Change]:
    """Write a repaired copy of ``dataset`` into the new folder ``out``; the original is only read.

    The folder has the files of the ``coco`` exporter and ``changes.json``, the changes that are
    returned. On top of what the loader left out and mended: polygons that cross themselves are
    replaced by the outline of the mask that training would see; of instances of one class with one
    mask, the first stays; boxes and areas become those of the mask; what has no mask is left out.
    Repaired again, the copy does not change.

    Raises DatasetError where ``out`` is anything but missing or empty.
    """
    changes = [*_of_loader(dataset.report)]
    records = []
    for index, record in enumerate(progress(dataset.dicts, "repairing", len(dataset.dicts))):
        there = dataset.places[index] if dataset.places else ()  # a cached dataset has none
        names = [place.where for place in there]
        names = names or [f"instance {k}" for k in range(1, len(record["annotations"]) + 1)]
        records.append(_mend_record(record, names, changes))
    counts = tuple(len(record["annotations"]) for record in records)
    mended = replace(dataset, dicts=records, instances=counts, places=())
    with new_folder(out) as folder:
        copied = fill_folder("coco", fill_coco, mended, folder, out).copied
        for source, name in zip(copied.sources, copied.names, strict=True):
            kind = "image_saved_anew" if source in copied.saved_anew else "image_renamed"
            before = Path(source).name
            if kind == "image_saved_anew" or before != name:
                changes.append(Change(source, "", kind, before, name))
        lines = ",\n".join(json.dumps({**asdict(c), "what": c.what}) for c in changes)
        write_text(folder / "changes.json", f"[\n{lines}\n]\n")
    return changes


def _of_loader(report: LoadReport) -> Iterator[Change]:
    """What the loader left out and mended; of a reason with very many, those whose place is known,
    and the number of the others."""
    lost = report.images_left_out | report.left_out
    for counts, after in ((lost, None), (report.repaired, _NEVER_READ)):
        for reason, count in counts.items():
            places = report.places.get(reason, [])
            for place in places:
                where = str(place._replace(image=""))
                yield Change(place.image, where, reason.value, None, after)
            # all instances of a left-out image have one place
            if count > len(places) and reason is not Reason.IN_LEFT_OUT_IMAGE:
                yield Change("", "", reason.value, None, after, count - len(places))


def _mend_record(
    record: dict[str, Any], places: Sequence[str], changes: list[Change]
) -> dict[str, Any]:
    """A copy of a record with its annotations set right; ``changes`` grows by what was done."""
    height, width, image = record["height"], record["width"], record["file_name"]
    kept: list[tuple[str, dict[str, Any]]] = []
    for annotation, place in zip(record["annotations"], places, strict=True):
        before = annotation.get("segmentation")
        if not before:  # of a set that another package registered
            changes.append(Change(image, place, Reason.NO_MASK.value))
            continue
        segmentation, kind = _valid(before, height, width)
        found = [(kind, before, segmentation)] if kind else []
        found += _measures(annotation, segmentation, height, width)
        changes += [Change(image, place, *difference) for difference in found]
        kept.append((place, {**annotation, "segmentation": segmentation}))
    doubles = _duplicates([annotation for _, annotation in kept], height, width)
    for later in doubles:
        place, annotation = kept[later]
        changes.append(Change(image, place, "duplicate", annotation["segmentation"]))
    left = [annotation for k, (_, annotation) in enumerate(kept) if k not in doubles]
    return {**record, "annotations": left}


def _valid(segmentation: Any, height: int, width: int) -> tuple[Segmentation, str]:
    """Polygons that cross neither themselves nor enclose another area than their mask covers, or a
    compressed RLE; and what was wrong, or "". A mask without any pixel is left alone."""
    if isinstance(segmentation, dict):
        return clean_rle(segmentation, height, width)[0] or segmentation, ""
    rle = as_rle(segmentation, height, width)
    if any(map(crosses_itself, segmentation)):
        kind = "self_crossing"
    elif not encloses(segmentation, rle_area(rle)):
        kind = "overlapping"
    else:
        return segmentation, ""
    outlines = mask_to_simple_polygons(rle_to_mask(rle))
    return (outlines, kind) if outlines else (segmentation, "")


def _measures(
    annotation: dict[str, Any], segmentation: Segmentation, height: int, width: int
) -> list[tuple[str, Any, Any]]:
    """(kind, before, after) of an area and a box that are not the mask's."""
    found: list[tuple[str, Any, Any]] = []
    area, stated = segmentation_area(segmentation, height, width), annotation.get("area")
    if stated is not None and abs(stated - area) > _SAME_AREA * area:
        found.append(("area_wrong", stated, area))
    x, y, box_width, box_height = segmentation_box(segmentation)
    before, after = list(annotation["bbox"]), [x, y, x + box_width, y + box_height]
    if max(abs(a - b) for a, b in zip(before, after, strict=True)) > _SAME_BOX:
        found.append(("box_off", before, after))
    return found


def _duplicates(annotations: list[dict[str, Any]], height: int, width: int) -> set[int]:
    """The instances that have the class and the mask of an earlier one."""
    rles = [as_rle(annotation["segmentation"], height, width) for annotation in annotations]
    if len(rles) < 2:
        return set()
    same = mask_util.iou(rles, rles, [0] * len(rles)) > _SAME_MASK
    keys = [(annotation["category_id"], annotation["iscrowd"]) for annotation in annotations]
    doubles: set[int] = set()
    for later, first in np.argwhere(same).tolist():
        if first < later and first not in doubles and keys[first] == keys[later]:
            doubles.add(later)
    return doubles
