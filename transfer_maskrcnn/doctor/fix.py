"""A repaired copy of a dataset in COCO json, with a list of all that differs from the original."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.export.base import fill_folder, new_folder
from transfer_maskrcnn.data.export.documents import fill_coco
from transfer_maskrcnn.data.export.masks import (
    Segmentation,
    as_rle,
    encloses,
    mask_to_simple_polygons,
    segmentation_area,
)
from transfer_maskrcnn.data.formats.base import WORDS, LoadedDataset, Place, Reason
from transfer_maskrcnn.data.formats.masks import box_of, clean_rle, rle_area, rle_to_mask
from transfer_maskrcnn.doctor.images import SAME, Record, crosses_itself, overlaps
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import write_text

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
    None for what the copy lacks. ``count`` is above 1 for a place that stands
    for others, too.
    """

    image: str
    place: str
    kind: str
    before: Any = None
    after: Any = None
    count: int = 1


def repair(dataset: LoadedDataset, out: Path) -> list[Change]:
    """Write a repaired copy of ``dataset`` into the new folder ``out``; the original is only read.

    The folder has the files of the ``coco`` exporter and ``changes.json``, the changes that are
    returned. On top of what the loader left out and mended: polygons that cross themselves are
    replaced by the outline of the mask that training would see; of instances of one class with one
    mask, the first stays; boxes and areas become those of the mask; what has no mask is left out.
    Repaired again, the copy does not change.

    Raises DatasetError where ``out`` is anything but missing or empty.
    """
    if count := dataset.report.doubted[Reason.MASK_OFF]:
        raise DatasetError(
            f"{count} {WORDS[Reason.MASK_OFF]}: which are right has to be seen (--html). Set masks "
            "or boxes right in the annotations first; a copy would hide that they disagree"
        )
    # All instances of a left-out image have one place.
    changes = [
        Change(
            *(place.image, str(place._replace(image="")), reason.value),
            after=_NEVER_READ if reason in dataset.report.repaired else None,
            count=1 if reason is Reason.IN_LEFT_OUT_IMAGE else count,
        )
        for reason, place, count in dataset.report.losses()
        if reason not in dataset.report.doubted
    ]
    records = []
    for index, record in enumerate(progress(dataset.dicts, "repairing", len(dataset.dicts))):
        there = dataset.places[index] if dataset.places else ()  # another package's set has none
        records.append(_mend_record(record, there, changes))
    instances = tuple(len(record["annotations"]) for record in records)
    mended = replace(dataset, dicts=records, instances=instances, places=())
    with new_folder(out) as folder:
        copied = fill_folder("coco", fill_coco, mended, folder, out).copied
        for source, name in zip(copied.sources, copied.names, strict=True):
            kind = "image_saved_anew" if source in copied.saved_anew else "image_renamed"
            before = Path(source).name
            if kind == "image_saved_anew" or before != name:
                changes.append(Change(source, "", kind, before, name))
        words = _WORDS | {reason.value: text for reason, text in WORDS.items()}
        lines = ",\n".join(json.dumps({**asdict(c), "what": words[c.kind]}) for c in changes)
        write_text(folder / "changes.json", f"[\n{lines}\n]\n")
    return changes


def _mend_record(record: Record, there: Sequence[Place], changes: list[Change]) -> Record:
    """A copy of a record with its annotations set right; ``changes`` grows by what was done."""
    height, width, image = record["height"], record["width"], record["file_name"]
    kept: list[tuple[str, Record]] = []
    for k, annotation in enumerate(record["annotations"]):
        place = there[k].where if there else f"instance {k + 1}"
        if not annotation.get("segmentation"):  # of a set that another package registered
            changes.append(Change(image, place, Reason.NO_MASK.value))
            continue
        segmentation, found = _mended(annotation, height, width)
        changes += [Change(image, place, *difference) for difference in found]
        kept.append((place, {**annotation, "segmentation": segmentation}))
    keys = [(annotation["category_id"], annotation["iscrowd"]) for _, annotation in kept]
    rles = [as_rle(annotation["segmentation"], height, width) for _, annotation in kept]
    doubles = {later for later, first, _ in overlaps(rles, SAME) if keys[later] == keys[first]}
    for later in sorted(doubles):
        place, annotation = kept[later]
        changes.append(Change(image, place, "duplicate", annotation["segmentation"]))
    left = [annotation for k, (_, annotation) in enumerate(kept) if k not in doubles]
    return {**record, "annotations": left}


def _mended(
    annotation: Record, height: int, width: int
) -> tuple[Segmentation, list[tuple[str, Any, Any]]]:
    """Polygons that cross neither themselves nor enclose another area than their mask covers, or a
    compressed RLE; and (kind, before, after) of what was wrong, in area and box too. A mask without
    any pixel is left alone."""
    found: list[tuple[str, Any, Any]] = []
    before = segmentation = annotation["segmentation"]
    if isinstance(before, dict):
        segmentation = clean_rle(before, height, width)[0] or before
    else:
        rle = as_rle(before, height, width)
        crosses = any(map(crosses_itself, before))
        if crosses or not encloses(before, rle_area(rle)):
            segmentation = mask_to_simple_polygons(rle_to_mask(rle)) or before
        if segmentation is not before:
            found.append(("self_crossing" if crosses else "overlapping", before, segmentation))
    area, stated = segmentation_area(segmentation, height, width), annotation.get("area")
    if stated is not None and abs(stated - area) > _SAME_AREA * area:
        found.append(("area_wrong", stated, area))
    box, around = list(annotation["bbox"]), box_of(segmentation)
    if max(abs(a - b) for a, b in zip(box, around, strict=True)) > _SAME_BOX:
        found.append(("box_off", box, around))
    return segmentation, found
