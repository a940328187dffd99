"""From what a parser found to detectron2 dataset dicts, and labels merged into classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detectron2.structures import BoxMode

from transfer_maskrcnn.errors import DatasetError

from .base import LoadedDataset, LoadReport, MaskFormat, Place, RawImage, RawInstance, Reason
from .files import ImageProbe, clip, number, probe_images
from .masks import (
    TOLERANCE,
    Segmentation,
    box_of,
    clean_polygons,
    clean_rle,
    is_empty,
    mask_to_rle,
    paste,
    polygons_area,
    polygons_to_rle,
    rle_area,
    rle_to_mask,
    screen_polygons,
    to_points,
)

_PLACE = "place"  # of an annotation in its file, until all are gathered
_AREA_FACTOR = 2.0  # how far a stated area may be from the mask's, either way


def assemble(
    images: Sequence[RawImage],
    *,
    classes: tuple[str, ...],
    category_ids: tuple[int, ...] | None = None,
    source: str,
    report: LoadReport | None = None,
) -> LoadedDataset:
    """Probe the image files, clean the instances, and bring all masks to one format.

    ``category_ids`` are 1 to K unless given. ``report`` may bring counts of the parser's own.
    Raises DatasetError where no image is left; ``source`` names the dataset in it.
    """
    report = report or LoadReport()
    if not images:
        raise DatasetError(f"{source} lists no images; expected at least one")
    index = {name: k for k, name in enumerate(classes)}
    dicts: list[dict[str, Any]] = []
    positions: list[int] = []
    report.images_read += len(images)
    report.instances_read += sum(len(image.instances) for image in images)
    files = tuple(image.file_name for image in images)
    probes = probe_images(files)
    for position, (image, probe) in enumerate(zip(images, probes, strict=True)):
        problem = image.problem or probe.problem or _size_problem(image, probe)
        if problem:
            report.leave_out_image(problem, _place(image, probe))
            report.leave_out(Reason.IN_LEFT_OUT_IMAGE, Place(image.file_name), len(image.instances))
            continue
        positions.append(position)
        dicts.append(_record(image, *probe.size, index, report))
    if not dicts:
        reasons = report.reasons(report.images_left_out)
        raise DatasetError(f"{source}: none of its {len(images)} images can be used: {reasons}")
    mask_format = _unify(dicts, report)
    places = [[a.pop(_PLACE) for a in d["annotations"]] for d in dicts]
    instances = tuple(len(d["annotations"]) for d in dicts)
    labels = tuple(
        tuple(a["category_id"] for a in d["annotations"] if not a["iscrowd"]) for d in dicts
    )
    report.images_kept, report.instances_kept = len(dicts), sum(instances)
    ids = category_ids or tuple(range(1, len(classes) + 1))
    return LoadedDataset(
        dicts, classes, ids, mask_format, report, tuple(positions), instances, files, labels, places
    )


def _size_problem(image: RawImage, probe: ImageProbe) -> Reason | None:
    if image.stated_size in (None, probe.size):
        return None
    return (
        Reason.IMAGE_ROTATED if image.stated_size == probe.stored_size else Reason.IMAGE_OTHER_SIZE
    )


def _place(image: RawImage, probe: ImageProbe) -> Place:
    if probe.problem or image.stated_size is None or image.stated_size == probe.size:
        return Place(image.file_name)
    height, width = image.stated_size
    shown = f"a viewer shows {probe.size[1]}x{probe.size[0]}"
    return Place(image.file_name, note=f"annotated as {width}x{height}, {shown}")


def _record(
    image: RawImage, height: int, width: int, index: Mapping[str, int], report: LoadReport
) -> dict[str, Any]:
    return {
        "file_name": image.file_name,
        "image_id": image.image_id,
        "height": height,
        "width": width,
        "annotations": _annotations(image, height, width, index, report),
    }


def _annotations(
    image: RawImage, height: int, width: int, index: Mapping[str, int], report: LoadReport
) -> list[dict[str, Any]]:
    """The usable instances of one image as detectron2 annotations; the others are counted."""
    for instance in image.instances:
        if instance.relative:
            instance.polygons = [_to_pixels(p, height, width) for p in instance.polygons]
    clean = iter(screen_polygons([p for i in image.instances for p in i.polygons], height, width))
    annotations = []
    for instance in image.instances:
        flags = [next(clean) for _ in instance.polygons]  # all of them, so that the next fit
        place = instance.place._replace(image=image.file_name)
        segmentation, problem, repairs = _segmentation(instance, all(flags), height, width)
        if problem:
            report.leave_out(problem, place)
            continue
        box = _box(instance, segmentation, height, width, repairs)
        area = _area(instance, segmentation, repairs)
        for repair in repairs:
            report.repair(repair, place)
        annotation = {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": index[instance.label],
            "segmentation": segmentation,
            "iscrowd": instance.iscrowd,
            _PLACE: place,
        }
        annotations.append(annotation | area)
    return annotations


def _to_pixels(polygon: Sequence[float], height: int, width: int) -> list[float]:
    return [value * (height if k % 2 else width) for k, value in enumerate(polygon)]


def _segmentation(
    instance: RawInstance, is_clean: bool, height: int, width: int
) -> tuple[Segmentation, Reason | None, list[Reason]]:
    """The mask of one instance, the reason why it has none, and what was repaired."""
    if instance.problem:
        return [], instance.problem, []
    if instance.rle is not None:
        rle, problem = clean_rle(instance.rle, height, width)
        return rle, problem, []
    if is_clean and instance.polygons and not instance.patches:
        # Floats, since detectron2's transforms would write scaled coordinates into integer arrays.
        return [list(map(float, polygon)) for polygon in instance.polygons], None, []
    cleaned = clean_polygons(instance.polygons, height, width)
    if not instance.patches:
        return cleaned.polygons, cleaned.problem, cleaned.repairs
    if not any(patch.mask.any() for patch in instance.patches) and not cleaned.polygons:
        return [], Reason.ZERO_AREA, []
    mask = paste(instance.patches, height, width)
    if cleaned.polygons:
        mask |= rle_to_mask(polygons_to_rle(cleaned.polygons, height, width))
    return mask_to_rle(mask), None if mask.any() else Reason.OUTSIDE_IMAGE, cleaned.repairs


def _box(
    instance: RawInstance,
    segmentation: Segmentation,
    height: int,
    width: int,
    repairs: list[Reason],
) -> list[float]:
    """x0, y0, x1, y1 in pixels, inside the image: the file's own box where that is sound."""
    if not instance.states_bbox:
        return box_of(segmentation)
    points = to_points(instance.bbox_xywh)
    if points is not None and points.shape == (2, 2) and (points[1] > 0).all():
        (x0, y0), (w, h) = points.tolist()
        box = [max(x0, 0.0), max(y0, 0.0), min(x0 + w, float(width)), min(y0 + h, float(height))]
        moved = max(box[0] - x0, box[1] - y0, x0 + w - box[2], y0 + h - box[3])
        if box[0] < box[2] and box[1] < box[3]:
            if moved > TOLERANCE:
                repairs.append(Reason.BOX_CLIPPED)
            return box
    repairs.append(Reason.BOX_RECOMPUTED)
    return box_of(segmentation)


