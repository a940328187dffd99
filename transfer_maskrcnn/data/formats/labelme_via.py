"""The json of two annotation tools in which shapes are drawn by hand: labelme, and VIA 1 and 2."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer_maskrcnn.errors import DatasetError, refuse

from .assemble import Merge, assemble, class_by_label
from .base import LoadedDataset, LoadReport, Patch, Place, RawImage, RawInstance, Reason
from .files import (
    clip,
    existing,
    list_counts,
    list_files,
    list_images,
    need,
    number,
    read_json,
    stated_size,
    wrong_kind,
)
from .foreign import describe
from .masks import ellipse, rectangle
from .names import ImageFolder

Shape = list[Any] | Patch | Reason  # flat x, y of a polygon, a part of a mask, or why neither
_NOT_LEARNT = ("__ignore__", "_background_")  # what labelme's own converters leave out
# by four corners, as X-AnyLabeling and newer versions of labelme write what is turned
_RECTANGLES = ("rectangle", "rotation", "quadrilateral", "oriented_rectangle")


def load_labelme_json(
    annotations: str | Path,
    image_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
    label_map: Mapping[str, str] | None = None,
) -> LoadedDataset:
    """Load a folder of labelme json files, one an image, and those in folders below it.

    Polygon, rectangle (upright or turned), circle and mask shapes; shapes with the same label and
    the same ``group_id`` are parts of one instance. Other shapes (points, lines), and those
    labelled ``__ignore__`` or ``_background_``, are left out and counted, as are images that only
    ``imageData`` holds. Json files that are broken, or of another kind, are counted where some are
    labelme's.

    Args:
        annotations: the folder of the json files.
        image_root: the folder of the images. Default: ``annotations``. An ``imagePath`` may be
            relative to the json file, or to this folder, which may have the same folders below it;
            one that is missing, or leads to no image, is replaced by the image whose name is the
            json file's; so is one that several json files state which have such an image each.
            Images below it that no json file belongs to are left out and counted.
        classes: class names, in the order wanted. Default: all labels found, sorted.
        merge: class -> the labels in the files that become it.
        label_map: label in the files, or a pattern -> class name ({"cat*": "cat"}); labels that
            it does not name stay as they are. Instances are grouped by the label in the file.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, labels that
            ``classes`` lacks, and where no image can be used.
    """
    folder = existing(annotations, "annotations", "folder")
    root = ImageFolder(image_root, folder)
    files = list_files(folder, (".json",), recursive=True)
    if not files:
        raise DatasetError(
            f"{folder} has no *.json file; expected the folder of labelme's json files"
        )
    report = LoadReport()
    contents = _read_contents(files, report)
    stems = [file.relative_to(folder).with_suffix("").as_posix() for file, _ in contents]
    images = [
        RawImage(_stated(file, folder, data), k, record=f"{stem}.json")
        for k, ((file, data), stem) in enumerate(zip(contents, stems, strict=True), start=1)
    ]
    root.locate(images, stems=stems)
    there = {os.path.normpath(path): path for path in list_images(root.root, recursive=True)}
    _prefer_own(images, stems, there, root.root)
    for image, (file, data) in zip(images, contents, strict=True):
        read_labelme(image, data, str(file))
    drawn = [instance for image in images for instance in image.instances]
    _learn_labels(drawn, check_label_map(label_map), classes)
    images += _without_json(images, there, root.root)
    return assemble(images, str(folder), classes, merge, report=report)


def _read_contents(files: Sequence[Path], report: LoadReport) -> list[tuple[Path, dict[str, Any]]]:
    """The json files that are labelme's, and what they hold; all others are counted.

    Raises:
        DatasetError: none is.
    """
    contents: list[tuple[Path, dict[str, Any]]] = []
    for file in files:
        try:
            data = read_json(file)
        except DatasetError as error:
            place = Place(str(file), note=str(error).removeprefix(f"{file} "))
            report.count(report.doubted, Reason.BROKEN_JSON, place)
            continue
        if isinstance(data, dict) and isinstance(data.get("shapes"), list):
            data["imageData"] = bool(data.get("imageData"))  # a copy of the image, which is large
            contents.append((file, data))
        else:
            report.count(report.doubted, Reason.OTHER_JSON, Place(str(file), note=describe(data)))
    if not contents:
        raise wrong_kind(read_json(files[0]), str(files[0]), "a labelme json")
    return contents


def _without_json(
    images: Sequence[RawImage], there: Mapping[str, Path], root: Path
) -> list[RawImage]:
    """The images of ``there`` that no json file belongs to."""
    used = {os.path.normpath(image.file_name) for image in images}
    # folders into which labelme exported pictures of a json file
    exported = {
        path.parent
        for path in there.values()
        if path.name == "label.png" and path.parent.name.endswith("_json")
        if os.path.normpath(path.with_name("img.png")) in there
    } - {root}
    return [
        RawImage(str(path), 0, problem=Reason.IMAGE_WITHOUT_JSON)
        for text, path in there.items()
        if text not in used and path.parent not in exported
    ]


def _prefer_own(
    images: Sequence[RawImage], stems: Sequence[str], there: Mapping[str, Path], root: Path
) -> None:
    """Where json files name another image than the one beside them of their own name: several that
    name one are copies, and get their own; a single one is doubted."""
    of_stem = {p.relative_to(root).with_suffix("").as_posix(): text for text, p in there.items()}
    naming: dict[str, list[tuple[RawImage, str]]] = defaultdict(list)
    for image, stem in zip(images, stems, strict=True):
        naming[os.path.normpath(image.file_name)].append((image, of_stem.get(stem, "")))
    for file, group in naming.items():
        are_copies = len(group) > 1 and all(own for _, own in group)
        for image, own in group:
            if own and file in there and os.path.splitext(own)[0] != os.path.splitext(file)[0]:
                note = f"{image.record} lies beside {Path(own).name}, and names {Path(file).name}"
                if are_copies:
                    image.file_name = own
                    image.repairs.append((Reason.FOUND_ELSEWHERE, note))
                else:
                    image.doubts.append((Reason.OTHER_IMAGE, note))


def _stated(file: Path, folder: Path, data: dict[str, Any]) -> str:
    """The image that a json file names, from ``folder`` on."""
    name, parent = data.get("imagePath"), file.parent.relative_to(folder).as_posix()
    is_relative = isinstance(name, str) and not re.match(r"[/\\]|\w+:", name)
    return f"{parent}/{name}" if name and is_relative and parent != "." else name or ""


def _learn_labels(
    instances: Sequence[RawInstance], label_map: Mapping[str, str], classes: Sequence[str] | None
) -> None:
    """Give instances the labels that ``label_map`` has for theirs; some are not to be learnt."""
    counts = Counter(instance.label for instance in instances if not instance.problem)
    idle = [key for key in label_map if not class_by_label(counts, {key: "-"}, "label_map")]
    if idle and classes is None:
        raise DatasetError(
            f"label_map: {', '.join(map(repr, idle))} fits none of the labels: "
            f"{list_counts(counts)}. Correct it, or state classes"
        )
    names = class_by_label(counts, label_map, "label_map")
    for instance in instances:
        if instance.label in _NOT_LEARNT and instance.label not in {*label_map, *(classes or ())}:
            instance.problem = Reason.IGNORED_LABEL
        instance.label = names.get(instance.label, instance.label)


def check_label_map(label_map: Any) -> dict[str, str]:
    """``label_map`` as a dict; yaml reads the label 2 as a number, so keys may be numbers too."""
    if label_map is None:
        return {}
    if not isinstance(label_map, Mapping) or not all(
        type(label) in (str, int) and isinstance(name, str) and name.strip()
        for label, name in label_map.items()
    ):
        raise DatasetError(
            f"label_map is {clip(repr(label_map))}; expected a mapping of labels to class names, "
            "each a text, as {'cat1': 'cat'}"
        )
    return {str(label): name for label, name in label_map.items()}


def read_labelme(image: RawImage, data: dict[str, Any], source: str) -> None:
    """Give an image the size and the instances of its json file."""
    image.stated_size = stated_size(data, ("imageHeight", "imageWidth"), source, "the file")
    if data["imageData"] and image.problem is Reason.IMAGE_MISSING:
        image.problem, image.note = Reason.IMAGE_IN_JSON, ""
    instances: dict[Any, RawInstance] = {}
    for k, shape in enumerate(data["shapes"]):
        drawn, repairs = labelme_shape(shape, source, f"shapes[{k}]")
        stated = shape.get("label")
        label = str(stated) if type(stated) in (str, int) and str(stated).strip() else ""
        note = str(shape.get("shape_type")) if drawn is Reason.OTHER_SHAPE else ""
        own = RawInstance(Place(image.file_name, "shapes", k, note, source), label)
        own.problem = drawn if isinstance(drawn, Reason) else None if label else Reason.NO_LABEL
        group = shape.get("group_id")
        is_alone = group is None or own.problem
        instance = instances.setdefault(k if is_alone else (label, str(group)), own)
        instance.repairs += [*repairs, *([Reason.OTHER_TYPE] if type(stated) is int else [])]
        if isinstance(drawn, list):
            instance.polygons.append(drawn)
        elif isinstance(drawn, Patch):
            instance.patches.append(drawn)
    image.instances = list(instances.values())


def labelme_shape(shape: dict[str, Any], source: str, place: str) -> tuple[Shape, list[Reason]]:
    """What one shape covers, in pixels, and what of it was mended."""
    points = need(shape, "points", list, source, place)
    kind = shape.get("shape_type") or "polygon"  # labelme 3 and older knew nothing else
    if not all(isinstance(point, list) and len(point) in (2, 3) for point in points):
        return Reason.BAD_COORDINATES, []
    repairs = [Reason.THIRD_COORDINATE] * any(len(point) == 3 for point in points)
    stated = [value for point in points for value in point[:2]]
    if kind == "polygon" or (kind in _RECTANGLES and len(points) == 4):
        return stated, repairs
    if kind not in ("rectangle", "circle", "mask"):
        return Reason.OTHER_SHAPE, []
    flat = list(map(number, stated))
    repairs += [Reason.OTHER_TYPE] * any(isinstance(value, str) for value in stated)
    if len(points) != 2 or math.isnan(sum(flat)):
        return Reason.BAD_COORDINATES, []
    if kind == "mask":
        return parse_mask(shape.get("mask"), flat) or Reason.BAD_MASK, repairs
    x0, y0, x1, y1 = flat
    radius = math.hypot(x1 - x0, y1 - y0)
    return rectangle(*flat) if kind == "rectangle" else ellipse(x0, y0, radius, radius), repairs


def parse_mask(encoded: Any, box: Sequence[float]) -> Patch | None:
    """A labelme mask, a PNG in base64 that fills ``box`` (x0, y0, x1, y1; the far edge included).

    None where it is no such PNG, or its size is not the box's.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
            mask = np.asarray(image.convert("L")) != 0
        x0, y0, x1, y1 = (int(value) for value in box)
    except Exception:  # PIL's decoders raise nearly every type of exception on damaged data
        return None
    fits = np.abs(np.subtract((y1 - y0 + 1, x1 - x0 + 1), mask.shape)).max() <= 1
    return Patch(mask, x0, y0) if fits else None


