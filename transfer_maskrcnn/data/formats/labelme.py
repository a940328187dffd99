"""labelme: a folder with one json file an image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from transfer_maskrcnn.errors import DatasetError

from .assemble import assemble
from .base import LoadedDataset, LoadReport, Patch, Place, RawImage, RawInstance, Reason
from .files import (
    check_classes,
    choose_classes,
    clip,
    count_labels,
    existing,
    images_by_stem,
    list_images,
    natural_key,
    need,
    number,
    read_json,
    wrong_kind,
    wrong_type,
)
from .masks import ellipse, rectangle


def load_labelme_json(
    annotations: str | Path,
    image_root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
) -> LoadedDataset:
    """Load a folder of labelme json files.

    Polygon, rectangle, circle and mask shapes; shapes with the same label and the same ``group_id``
    are parts of one instance. Other shapes (points, lines) are left out and counted.

    Args:
        annotations: the folder of the json files; all ``*.json`` directly in it are read.
        image_root: the folder of the images. An ``imagePath`` that is missing, or not found in it,
            is replaced by the image whose name is the json file's. Images directly in it that no
            json file belongs to are left out and counted.
        classes: class names, in the order wanted. Default: all labels found, sorted.
        label_map: label in the files -> class name ({"cat1": "cat", "cat2": "cat"}); labels it does
            not name stay as they are. Instances are grouped by the label in the file.

    Raises:
        DatasetError: for a file or folder that is missing, broken or of another kind, labels that
            ``classes`` lacks, and where no image can be used.
    """
    wanted = check_classes(classes)
    mapping = check_label_map(label_map)
    folder = existing(annotations, "annotations", "folder")
    root = existing(image_root, "image_root", "folder")
    files = sorted(folder.glob("*.json"), key=lambda p: natural_key(p.name))
    if not files:
        raise DatasetError(
            f"{folder} has no *.json file; expected the folder of labelme's json files"
        )
    found = list_images(root)
    by_stem = images_by_stem(found)
    images = []
    for image_id, file in enumerate(files, start=1):
        data = read_json(file)
        image = parse_labelme(data, image_id, str(file), mapping)
        image.file_name = str(find_image(data.get("imagePath"), file.stem, root, by_stem))
        images.append(image)
    chosen = choose_classes(
        count_labels(images), wanted, str(folder), hint=", or map them to classes with label_map"
    )
    report = _count_others(found, images)
    return assemble(images, classes=chosen, source=str(folder), report=report)


def _count_others(found: Sequence[Path], images: Sequence[RawImage]) -> LoadReport:
    """A report of the image files that no json file belongs to."""
    report = LoadReport()
    used = {image.file_name for image in images}
    for path in map(str, found):
        if path not in used:
            report.images_read += 1
            report.leave_out_image(Reason.IMAGE_WITHOUT_JSON, Place(path))
    return report


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


def find_image(image_path: Any, stem: str, root: Path, by_stem: Mapping[str, Path]) -> Path:
    """The image that a json file belongs to; where there is none, the path it ought to have."""
    if not isinstance(image_path, str) or not image_path:
        return by_stem.get(stem, root / stem)
    relative = PurePosixPath(image_path.replace("\\", "/"))  # Windows writes backslashes
    leaves_root = relative.is_absolute() or ".." in relative.parts
    for candidate in (root / relative, root / relative.name)[leaves_root:]:
        if candidate.is_file():
            return candidate
    return by_stem.get(stem, root / relative.name)


def parse_labelme(data: Any, image_id: int, source: str, label_map: Mapping[str, str]) -> RawImage:
    """The image of one json file, its ``file_name`` left empty."""
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise wrong_kind(data, source, "a labelme json")
    image = RawImage("", image_id)
    if data.get("imageHeight") is not None and data.get("imageWidth") is not None:
        height = need(data, "imageHeight", int, source, "the file")
        image.stated_size = (height, need(data, "imageWidth", int, source, "the file"))
    groups: dict[tuple[str, str], RawInstance] = {}
    for k, shape in enumerate(data["shapes"]):
        place = f"shapes[{k}]"
        label = need(shape, "label", str, source, place)
        polygons, patches, problem = parse_shape(shape, source, place)
        kind = str(shape.get("shape_type")) if problem is Reason.OTHER_SHAPE else ""
        instance = RawInstance(Place("", "shapes", k, kind), label_map.get(label, label))
        instance.problem = problem
        group = shape.get("group_id")
        if group is not None and not problem:
            instance = groups.setdefault((label, str(group)), instance)
        instance.polygons += polygons
        instance.patches += patches
        if not any(instance is other for other in image.instances):
            image.instances.append(instance)
    return image


def parse_shape(
    shape: dict[str, Any], source: str, place: str
) -> tuple[list[list[float]], list[Patch], Reason | None]:
    """Polygons and patches of one shape in pixels, and why there are none."""
    kind = shape.get("shape_type") or "polygon"  # labelme 3 and older knew nothing else
    points = need(shape, "points", list, source, place)
    for k, point in enumerate(points):
        if not isinstance(point, list) or len(point) != 2:
            raise wrong_type(point, list, source, f"{place}.points[{k}]")
    flat = [number(value) for point in points for value in point]
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return [flat], [], None
    if kind in ("rectangle", "circle", "mask") and (len(points) != 2 or math.isnan(sum(flat))):
        return [], [], Reason.BAD_COORDINATES
    if kind == "rectangle":
        return [rectangle(flat[0], flat[1], flat[2], flat[3])], [], None
    if kind == "circle":
        radius = math.hypot(flat[2] - flat[0], flat[3] - flat[1])
        return [ellipse(flat[0], flat[1], radius, radius)], [], None
    if kind == "mask":
        patch = parse_mask(shape.get("mask"), flat)
        return [], [patch] if patch else [], None if patch else Reason.BAD_MASK
    return [], [], Reason.OTHER_SHAPE


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
    height, width = mask.shape
    if abs(x1 - x0 + 1 - width) > 1 or abs(y1 - y0 + 1 - height) > 1:
        return None
    return Patch(mask, x0, y0)