def _area(
    instance: RawInstance, segmentation: Segmentation, repairs: list[Reason]
) -> dict[str, float]:
    """The file's own area as ``{"area": pixels}``; empty where it has none, or an unlikely one."""
    stated = number(instance.area)
    # Of a clipped instance, it is the area of what was drawn.
    if not 0 < stated < math.inf or Reason.CLIPPED in repairs:
        return {}
    if isinstance(segmentation, dict):
        area = float(rle_area(segmentation))
    else:
        area = polygons_area(segmentation)
    if area / _AREA_FACTOR <= stated <= area * _AREA_FACTOR:
        return {"area": stated}
    repairs.append(Reason.AREA_MISMATCH)
    return {}


def _unify(dicts: list[dict[str, Any]], report: LoadReport) -> MaskFormat:
    """All polygons: left alone. Any bitmask that is not a crowd: everything becomes a bitmask."""
    if not any(
        isinstance(annotation["segmentation"], dict) and not annotation["iscrowd"]
        for record in dicts
        for annotation in record["annotations"]
    ):
        return "polygon"
    for record in dicts:
        height, width = record["height"], record["width"]
        kept = []
        for annotation in record["annotations"]:
            if isinstance(annotation["segmentation"], list):
                rle = polygons_to_rle(annotation["segmentation"], height, width)
                annotation["segmentation"] = rle
            if is_empty(annotation["segmentation"]):
                report.leave_out(Reason.ZERO_AREA, annotation[_PLACE])
            else:
                kept.append(annotation)
        record["annotations"] = kept
    return "bitmask"


