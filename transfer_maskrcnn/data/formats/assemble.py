"""From what a parser found to detectron2 dataset dicts.

All formats go through the one pass of :func:`assemble`: whatever is wrong with an image or an
instance is counted there, by its code, and labels become classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from detectron2.structures import BoxMode

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import listed

from .base import (
    LoadedDataset,
    LoadReport,
    MaskFormat,
    Place,
    RawImage,
    RawInstance,
    Reason,
    UnusableDataset,
)
from .files import (
    ImageProbe,
    check_classes,
    check_labels,
    clip,
    natural_key,
    number,
    probe_images,
)
from .masks import (
    TOLERANCE,
    Segmentation,
    box_of,
    clean_polygons,
    clean_rle,
    mask_to_rle,
    paste,
    polygons_area,
    polygons_to_rle,
    rle_area,
    rle_to_mask,
    screen_polygons,
)

Merge = Mapping[str, Sequence[str]]  # class -> its labels in the annotations

_PLACE = "place"  # of an annotation in its file, until all are gathered
_AREA_FACTOR = 2.0  # how far a stated area may be from the mask's, either way


def assemble(
    images: Sequence[RawImage],
    source: str,
    classes: Sequence[str] | None,
    merge: Merge | None = None,
    *,
    known: Mapping[str, int] | None = None,
    used: Counter[str] | None = None,
    report: LoadReport | None = None,
) -> LoadedDataset:
    """Choose the classes, probe the image files, clean the instances, and bring all masks to one
    format.

    Args:
        images: what the parser found.
        source: the dataset's name in errors.
        classes: the user's; None: as in ``known``, or else all labels, sorted.
        merge: class -> the labels in ``images`` that become it, checked.
        known: label -> category id, where the annotations list their labels.
        used: how many instances have each label; None: those that the parser could read.
        report: with counts of the parser's own.

    Raises:
        UnusableDataset: no usable image, or no class.
        DatasetError: ``classes`` that are no distinct names, or lack a label.
    """
    wanted = check_classes(classes)
    report = report or LoadReport()
    if not images:
        raise DatasetError(f"{source} lists no images; expected at least one")
    if used is None:
        used = Counter(i.label for image in images for i in image.instances if not i.problem)
    merge = merge or {}
    merged = {label: name for name, labels in merge.items() for label in labels}
    class_of = class_by_label([*used, *(known or ())], merged, "merge")
    labels = sorted(used, key=natural_key) if known is None else list(known)
    is_known = bool(labels) or known is not None
    chosen = wanted or (_classes_of(labels, class_of, merge) if is_known else ())
    check_labels(used, chosen, class_of, source)
    index = {label: chosen.index(class_of.get(label, label)) for label in used}
    dicts: list[dict[str, Any]] = []
    positions: list[int] = []
    report.images_read += len(images)
    report.instances_read += sum(len(image.instances) for image in images)
    files = tuple(image.file_name for image in images)
    for position, (image, probe) in enumerate(zip(images, probe_images(files), strict=True)):
        if _leaves_out(image, probe, report):
            continue
        height, width = probe.size
        record = {"file_name": image.file_name, "image_id": image.image_id}
        annotations = list(_annotations(image, height, width, index, report))
        dicts.append({**record, "height": height, "width": width, "annotations": annotations})
        positions.append(position)
    if not dicts:
        reasons = report.reasons(report.images_left_out)
        said = f"{source}: none of its {len(images)} images can be used: {reasons}"
        raise UnusableDataset(said, report, files)
    if not (wanted or is_known):
        reasons = report.reasons(report.left_out) or "there are no instances"
        raise UnusableDataset(
            f"{source}: no instance has a usable mask and a label, so the classes cannot be told: "
            f"{reasons}. Pass classes, or mend the annotations",
            *(report, files),
        )
    mask_format = _unify(dicts, report)
    instances = tuple(len(d["annotations"]) for d in dicts)
    report.images_kept, report.instances_kept = len(dicts), sum(instances)
    return LoadedDataset(
        dicts,
        chosen,
        _category_ids(chosen, known or {}, class_of),
        mask_format,
        report,
        tuple(positions),
        instances,
        files,
        tuple(tuple(a["category_id"] for a in d["annotations"] if not a["iscrowd"]) for d in dicts),
        places=[[a.pop(_PLACE) for a in d["annotations"]] for d in dicts],
    )


def class_by_label(labels: Iterable[str], names: Mapping[str, str], option: str) -> dict[str, str]:
    """The class of each of ``labels`` that has one in ``names``: by itself, or by a pattern such as
    "yolk*" (``fnmatch``). The label itself goes before patterns.

    Raises DatasetError, which names ``option``, where patterns disagree.
    """
    patterns = {text: name for text, name in names.items() if not set("*?[").isdisjoint(text)}
    found = {}
    for label in dict.fromkeys(labels):
        fitting = {text: name for text, name in patterns.items() if fnmatchcase(label, text)}
        if label not in names and len(set(fitting.values())) > 1:
            raise DatasetError(
                f"{option}: the label {label!r} fits {listed(list(map(repr, fitting)))}; "
                f"name {label!r} itself, with its class"
            )
        if label in names or fitting:
            found[label] = names.get(label) or next(iter(fitting.values()))
    return found


def _classes_of(
    labels: Sequence[str], class_of: Mapping[str, str], merge: Merge
) -> tuple[str, ...]:
    """The classes of labels; a merged one stands where its first label does."""
    chosen = tuple(dict.fromkeys(class_of.get(label, label) for label in labels))
    for name, own in merge.items():
        if name not in chosen:
            raise DatasetError(
                f"merge: the class {name!r} has none of its labels {list(own)} among those of the "
                f"annotations, {labels}; correct merge, or state classes"
            )
    return chosen


def _category_ids(
    classes: tuple[str, ...], known: Mapping[str, int], class_of: Mapping[str, str]
) -> tuple[int, ...]:
    """The lowest id of each class's labels; one without gets an id above all others."""
    ids: dict[str, int] = {}
    for label, category in known.items():
        name = class_of.get(label, label)
        ids[name] = min(category, ids.get(name, category))
    for name in classes:
        ids.setdefault(name, max(ids.values(), default=0) + 1)
    return tuple(ids[name] for name in classes)