def load_via_json(
    annotations: str | Path,
    image_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
    attribute: str | None = None,
) -> LoadedDataset:
    """Load a json that VIA 1 or 2 exported, or a saved VIA 2 project.

    Polygon, polyline (closed), rect, circle and ellipse regions become polygons; other regions are
    left out and counted.

    Args:
        annotations: the json file.
        image_root: the folder of the images, which VIA's ``filename`` is relative to. Default: the
            one of the json file.
        classes: class names, in the order wanted. Default: all labels found, sorted.
        merge: class -> the labels in the file that become it.
        attribute: the region attribute that holds the class: a text, or a checkbox with exactly one
            box ticked. Default: the only attribute there is. Where ``classes`` is one name: the
            attribute that has this name as a value; where none has, every region is of that class,
            whatever its attributes.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, an attribute
            that cannot be told, labels that ``classes`` lacks, and where no image can be used.
    """
    path = existing(annotations, "annotation file", "file")
    root = ImageFolder(image_root, path.parent)
    source = str(path)
    records = via_records(read_json(path), source)
    only = classes[0] if classes is not None and len(classes) == 1 else ""
    attribute = choose_attribute(
        [r["region_attributes"] for record in records.values() for r in record["regions"]],
        *(attribute, only, source),
    )
    images = [RawImage(r["filename"], k) for k, r in enumerate(records.values(), start=1)]
    root.locate(images)
    for image, (key, record) in zip(images, records.items(), strict=True):
        for k, region in enumerate(record["regions"]):
            shape = region["shape_attributes"]
            kind = need(shape, "name", str, source, f"image {key!r}.regions[{k}].shape_attributes")
            drawn = via_shape(kind, shape)
            note = kind if drawn is Reason.OTHER_SHAPE else ""
            own = region["region_attributes"]
            label = only if attribute is None else parse_label(own.get(attribute))
            instance = RawInstance(Place(image.file_name, "regions", k, note, key), label)
            if isinstance(drawn, Reason):
                instance.problem = drawn
            else:
                instance.polygons, instance.problem = [drawn], None if label else Reason.NO_LABEL
                if any(isinstance(shape[key], str) for key in shape.keys() - {"name"}):
                    instance.repairs.append(Reason.OTHER_TYPE)
            image.instances.append(instance)
    return assemble(images, source, classes, merge)


