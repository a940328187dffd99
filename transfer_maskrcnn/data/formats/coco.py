"""COCO json: images, annotations and categories in one file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import few

from .assemble import assemble
from .base import LoadedDataset, LoadReport, Place, RawImage, RawInstance, Reason
from .files import (
    check_classes,
    choose_classes,
    existing,
    list_counts,
    need,
    read_json,
    wrong_kind,
    wrong_type,
)


def load_coco_json(
    annotations: str | Path, image_root: str | Path, *, classes: Sequence[str] | None = None
) -> LoadedDataset:
    """Load a COCO json file.

    Polygons, compressed and uncompressed RLE; crowd regions are kept, with ``iscrowd`` 1. Image ids
    are the file's. ``file_name`` is relative to ``image_root``. An annotation's ``area`` is kept
    where it is within half and twice the area of the mask.

    Args:
        annotations: the json file.
        image_root: the folder of the images.
        classes: category names, in the order wanted; categories may be missing from it only where
            no annotation uses them. Default: the file's categories, ordered by their id.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, duplicate
            image ids, categories that annotations use but the file or ``classes`` lacks, and where
            no image can be used.
    """
    wanted = check_classes(classes)
    path = existing(annotations, "annotation file", "file")
    root = existing(image_root, "image_root", "folder")
    source = str(path)
    data = read_json(path)
    if not isinstance(data, dict) or "images" not in data or "annotations" not in data:
        raise wrong_kind(data, source, "a COCO json")
    report = LoadReport()
    images = parse_images(data, str(root), source)
    usage = count_categories(data, source)
    names = parse_categories(data, usage, source, report)
    parse_annotations(data, images, names, source, report)
    labels = Counter({names[category]: count for category, count in usage.items()})
    chosen = tuple(names.values()) if wanted is None else choose_classes(labels, wanted, source)
    return assemble(
        [images[key] for key in sorted(images)],
        classes=chosen,
        category_ids=_category_ids(chosen, names),
        source=source,
        report=report,
    )


def parse_images(data: dict[str, Any], image_root: str, source: str) -> dict[int, RawImage]:
    """Image id -> image, without its instances. Size is what the file states, where it does."""
    images: dict[int, RawImage] = {}
    ids: Counter[int] = Counter()
    for k, record in enumerate(need(data, "images", list, source, "the file")):
        place = f"images[{k}]"
        image_id = need(record, "id", int, source, place)
        file_name = need(record, "file_name", str, source, place)
        size = None
        if record.get("height") is not None and record.get("width") is not None:
            height = need(record, "height", int, source, place)
            size = (height, need(record, "width", int, source, place))
        ids[image_id] += 1
        images[image_id] = RawImage(os.path.join(image_root, file_name), image_id, stated_size=size)
    repeated = [f"{image_id} ({count} times)" for image_id, count in ids.items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{source}: image ids that are not unique: {few(repeated, 20)}. "
            "Give each image its own id, and its annotations the same as image_id"
        )
    return images


def count_categories(data: dict[str, Any], source: str) -> Counter[int]:
    """How many annotations use each category id."""
    return Counter(
        need(record, "category_id", int, source, f"annotations[{k}]")
        for k, record in enumerate(need(data, "annotations", list, source, "the file"))
    )


def parse_annotations(
    data: dict[str, Any],
    images: dict[int, RawImage],
    names: dict[int, str],
    source: str,
    report: LoadReport,
) -> None:
    """Hang every annotation on its image; those of unknown images are counted as left out."""
    seen: set[int | str] = set()
    for k, record in enumerate(data["annotations"]):
        here = ("annotations", k)
        place = f"annotations[{k}]"
        image_id = need(record, "image_id", int, source, place)
        annotation_id = record.get("id")
        if isinstance(annotation_id, (int, str)):
            if annotation_id in seen:
                report.repair(Reason.DUPLICATE_ID, Place("", *here, f"id {annotation_id}"))
            seen.add(annotation_id)
        if image_id in images:
            label = names[int(record["category_id"])]
            instance = _parse_annotation(record, label, source, Place("", *here))
            images[image_id].instances.append(instance)
            if instance.polygons and instance.polygons is not record["segmentation"]:
                report.repair(Reason.NESTED, Place(images[image_id].file_name, *here))
        else:
            report.instances_read += 1
            report.leave_out(Reason.UNKNOWN_IMAGE, Place("", *here, f"image_id {image_id}"))


def _parse_annotation(record: dict[str, Any], label: str, source: str, place: Place) -> RawInstance:
    iscrowd = record.get("iscrowd", 0)
    if iscrowd not in (0, 1):
        raise wrong_type(iscrowd, int, source, f"{place}.iscrowd")
    instance = RawInstance(
        place, label, bbox_xywh=record.get("bbox"), states_bbox=True, iscrowd=int(iscrowd)
    )
    instance.area = record.get("area")
    segmentation = record.get("segmentation")
    if segmentation in (None, [], {}):
        instance.problem = Reason.NO_MASK
    elif isinstance(segmentation, dict):
        instance.rle = segmentation
    elif isinstance(segmentation, list):
        instance.polygons = unnested(segmentation)
    else:
        instance.problem = Reason.BAD_COORDINATES
    return instance


def unnested(segmentation: list[Any]) -> list[Any]:
    """The polygons of a segmentation, also of one that lacks the outer list, or pairs its numbers.

    COCO's ``[[x, y, ...], ...]`` comes back as the same object.
    """
    if all(type(value) in (int, float) for value in segmentation):
        return [segmentation]
    if all(isinstance(p, list) and p and all(_is_pair(q) for q in p) for p in segmentation):
        return [[value for pair in polygon for value in pair] for polygon in segmentation]
    return segmentation


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def parse_categories(
    data: dict[str, Any], usage: Counter[int], source: str, report: LoadReport
) -> dict[int, str]:
    """Category id -> name, by rising id; every id in ``usage`` is there, every name once.

    Of two categories with one name, one that no annotation uses is dropped (Roboflow writes such a
    supercategory).
    """
    names: dict[int, str] = {}
    for k, record in enumerate(need(data, "categories", list, source, "the file")):
        category = need(record, "id", int, source, f"categories[{k}]")
        name = need(record, "name", str, source, f"categories[{k}]")
        if names.setdefault(category, name) != name:
            raise DatasetError(
                f"{source}: category id {category} is both {names[category]!r} and {name!r}; "
                "give each category its own id"
            )
    unknown = {str(category): count for category, count in usage.items() if category not in names}
    if unknown:
        raise DatasetError(
            f"{source}: annotations use category ids that 'categories' lacks: "
            f"{list_counts(unknown)}. Add them to 'categories', whose ids are {sorted(names)[:100]}"
        )
    return _without_duplicates(dict(sorted(names.items())), usage, source, report)


def _without_duplicates(
    names: dict[int, str], usage: Counter[int], source: str, report: LoadReport
) -> dict[int, str]:
    kept: dict[str, int] = {}
    for category, name in names.items():
        other = kept.setdefault(name, category)
        if other == category:
            continue
        if usage[category] and usage[other]:
            raise DatasetError(
                f"{source}: categories {other} and {category} are both named {name!r}; "
                "rename one, or give their annotations one category_id"
            )
        report.repair(Reason.DUPLICATE_CATEGORY, Place(note=repr(name)))
        if usage[category]:
            kept[name] = category
    return {category: name for category, name in names.items() if kept[name] == category}


def _category_ids(classes: tuple[str, ...], names: dict[int, str]) -> tuple[int, ...]:
    """The file's id of each class; classes that the file lacks get ids above all of the file's."""
    ids = {name: category for category, name in names.items()}
    unused = max(ids.values(), default=0) + 1
    for name in classes:
        if name not in ids:
            ids[name] = unused
            unused += 1
    return tuple(ids[name] for name in classes)