def _leaves_out(image: RawImage, probe: ImageProbe, report: LoadReport) -> bool:
    """Whether an image cannot be used; then it is counted, and its instances with it."""
    problem = image.problem or probe.problem
    note = image.note or ("" if image.problem else probe.note)
    stated, shown = image.stated_size, probe.size
    if not problem and stated is not None and stated != shown:
        turned = stated == probe.stored_size
        problem = Reason.IMAGE_ROTATED if turned else Reason.IMAGE_OTHER_SIZE
        note = f"annotated as {stated[1]}x{stated[0]}, a viewer shows {shown[1]}x{shown[0]}"
    if problem:
        report.count(report.images_left_out, problem, Place(image.file_name, note=note))
        report.count(
            report.left_out, Reason.IN_LEFT_OUT_IMAGE, Place(image.file_name), len(image.instances)
        )
    for counts, told in ((report.repaired, image.repairs), (report.doubted, image.doubts)):
        for reason, note in told if not problem else ():
            report.count(counts, reason, Place(image.file_name, note=note))
    return problem is not None


def _annotations(
    image: RawImage, height: int, width: int, index: Mapping[str, int], report: LoadReport
) -> Iterator[dict[str, Any]]:
    """The usable instances of one image as detectron2 annotations; the others are counted."""
    for instance in image.instances:
        if instance.relative:
            instance.polygons = [
                [value * (height if k % 2 else width) for k, value in enumerate(polygon)]
                for polygon in instance.polygons
            ]
    polygons = [polygon for instance in image.instances for polygon in instance.polygons]
    screened = iter(screen_polygons(polygons, height, width).tolist())
    for instance in image.instances:
        areas = list(islice(screened, len(instance.polygons)))
        area = (
            sum(areas) if areas and all(areas) else None
        )  # of polygons that are sound as they are
        segmentation = _segmentation(instance, area is not None, height, width)
        if instance.problem:
            report.count(report.left_out, instance.problem, instance.place)
            continue
        annotation = {
            "bbox": _box(instance, segmentation, height, width),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": index[instance.label],
            "segmentation": segmentation,
            "iscrowd": instance.iscrowd,
            _PLACE: instance.place,
        }
        if _states_area(instance, segmentation, area):
            annotation["area"] = float(instance.area)
        for repair in instance.repairs:
            report.count(report.repaired, repair, instance.place)
        for doubt in instance.doubts:
            report.count(report.doubted, doubt, instance.place)
        yield annotation


