"""COCO json: images, annotations and categories in one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import few

from .assemble import Merge, assemble
from .base import LoadedDataset, LoadReport, Place, RawImage, RawInstance, Reason, is_panoptic
from .files import (
    clip,
    existing,
    list_counts,
    need,
    read_json,
    stated_size,
    wrong_kind,
)
from .masks import merge_rles
from .names import ImageFolder

Id = int | str
_CROWD: dict[Any, int] = {None: 0, "": 0, 0: 0, "0": 0, "false": 0, 1: 1, "1": 1, "true": 1}


def load_coco_json(
    annotations: str | Path,
    image_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
    crowds: str = "ignore",
) -> LoadedDataset:
    """Load a COCO json file.

    Polygons, compressed and uncompressed RLE; crowd regions are kept, with ``iscrowd`` 1. Image ids
    are the file's; where any is a text that is no number, they are numbered in order. ``file_name``
    is relative to ``image_root``. An annotation's ``area`` is kept where it is within half and
    twice the area of the mask, its ``bbox`` where it is around the mask.

    Args:
        annotations: the json file.
        image_root: the folder of the images. Default: the one of the json file.
        classes: category names, in the order wanted; categories may be missing from it only where
            no annotation uses them. Default: the file's categories, ordered by their id.
        merge: class -> the categories that become it, which has the lowest of their ids.
        crowds: "ignore": crowds are not trained on, as in COCO; "instances": they are objects, as
            of tools that write brush masks as crowds.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, duplicate
            image ids, categories that annotations use but the file or ``classes`` lacks, and where
            no image can be used.
    """
    path = existing(annotations, "annotation file", "file")
    root = ImageFolder(image_root, path.parent)
    source = str(path)
    data = read_json(path)
    if (
        not isinstance(data, dict)
        or "images" not in data
        or "annotations" not in data
        or is_panoptic(data)
    ):
        raise wrong_kind(data, source, "a COCO json")
    if crowds not in ("ignore", "instances"):
        raise DatasetError(f"crowds is {crowds!r}; expected 'ignore' or 'instances'")
    report = LoadReport()
    images, names_of = parse_images(data, source, report)
    root.locate(list(images.values()))
    categories = need(data, "categories", list, source, "the file")
    keys = read_ids(categories, "id", "categories", source, report)
    labels = read_ids(
        need(data, "annotations", list, source, "the file"),
        *("category_id", "annotations", source, report),
        aliases=zip((_name_of(record) for record in categories), keys, strict=True),
    )
    usage = Counter(labels)
    names = parse_categories(categories, keys, usage, source, report)
    parse_annotations(
        *(data, images, names_of, [names[key] for key in labels], source, report),
        are_crowds=crowds == "ignore",
    )
    numbers = numbered(keys)
    return assemble(
        sorted(images.values(), key=lambda image: image.image_id),
        *(source, classes, merge),
        known={name: numbers[key] for key, name in names.items()},
        used=Counter({names[key]: count for key, count in usage.items()}),
        report=report,
    )


def read_ids(
    records: list[Any],
    key: str,
    place: str,
    source: str,
    report: LoadReport,
    aliases: Iterable[tuple[Any, Id]] = (),
) -> list[Id]:
    """The id that each record has as ``key``: a number, also one written as text, or another text.

    ``aliases`` are pairs of a name and the id that it may stand for, unless several have it.
    """
    values: list[Any] = [
        record.get(key) if isinstance(record, dict) else None for record in records
    ]
    if set(map(type, values)) <= {int}:
        return values
    ids: list[Id] = []
    pairs = list(aliases)
    times = Counter(name for name, _ in pairs)
    own = {id for _, id in pairs}
    of_name = {name: id for name, id in pairs if times[name] == 1 and name not in own}
    for k, (record, text) in enumerate(zip(records, values, strict=True)):
        if isinstance(text, str) and text.strip():
            number = int(text) if text.isdecimal() and str(int(text)) == text else text
            _count_type(report, place, k, f"{key} {text!r}")
            ids.append(of_name.get(number, number))
        else:
            ids.append(need(record, key, int, source, f"{place}[{k}]"))
    return ids


def _count_type(report: LoadReport, part: str, number: int, note: str) -> None:
    report.count(report.repaired, Reason.OTHER_TYPE, Place("", part, number, note))


def numbered(ids: Iterable[Id]) -> dict[Id, int]:
    """The number of each id: itself, or from 1 on in their order where any is a text."""
    distinct = list(dict.fromkeys(ids))
    has_text = any(isinstance(id, str) for id in distinct)
    return {id: k if has_text else int(id) for k, id in enumerate(distinct, start=1)}


def parse_images(
    data: dict[str, Any], source: str, report: LoadReport
) -> tuple[dict[Id, RawImage], set[tuple[str, Id]]]:
    """Id -> image, without its instances, name and size being what the file states; and what
    annotations may call one instead: its file name, with or without the suffix."""
    records = need(data, "images", list, source, "the file")
    ids = read_ids(records, "id", "images", source, report)
    named = {(id, str(record.get("file_name"))) for record, id in zip(records, ids, strict=True)}
    times = Counter(id for id, _ in named)
    if repeated := [f"{id} ({count} times)" for id, count in times.items() if count > 1]:
        raise DatasetError(
            f"{source}: image ids that are not unique: {few(repeated, 20)}. "
            "Give each image its own id, and its annotations the same as image_id"
        )
    numbers = numbered(ids)
    images: dict[Id, RawImage] = {}
    for k, (record, id) in enumerate(zip(records, ids, strict=True)):
        if id in images:
            images[id].repairs.append((Reason.SAME_FILE, f"images[{k}] is id {id} again"))
            continue
        size = stated_size(record, ("height", "width"), source, f"images[{k}]")
        name = record.get("file_name") or PurePath(str(record.get("coco_url", ""))).name  # of LVIS
        image = RawImage(name, numbers[id], stated_size=size, record=f"id {id}")
        if size and str in (type(record["height"]), type(record["width"])):
            image.repairs.append((Reason.OTHER_TYPE, "height or width as text"))
        images[id] = image
    return images, {(text, id) for id, name in named for text in (name, PurePath(name).stem)}


def parse_annotations(
    data: dict[str, Any],
    images: dict[Id, RawImage],
    names_of: Iterable[tuple[str, Id]],
    labels: Sequence[str],
    source: str,
    report: LoadReport,
    are_crowds: bool,
) -> None:
    """Hang every annotation, of ``labels``, on its image; those of unknown images are counted as
    left out. Unless ``are_crowds``, what the file calls a crowd is an object."""
    records = data["annotations"]
    of_image = read_ids(records, "image_id", "annotations", source, report, names_of)
    crowds = _crowds(records, source, report)
    seen: dict[Id, dict[str, Any]] = {}
    rows = zip(records, of_image, labels, crowds, strict=True)
    for k, (record, image_id, label, iscrowd) in enumerate(rows):
        annotation_id = record.get("id")
        if isinstance(annotation_id, (int, str)):
            known = seen.setdefault(annotation_id, record)
            if known is not record:
                again = Place("", "annotations", k, f"id {annotation_id}")
                report.count(report.repaired, Reason.DUPLICATE_ID, again)
                if known == record:
                    continue
        image = images.get(image_id)
        if image is None:
            report.instances_read += 1
            at = Place("", "annotations", k, f"image_id {image_id}")
            report.count(report.left_out, Reason.UNKNOWN_IMAGE, at)
        else:
            here = Place(image.file_name, "annotations", k)
            image.instances.append(_parse_annotation(record, label, here, iscrowd * are_crowds))


def _crowds(records: list[dict[str, Any]], source: str, report: LoadReport) -> list[int]:
    """``iscrowd`` of each; null, and texts, are read as they are meant."""
    values = [record.get("iscrowd", 0) for record in records]
    for k, value in enumerate(values):
        if isinstance(value, (list, dict)) or value not in _CROWD:
            raise DatasetError(
                f"{source}: annotations[{k}].iscrowd is {clip(repr(value))}; expected 0 for an "
                "object, or 1 for a crowd"
            )
        if value is None or isinstance(value, str):
            _count_type(report, "annotations", k, f"iscrowd {value!r}")
    return [_CROWD[value] for value in values]


def _parse_annotation(
    record: dict[str, Any], label: str, place: Place, iscrowd: int
) -> RawInstance:
    instance = RawInstance(
        *(place, label),
        bbox_xywh=record.get("bbox") or (),
        area=record.get("area"),
        iscrowd=iscrowd,
    )
    segmentation = record.get("segmentation")
    if isinstance(segmentation, str):
        with suppress(ValueError, RecursionError):
            segmentation = json.loads(segmentation)
            instance.repairs.append(Reason.OTHER_TYPE)
    if segmentation is None or segmentation == [] or segmentation == {}:
        instance.problem = Reason.NO_MASK
    elif isinstance(segmentation, dict):
        instance.rle = _read_rle(segmentation, instance.repairs)
    elif not isinstance(segmentation, list):
        instance.problem = Reason.BAD_COORDINATES
    elif isinstance(segmentation[0], dict) and all(isinstance(p, dict) for p in segmentation):
        instance.rle, instance.problem = merge_rles(
            [_read_rle(part, instance.repairs) for part in segmentation]
        )
        instance.repairs.append(Reason.NESTED)
    else:
        instance.polygons = unnested(segmentation)
        if instance.polygons is not segmentation:
            instance.repairs.append(Reason.NESTED)
    return instance


def _read_rle(rle: dict[str, Any], repairs: list[Reason]) -> dict[str, Any]:
    """An RLE with whole numbers where its lists have them as text."""
    texts = {k: v for k, v in rle.items() if isinstance(v, list) and str in set(map(type, v))}
    with suppress(ValueError):
        rle = rle | {k: [int(n) if type(n) is str else n for n in v] for k, v in texts.items()}
    repairs += [Reason.OTHER_TYPE] * bool(texts)
    return rle


def unnested(segmentation: list[Any]) -> list[Any]:
    """The polygons of a segmentation, also of one that lacks the outer list, or pairs its numbers.

    COCO's ``[[x, y, ...], ...]`` comes back as the same object.
    """
    if not any(isinstance(value, (list, dict)) for value in segmentation):
        return [segmentation]
    if len(segmentation) > 2 and _are_pairs(segmentation):
        return [[*chain.from_iterable(segmentation)]]
    if all(map(_are_pairs, segmentation)):
        return [[*chain.from_iterable(polygon)] for polygon in segmentation]
    return segmentation


def _are_pairs(points: Any) -> bool:
    return (isinstance(points, list) and len(points) > 0) and all(
        isinstance(pair, list) and len(pair) == 2 and not isinstance(pair[0], list)
        for pair in points
    )


def parse_categories(
    records: Sequence[Any],
    ids: Sequence[Id],
    usage: Counter[Id],
    source: str,
    report: LoadReport,
) -> dict[Id, str]:
    """Category id -> name, by rising id; every id in ``usage`` is there, every name once.

    Of two categories with one name, one that no annotation uses is dropped. So is one without a
    name, and Roboflow's first one, the supercategory of all others.
    """
    names: dict[Id, str] = {}
    for k, (record, category) in enumerate(zip(records, ids, strict=True)):
        name = _name_of(record)
        if name is None and "name" in record and not usage[category]:
            continue
        if name is None:
            need(record, "name", str, source, f"categories[{k}]")
        if not isinstance(record["name"], str):
            _count_type(report, "categories", k, f"name {record['name']!r}")
        if names.setdefault(category, str(name)) != name:
            raise DatasetError(
                f"{source}: category id {category} is both {names[category]!r} and {name!r}; "
                "give each category its own id"
            )
    unknown = {str(category): count for category, count in usage.items() if category not in names}
    if unknown:
        known = sorted(names, key=str)[:100]
        raise DatasetError(
            f"{source}: annotations use category ids that 'categories' lacks: "
            f"{list_counts(unknown)}. Add them to 'categories', whose ids are {known}"
        )
    above = {record.get("supercategory") for record, id in zip(records, ids, strict=True) if id}
    if len(names) > 1 and 0 in names and not usage[0] and above == {names[0]}:
        report.count(report.repaired, Reason.SUPERCATEGORY, Place(note=repr(names.pop(0))))
    numbers = numbered(ids)
    ordered = dict(sorted(names.items(), key=lambda item: numbers[item[0]]))
    return _without_duplicates(ordered, usage, source, report)


def _name_of(record: Any) -> str | None:
    """The name of a category, which may be a number; None where it has none."""
    name = record.get("name") if isinstance(record, dict) else None
    if type(name) is int:
        return str(name)
    return name if isinstance(name, str) and name.strip() else None


def _without_duplicates(
    names: dict[Id, str], usage: Counter[Id], source: str, report: LoadReport
) -> dict[Id, str]:
    kept: dict[str, Id] = {}
    for category in sorted(names, key=lambda category: not usage[category]):  # those in use first
        name = names[category]
        other = kept.setdefault(name, category)
        if other != category and usage[category]:
            raise DatasetError(
                f"{source}: categories {other} and {category} are both named {name!r}; "
                "rename one, or give their annotations one category_id"
            )
        if other != category:
            report.count(report.repaired, Reason.DUPLICATE_CATEGORY, Place(note=repr(name)))
    return {category: name for category, name in names.items() if kept[name] == category}