Merge = Mapping[str, Sequence[str]]  # class -> its labels in the annotations


def check_merge(merge: Any, classes: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """``merge`` as a dict; ``classes`` are the dataset's, after merging, or None.

    Raises:
        DatasetError: not a mapping of class names to lists of labels, a label of two classes, or
            ``classes`` that name a merged label or lack a merged class.
    """
    if merge is None:
        return {}
    if not isinstance(merge, Mapping) or not all(map(_is_entry, merge.items())):
        raise DatasetError(
            f"merge is {clip(repr(merge))}; expected a class and its labels in the annotations, "
            "each a text, as {'vehicle': ['car', 'truck']}"
        )
    class_of: dict[str, str] = {}
    for name, labels in merge.items():
        for label in labels:
            other = class_of.setdefault(label, name)
            if other != name or (label in merge and label != name):
                raise DatasetError(
                    f"merge: the label {label!r} cannot go to {name!r} and also be, or go to, "
                    f"{other if other != name else label!r}; give each label one class"
                )
    _check_against(classes, class_of, merge)
    return {name: tuple(labels) for name, labels in merge.items()}


def _is_entry(entry: tuple[Any, Any]) -> bool:
    name, labels = entry
    is_list = isinstance(labels, (list, tuple)) and bool(labels)
    return is_list and all(isinstance(text, str) and text.strip() for text in (name, *labels))


def _check_against(
    classes: Sequence[str] | None, class_of: Mapping[str, str], merge: Merge
) -> None:
    if classes is None:
        return
    for label, name in class_of.items():
        if label in classes and label != name:
            raise DatasetError(
                f"classes names {label!r}, which merge makes part of {name!r}; leave it out"
            )
    for name in merge:
        if name not in classes:
            raise DatasetError(f"merge makes the class {name!r}, which classes lacks; add it")


def labels_of(classes: Sequence[str], merge: Merge, *, by_position: bool) -> tuple[str, ...]:
    """The labels to ask a format's loader for: ``classes`` with each merged one's labels instead.

    Args:
        classes: after merging.
        merge: checked.
        by_position: labels are positions (PNG masks), so that nothing may come between them; else
            a merged class's own name may be a label, too.
    """
    labels: list[str] = []
    for name in classes:
        labels += merge.get(name, (name,)) if by_position else (name, *merge.get(name, ()))
    return tuple(dict.fromkeys(labels))


def merge_classes(
    loaded: LoadedDataset, merge: Merge, classes: Sequence[str] | None
) -> LoadedDataset:
    """``loaded``, whose classes are labels, with its labels merged; its dicts change in place.

    A merged class has the lowest category id of its labels. Labels that ``merge`` does not name
    stay. Without ``classes``, it stands where the first of its labels stood.

    Raises:
        DatasetError: the annotations have none of a merged class's labels (without ``classes``).
    """
    if not merge:
        return loaded
    class_of = {label: name for name, labels in merge.items() for label in labels}
    names = [class_of.get(label, label) for label in loaded.classes]
    for name, labels in merge.items():
        if name not in names:
            raise DatasetError(
                f"merge: the class {name!r} has none of its labels {list(labels)} among those of "
                f"the annotations, {list(loaded.classes)}; correct merge, or state classes"
            )
    chosen = tuple(dict.fromkeys(names)) if classes is None else tuple(classes)
    place = {name: k for k, name in enumerate(chosen)}
    of_images = tuple(tuple(place[names[k]] for k in image) for image in loaded.labels)
    for record in loaded.dicts:
        for annotation in record["annotations"]:
            annotation["category_id"] = place[names[annotation["category_id"]]]
    ids = [
        min(i for i, other in zip(loaded.category_ids, names, strict=True) if other == name)
        for name in chosen
    ]
    return replace(loaded, classes=chosen, category_ids=tuple(ids), labels=of_images)