def _segmentation(instance: RawInstance, is_clean: bool, height: int, width: int) -> Segmentation:
    """The mask of one instance, which learns why it has none, or what of it was mended."""
    if instance.problem:
        return []
    if instance.rle is not None:
        rle, instance.problem = clean_rle(instance.rle, height, width)
        return rle
    if is_clean and not instance.patches:
        # Floats, since detectron2's transforms would write scaled coordinates into integer arrays.
        return [list(map(float, polygon)) for polygon in instance.polygons]
    polygons, problem, repairs = clean_polygons(instance.polygons, height, width)
    instance.repairs += repairs
    if not instance.patches:
        instance.problem = problem
        return polygons
    mask = paste(instance.patches, height, width)
    if polygons:
        mask |= rle_to_mask(polygons_to_rle(polygons, height, width))
    if not mask.any():
        drawn = any(patch.mask.any() for patch in instance.patches)
        instance.problem = Reason.OUTSIDE_IMAGE if drawn else Reason.ZERO_AREA
    return mask_to_rle(mask)


def _box(instance: RawInstance, segmentation: Segmentation, height: int, width: int) -> list[float]:
    """x0, y0, x1, y1 in pixels, inside the image: the file's own box where that is sound."""
    if not instance.states_bbox:
        return box_of(segmentation)
    stated = instance.bbox_xywh
    if isinstance(stated, list) and len(stated) == 4:
        x, y, w, h = map(number, stated)
        box = [max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))]
        if w > 0 and h > 0 and box[0] < box[2] and box[1] < box[3]:
            if max(box[0] - x, box[1] - y, x + w - box[2], y + h - box[3]) > TOLERANCE:
                instance.repairs.append(Reason.BOX_CLIPPED)
            return box
    instance.repairs.append(Reason.BOX_RECOMPUTED)
    return box_of(segmentation)


def _states_area(instance: RawInstance, segmentation: Segmentation, area: float | None) -> bool:
    """Whether the file has an area of the instance, and a likely one; ``area`` is that of its
    polygons, where it is known already."""
    stated = number(instance.area)
    # Of a clipped instance, it is the area of what was drawn.
    if not 0 < stated < math.inf or Reason.CLIPPED in instance.repairs:
        return False
    if isinstance(segmentation, dict):
        area = float(rle_area(segmentation))
    elif area is None:
        area = polygons_area(segmentation)
    if area / _AREA_FACTOR <= stated <= area * _AREA_FACTOR:
        return True
    instance.repairs.append(Reason.AREA_MISMATCH)
    return False


def _unify(dicts: list[dict[str, Any]], report: LoadReport) -> MaskFormat:
    """All polygons: left alone. Any bitmask that is not a crowd: everything becomes a bitmask."""
    if not any(
        isinstance(annotation["segmentation"], dict) and not annotation["iscrowd"]
        for record in dicts
        for annotation in record["annotations"]
    ):
        return "polygon"
    for record in dicts:
        kept = []
        for annotation in record["annotations"]:
            rle = annotation["segmentation"]
            if isinstance(rle, list):
                rle = polygons_to_rle(rle, record["height"], record["width"])
            if rle_area(rle) == 0:
                report.count(report.left_out, Reason.ZERO_AREA, annotation[_PLACE])
            else:
                kept.append(annotation | {"segmentation": rle})
        record["annotations"] = kept
    return "bitmask"


def check_merge(merge: Any, classes: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """``merge`` as a dict; ``classes`` are the dataset's, after merging, or None.

    Raises:
        DatasetError: not a mapping of class names to lists of labels, a label of two classes, or
            ``classes`` that name a merged label or lack a merged class.
    """
    if merge is None:
        return {}
    if not isinstance(merge, Mapping) or not all(
        isinstance(labels, (list, tuple))
        and labels
        and all(isinstance(text, str) and text.strip() for text in (name, *labels))
        for name, labels in merge.items()
    ):
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
            if label in (classes or ()) and label != name:
                raise DatasetError(
                    f"classes names {label!r}, which merge makes part of {name!r}; leave it out"
                )
        if classes is not None and name not in classes:
            raise DatasetError(f"merge makes the class {name!r}, which classes lacks; add it")
    return {name: tuple(labels) for name, labels in merge.items()}
