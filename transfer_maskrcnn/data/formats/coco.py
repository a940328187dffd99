"""COCO json: images, annotations and categories in one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import few

from .assemble import Merge, assemble
from .base import LoadedDataset, LoadReport, Place, RawImage, RawInstance, Reason
from .files import (
    existing,
    list_counts,
    need,
    read_json,
    stated_size,
    wrong_kind,
    wrong_type,
)
from .names import ImageFolder


def load_coco_json(
    annotations: str | Path,
    image_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
) -> LoadedDataset:
    """Load a COCO json file.

    Polygons, compressed and uncompressed RLE; crowd regions are kept, with ``iscrowd`` 1. Image ids
    are the file's. ``file_name`` is relative to ``image_root``. An annotation's ``area`` is kept
    where it is within half and twice the area of the mask.

    Args:
        annotations: the json file.
        image_root: the folder of the images. Default: the one of the json file.
        classes: category names, in the order wanted; categories may be missing from it only where
            no annotation uses them. Default: the file's categories, ordered by their id.
        merge: class -> the categories that become it, which has the lowest of their ids.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, duplicate
            image ids, categories that annotations use but the file or ``classes`` lacks, and where
            no image can be used.
    """
    path = existing(annotations, "annotation file", "file")
    root = ImageFolder(image_root, path.parent)
    source = str(path)
    data = read_json(path)
    if not isinstance(data, dict) or "images" not in data or "annotations" not in data:
        raise wrong_kind(data, source, "a COCO json")
    report = LoadReport()
    images = parse_images(data, source)
    root.locate(list(images.values()))
    usage = Counter(
        need(record, "category_id", int, source, f"annotations[{k}]")
        for k, record in enumerate(need(data, "annotations", list, source, "the file"))
    )
    names = parse_categories(data, usage, source, report)
    parse_annotations(data, images, names, source, report)
    return assemble(
        [images[key] for key in sorted(images)],
        *(source, classes, merge),
        known={name: category for category, name in names.items()},
        used=Counter({names[category]: count for category, count in usage.items()}),
        report=report,
    )


def parse_images(data: dict[str, Any], source: str) -> dict[int, RawImage]:
    """Image id -> image, without its instances. Name and size are what the file states."""
    images: dict[int, RawImage] = {}
    ids: Counter[int] = Counter()
    for k, record in enumerate(need(data, "images", list, source, "the file")):
        place = f"images[{k}]"
        image_id = need(record, "id", int, source, place)
        file_name = record.get("file_name")
        ids[image_id] += 1
        size = stated_size(record, ("height", "width"), source, place)
        images[image_id] = RawImage(file_name, image_id, stated_size=size)
    repeated = [f"{image_id} ({count} times)" for image_id, count in ids.items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{source}: image ids that are not unique: {few(repeated, 20)}. "
            "Give each image its own id, and its annotations the same as image_id"
        )
    return images


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
        place = f"annotations[{k}]"
        image_id = need(record, "image_id", int, source, place)
        annotation_id = record.get("id")
        if isinstance(annotation_id, (int, str)):
            if annotation_id in seen:
                again = Place("", "annotations", k, f"id {annotation_id}")
                report.count(report.repaired, Reason.DUPLICATE_ID, again)
            seen.add(annotation_id)
        if record.get("iscrowd", 0) not in (0, 1):
            raise wrong_type(record["iscrowd"], int, source, f"{place}.iscrowd")
        image = images.get(image_id)
        if image is None:
            report.instances_read += 1
            at = Place("", "annotations", k, f"image_id {image_id}")
            report.count(report.left_out, Reason.UNKNOWN_IMAGE, at)
        else:
            label = names[int(record["category_id"])]
            here = Place(image.file_name, "annotations", k)
            image.instances.append(_parse_annotation(record, label, here))


def _parse_annotation(record: dict[str, Any], label: str, place: Place) -> RawInstance:
    instance = RawInstance(
        *(place, label),
        bbox_xywh=record.get("bbox"),
        states_bbox=True,
        area=record.get("area"),
        iscrowd=int(record.get("iscrowd", 0)),
    )
    segmentation = record.get("segmentation")
    if segmentation in (None, [], {}):
        instance.problem = Reason.NO_MASK
    elif isinstance(segmentation, dict):
        instance.rle = segmentation
    elif isinstance(segmentation, list):
        instance.polygons = unnested(segmentation)
        if instance.polygons is not segmentation:
            instance.repairs.append(Reason.NESTED)
    else:
        instance.problem = Reason.BAD_COORDINATES
    return instance


def unnested(segmentation: list[Any]) -> list[Any]:
    """The polygons of a segmentation, also of one that lacks the outer list, or pairs its numbers.

    COCO's ``[[x, y, ...], ...]`` comes back as the same object.
    """
    if all(type(value) in (int, float) for value in segmentation):
        return [segmentation]
    if all(
        isinstance(polygon, list)
        and polygon
        and all(isinstance(pair, list) and len(pair) == 2 for pair in polygon)
        for polygon in segmentation
    ):
        return [[value for pair in polygon for value in pair] for polygon in segmentation]
    return segmentation


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
        report.count(report.repaired, Reason.DUPLICATE_CATEGORY, Place(note=repr(name)))
        if usage[category]:
            kept[name] = category
    return {category: name for category, name in names.items() if kept[name] == category}
