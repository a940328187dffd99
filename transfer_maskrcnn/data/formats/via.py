"""VGG Image Annotator (VIA) json, versions 1 and 2."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError

from .assemble import assemble
from .base import LoadedDataset, Place, RawImage, RawInstance, Reason
from .files import (
    check_classes,
    choose_classes,
    count_labels,
    existing,
    need,
    number,
    read_json,
    wrong_kind,
    wrong_type,
)
from .masks import ellipse, rectangle


def load_via_json(
    annotations: str | Path,
    image_root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    attribute: str | None = None,
) -> LoadedDataset:
    """Load a json that VIA 1 or 2 exported, or a saved VIA 2 project.

    Polygon, polyline (closed), rect, circle and ellipse regions become polygons; other regions are
    left out and counted.

    Args:
        annotations: the json file.
        image_root: the folder of the images; VIA's ``filename`` is relative to it.
        classes: class names, in the order wanted. Default: all labels found, sorted.
        attribute: the region attribute that holds the class: a text, or a checkbox with exactly one
            box ticked. Default: the only attribute there is. Where ``classes`` is one name: the
            attribute that has this name as a value; where none has, every region is of that class,
            whatever its attributes.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, an attribute
            that cannot be told, labels that ``classes`` lacks, and where no image can be used.
    """
    wanted = check_classes(classes)
    path = existing(annotations, "annotation file", "file")
    root = existing(image_root, "image_root", "folder")
    source = str(path)
    records = image_records(read_json(path), source)
    one_class = wanted[0] if wanted is not None and len(wanted) == 1 else ""
    if attribute is None and one_class:
        attribute = attribute_with(records, one_class)
    if attribute is None and one_class:
        images = parse_via(records, str(root), source, fixed=one_class)
    else:
        attribute = choose_attribute(records, attribute, source)
        images = parse_via(records, str(root), source, attribute=attribute)
    chosen = choose_classes(count_labels(images), wanted, source)
    return assemble(images, classes=chosen, source=source)


def image_records(data: Any, source: str) -> dict[str, dict[str, Any]]:
    """VIA's key of each image -> its record, the regions made a list of objects."""
    records = data.get("_via_img_metadata", data) if isinstance(data, dict) else data
    if not isinstance(records, dict) or (
        records and not any(isinstance(r, dict) and "regions" in r for r in records.values())
    ):
        raise wrong_kind(data, source, "a VIA json")
    if not records:
        raise DatasetError(f"{source} lists no images; expected at least one")
    result = {}
    for key, record in records.items():
        place = f"image {key!r}"
        need(record, "filename", str, source, place)
        regions = record.get("regions")
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(regions, list):
            raise wrong_type(regions, list, source, f"{place}.regions")
        for k, region in enumerate(regions):
            need(region, "shape_attributes", dict, source, f"{place}.regions[{k}]")
            if not isinstance(region.setdefault("region_attributes", {}), dict):
                raise wrong_type(
                    region["region_attributes"],
                    dict,
                    source,
                    f"{place}.regions[{k}].region_attributes",
                )
        result[key] = {**record, "regions": regions}
    return result


def attribute_with(records: dict[str, dict[str, Any]], label: str) -> str | None:
    """The region attribute that most often has the value ``label``; None where none ever has."""
    found = Counter(
        name
        for record in records.values()
        for region in record["regions"]
        for name, value in region["region_attributes"].items()
        if parse_label(value) == label
    )
    return max(found, key=found.__getitem__, default=None)


def choose_attribute(records: dict[str, dict[str, Any]], attribute: str | None, source: str) -> str:
    """The region attribute that holds the class; where it cannot be told, an error lists all."""
    found = Counter(
        name
        for record in records.values()
        for region in record["regions"]
        for name in region["region_attributes"]
    )
    listed = ", ".join(f"{name!r} (in {count} regions)" for name, count in found.most_common())
    if attribute is not None:
        if found and attribute not in found:
            raise DatasetError(
                f"{source}: no region has the attribute {attribute!r}; there are: {listed}"
            )
        return attribute
    if len(found) > 1:
        raise DatasetError(
            f"{source}: the regions have several attributes: {listed}. Name the one that holds the "
            "class as attribute, or pass one name as classes if all are of one class"
        )
    if not found and any(record["regions"] for record in records.values()):
        raise DatasetError(
            f"{source}: the regions have no attribute to tell their class; "
            "pass one name as classes, which all of them will have"
        )
    return next(iter(found), "")


def parse_via(
    records: dict[str, dict[str, Any]],
    image_root: str,
    source: str,
    *,
    attribute: str = "",
    fixed: str = "",
) -> list[RawImage]:
    """The images and their regions, which have the class ``fixed`` or that of ``attribute``."""
    images = []
    for image_id, (key, record) in enumerate(records.items(), start=1):
        image = RawImage(os.path.join(image_root, record["filename"]), image_id)
        for k, region in enumerate(record["regions"]):
            shape = region["shape_attributes"]
            name = need(shape, "name", str, source, f"image {key!r}.regions[{k}].shape_attributes")
            polygon, problem = parse_shape(name, shape)
            label = fixed or parse_label(region["region_attributes"].get(attribute))
            place = Place("", "regions", k, name if problem is Reason.OTHER_SHAPE else "")
            instance = RawInstance(place, label, polygons=[polygon])
            instance.problem = problem or (None if label else Reason.NO_LABEL)
            image.instances.append(instance)
        images.append(image)
    return images


def parse_label(value: Any) -> str:
    """The class in an attribute's value; "" where there is none, or more than one box is ticked."""
    if isinstance(value, dict):
        ticked = [str(name).strip() for name, on in value.items() if on is True]
        return ticked[0] if len(ticked) == 1 else ""
    return "" if value is None or isinstance(value, (list, bool)) else str(value).strip()


def parse_shape(name: str, shape: dict[str, Any]) -> tuple[list[float], Reason | None]:
    """Flat polygon in pixels, and why there is none. VIA's ``theta`` is in radians."""
    if name in ("polygon", "polyline"):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            return [], Reason.BAD_COORDINATES
        return [number(value) for point in zip(xs, ys, strict=True) for value in point], None
    if name == "rect":
        x, y, width, height = (number(shape.get(key)) for key in ("x", "y", "width", "height"))
        return rectangle(x, y, x + width, y + height), None
    if name == "circle":
        cx, cy, r = (number(shape.get(key)) for key in ("cx", "cy", "r"))
        return ellipse(cx, cy, r, r), None
    if name == "ellipse":
        cx, cy, rx, ry = (number(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(cx, cy, rx, ry, number(shape.get("theta", 0.0))), None
    return [], Reason.OTHER_SHAPE
