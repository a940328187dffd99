"""From what a parser found to detectron2 dataset dicts.

All formats go through the one pass of :func:`assemble`: whatever is wrong with an image or an
instance is counted there, by its code, and labels become classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from typing import Any

from transfer_maskrcnn.errors import DatasetError, refuse
from transfer_maskrcnn.text import listed

from .base import (
    LoadedDataset,
    LoadReport,
    MaskFormat,
    Place,
    RawImage,
    Reason,
    UnusableDataset,
)
from .files import ImageProbe, check_classes, check_labels, clip, natural_key, probe_images
from .instances import PLACE, annotate
from .masks import polygons_to_rle, rle_area
from .records import merge_records, read_exchanged, read_fractions

Merge = Mapping[str, Sequence[str]]  # class -> its labels in the annotations


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
    _tell_notes(images, {*used, *(wanted or ()), *merged})
    class_of = class_by_label([*used, *(known or ())], merged, "merge")
    labels = sorted(used, key=natural_key) if known is None else list(known)
    is_known = bool(labels) or known is not None
    chosen = wanted or (_classes_of(labels, class_of, merge) if is_known else ())
    check_labels(used, chosen, class_of, source)
    index = {label: chosen.index(class_of.get(label, label)) for label in used}
    positions, dicts = _dicts(images, index, report)
    files = tuple(image.file_name for image in images)
    if not dicts:
        raise UnusableDataset(
            f"{source}: none of its {len(images)} images can be used: "
            f"{report.reasons(report.images_left_out)}",
            *(report, files),
        )
    if not (wanted or is_known):
        reasons = report.reasons(report.left_out) or "there are no instances"
        raise UnusableDataset(
            f"{source}: no instance has a usable mask and a label, so the classes cannot be told: "
            f"{reasons}. Pass classes, or mend the annotations",
            *(report, files),
        )
    mask_format = _unify(dicts, report)
    instances = tuple(len(d["annotations"]) for d in dicts)
    labels_of = tuple(
        tuple(a["category_id"] for a in d["annotations"] if not a["iscrowd"]) for d in dicts
    )
    report.images_kept, report.instances_kept = len(dicts), sum(instances)
    report.crowds = sum(instances) - sum(map(len, labels_of))
    return LoadedDataset(
        dicts,
        chosen,
        _category_ids(chosen, known or {}, class_of),
        mask_format,
        report,
        tuple(positions),
        instances,
        files,
        labels_of,
        places=[[a.pop(PLACE) for a in d["annotations"]] for d in dicts],
    )


def _tell_notes(images: Sequence[RawImage], labels: Set[str]) -> None:
    """Points and lines, with a label that is none of those of areas, are notes."""
    for one in (one for image in images for one in image.instances):
        if one.problem is Reason.OTHER_SHAPE and one.label not in labels:
            one.problem = Reason.NOTE_SHAPE


def _dicts(
    images: Sequence[RawImage], index: Mapping[str, int], report: LoadReport
) -> tuple[list[int], list[dict[str, Any]]]:
    """The numbers of the images that are kept, and their dicts, masks as they are; all others, and
    what of their instances cannot be used, are counted."""
    probes = probe_images([image.file_name for image in images])
    read_exchanged(images, probes)
    read_fractions(images)
    kept = [k for k, image in enumerate(images) if not _leaves_out(image, probes[k], report)]
    positions = merge_records(images, kept, report)
    report.images_read += len(images) - len(kept) + len(positions)
    report.instances_read += sum(len(image.instances) for image in images)
    sizes = [probes[k].size for k in positions]
    annotations = annotate([images[k] for k in positions], sizes, index, report)
    return positions, [
        {
            "file_name": images[k].file_name,
            "image_id": images[k].image_id,
            "height": height,
            "width": width,
            "annotations": own,
        }
        for k, (height, width), own in zip(positions, sizes, annotations, strict=True)
    ]


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
        is_stored = stated == probe.stored_size
        problem = Reason.IMAGE_ROTATED if is_stored else Reason.IMAGE_OTHER_SIZE
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
                report.count(report.left_out, Reason.ZERO_AREA, annotation[PLACE])
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
            refuse(
                (
                    other != name or (label in merge and label != name),
                    f"merge: the label {label!r} cannot go to {name!r} and also be, or go to, "
                    f"{other if other != name else label!r}; give each label one class",
                ),
                (
                    label in (classes or ()) and label != name,
                    f"classes names {label!r}, which merge makes part of {name!r}; leave it out",
                ),
                error=DatasetError,
            )
        if classes is not None and name not in classes:
            raise DatasetError(f"merge makes the class {name!r}, which classes lacks; add it")
    return {name: tuple(labels) for name, labels in merge.items()}