def via_records(data: Any, source: str) -> dict[str, dict[str, Any]]:
    """The entry of each image, its regions a list (VIA 1 writes an object of numbered regions)."""
    records = data.get("_via_img_metadata", data) if isinstance(data, dict) else data
    if not isinstance(records, dict) or (
        records and not any(isinstance(r, dict) and "regions" in r for r in records.values())
    ):
        raise wrong_kind(data, source, "a VIA json")
    result = {}
    for key, record in records.items():
        place = f"image {key!r}"
        regions = need({place: record}, place, dict, source, "").get("regions")
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        for k, region in enumerate(need({"regions": regions}, "regions", list, source, place)):
            region_place = f"{place}.regions[{k}]"
            need(region, "shape_attributes", dict, source, region_place)
            region.setdefault("region_attributes", {})
            need(region, "region_attributes", dict, source, region_place)
        result[key] = {"filename": None, **record, "regions": regions}
    return result


def choose_attribute(
    attributes: Sequence[Mapping[str, Any]], chosen: str | None, only: str, source: str
) -> str | None:
    """The region attribute that holds the class; where it cannot be told, an error lists all.

    None: all regions are of the class ``only``, which none of their ``attributes`` has as a value.
    """
    if chosen is None and only:
        fitting = [k for a in attributes for k, value in a.items() if parse_label(value) == only]
        return max(Counter(fitting), key=fitting.count, default=None)
    found = Counter(name for own in attributes for name in own)
    listed = ", ".join(f"{name!r} (in {count} regions)" for name, count in found.most_common())
    refuse(
        (
            chosen is not None and found and chosen not in found,
            f"{source}: no region has the attribute {chosen!r}; there are: {listed}",
        ),
        (
            chosen is None and len(found) > 1,
            f"{source}: the regions have several attributes: {listed}. Name the one that holds the "
            "class as attribute, or pass one name as classes if all are of one class",
        ),
        (
            chosen is None and attributes and not found,
            f"{source}: the regions have no attribute to tell their class; "
            "pass one name as classes, which all of them will have",
        ),
        error=DatasetError,
    )
    return next(iter(found), "") if chosen is None else chosen


def parse_label(value: Any) -> str:
    """The class in an attribute's value; "" where there is none, or more than one box is ticked."""
    if isinstance(value, dict):
        ticked = [str(name).strip() for name, on in value.items() if on is True]
        return ticked[0] if len(ticked) == 1 else ""
    return "" if value is None or isinstance(value, (list, bool)) else str(value).strip()


def via_shape(kind: str, shape: dict[str, Any]) -> list[Any] | Reason:
    """The outline of a region, flat x, y in pixels. VIA's ``theta`` is in radians."""
    if kind in ("polygon", "polyline"):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            return Reason.BAD_COORDINATES
        return [value for point in zip(xs, ys, strict=True) for value in point]
    of = {key: number(value) for key, value in {"theta": 0.0, **shape}.items()}
    keys = {"rect": "x y width height", "circle": "cx cy r r", "ellipse": "cx cy rx ry"}
    if kind not in keys:
        return Reason.OTHER_SHAPE
    x, y, a, b = (of.get(key, math.nan) for key in keys[kind].split())
    if kind == "rect":
        return rectangle(x, y, x + a, y + b)
    return ellipse(x, y, a, b, of["theta"] if kind == "ellipse" else 0.0)
