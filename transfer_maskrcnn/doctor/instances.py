"""What is wrong with the instances of one image, beyond what the loader refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
import shapely
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.data.formats.polygons import polygons_area
from transfer_maskrcnn.text import plural

Annotation = dict[str, Any]
Rle = dict[str, Any]

TINY_SIDE = 4  # pixels of the network's input: the stride of its finest features
_SAME, _NEARLY_SAME = 0.999, 0.9  # IoU
_SAME_OF_ANOTHER_CLASS = 0.95
_AREA_TOLERANCE = 0.1
_BOX_TOLERANCE = 0.1  # of the mask's side
_PIECES = 4


class Seen(NamedTuple):
    """A kind of finding, the annotations of the record that it is about, and figures."""

    kind: str
    instances: tuple[int, ...]
    note: str


def look_at_instances(record: dict[str, Any], scale: float) -> list[Seen]:
    """Everything odd about the annotations of one detectron2 dataset dict.

    Args:
        record: as the loaders make it: boxes in pixels of the image, masks as polygons or RLE.
        scale: how many times larger the network sees the image.
    """
    height, width = record["height"], record["width"]
    found: list[Seen] = []
    shapes: dict[int, Rle] = {}
    for i, annotation in enumerate(record["annotations"]):
        segmentation = annotation.get("segmentation")
        if annotation.get("iscrowd"):
            found.append(Seen("only_crowd", (i,), ""))
        elif segmentation:
            shapes[i] = rle_of(segmentation, height, width)
            found += [Seen(kind, (i,), note) for kind, note in _alone(annotation, shapes[i], scale)]
    return found + list(_pairs(record["annotations"], shapes))


def rle_of(segmentation: Any, height: int, width: int) -> Rle:
    """Polygons, or an RLE of any kind, as compressed RLE."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return dict(mask_util.frPyObjects(segmentation, height, width))
    return as_rle(segmentation, height, width)


def _alone(annotation: Annotation, rle: Rle, scale: float) -> Iterator[tuple[str, str]]:
    segmentation = annotation["segmentation"]
    polygons = segmentation if isinstance(segmentation, list) else []
    if polygons and max(map(max, polygons)) <= 1:
        yield "normalised", ""
        return
    pixels = int(mask_util.area(rle))
    area = polygons_area(polygons) if polygons else float(pixels)
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    if pixels * scale**2 < TINY_SIDE**2:
        yield "tiny", f"{plural(pixels, 'pixel')}, {pixels * scale**2:.1f} after resizing"
    stated = annotation.get("stated_area", annotation.get("area"))
    if stated is not None and abs(stated - area) > max(_AREA_TOLERANCE * area, 2):
        yield "area_wrong", f"area {stated:g}, the mask has {area:g}"
    if pixels:
        yield from _box_problem(box, polygons, rle)
    if any(crosses_itself(polygon) for polygon in polygons):
        yield "self_crossing", ""
    if _is_its_box(polygons, box):
        yield "only_boxes", ""
    pieces = _similar_pieces(polygons, rle)
    if pieces >= _PIECES:
        yield "many_pieces", f"{pieces} pieces"


def _box_problem(
    box: Sequence[float], polygons: list[list[float]], rle: Rle
) -> Iterator[tuple[str, str]]:
    around = _box_of(polygons, rle)
    sides = np.maximum(around[2:] - around[:2], 1)
    off = np.abs(np.asarray(box) - around).reshape(2, 2)
    if (off > np.maximum(_BOX_TOLERANCE * sides, 2)).any():
        yield "box_off", f"box {_numbers(box)}, mask within {_numbers(around)} (x0, y0, x1, y1)"


def _box_of(polygons: list[list[float]], rle: Rle) -> NDArray[np.float64]:
    """x0, y0, x1, y1 around a mask, in pixels."""
    if polygons:
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        return np.concatenate([points.min(axis=0), points.max(axis=0)])
    x, y, width, height = mask_util.toBbox(rle)
    return np.array([x, y, x + width, y + height])


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether a polygon's lines cross such that its area depends on who computes it.

    Bridges of no width, by which formats without holes cut them in, do no harm.
    """
    points = np.reshape(polygon, (-1, 2))
    if len(points) < 4:
        return False
    shape = shapely.Polygon(points)
    if shape.is_valid:
        return False
    shoelace = polygons_area([polygon])
    return bool(abs(shapely.make_valid(shape).area - shoelace) > 0.02 * max(shoelace, 1.0))


def _is_its_box(polygons: list[list[float]], box: Sequence[float]) -> bool:
    if len(polygons) != 1:
        return False
    points = np.reshape(polygons[0], (-1, 2))
    if len(points) == 5 and (points[0] == points[-1]).all():
        points = points[:4]
    corners = {(box[i], box[j]) for i in (0, 2) for j in (1, 3)}
    near = [any(abs(x - a) + abs(y - b) <= 1 for a, b in corners) for x, y in points]
    return len(points) == 4 and all(near) and len({tuple(p) for p in points.tolist()}) == 4


def _similar_pieces(polygons: list[list[float]], rle: Rle) -> int:
    """How many separate pieces there are of at least a third of the largest one's area."""
    if polygons:
        if len(polygons) < _PIECES:
            return len(polygons)
        areas = np.array([polygons_area([polygon]) for polygon in polygons])
    else:
        x, y, width, height = (int(v) for v in mask_util.toBbox(rle))
        crop = mask_util.decode(rle)[y : y + height, x : x + width]
        areas = cv2.connectedComponentsWithStats(np.ascontiguousarray(crop))[2][1:, 4]
    return int((areas * 3 >= areas.max(initial=1)).sum())


def _pairs(annotations: list[Annotation], shapes: dict[int, Rle]) -> Iterator[Seen]:
    """Instances that lie on each other; each is told of once, the later one first."""
    indices = [i for i, rle in shapes.items() if mask_util.area(rle) > 1]
    if len(indices) < 2:
        return
    rles = [shapes[i] for i in indices]
    boxes = np.stack([mask_util.toBbox(rle) for rle in rles])
    crowd = [0] * len(rles)
    close = np.triu(mask_util.iou(boxes, boxes, crowd), 1) > _NEARLY_SAME - 0.2
    told: set[int] = set()
    for a, b in np.argwhere(close):
        iou = float(mask_util.iou([rles[a]], [rles[b]], [0])[0, 0])
        kind = _pair_kind(annotations[indices[a]], annotations[indices[b]], iou)
        if kind and b not in told:
            told.add(int(b))
            yield Seen(kind, (indices[b], indices[a]), f"IoU {iou:.3f}")


def _pair_kind(one: Annotation, other: Annotation, iou: float) -> str:
    if one["category_id"] != other["category_id"]:
        return "two_classes" if iou >= _SAME_OF_ANOTHER_CLASS else ""
    if iou >= _SAME:
        return "duplicate"
    return "near_duplicate" if iou >= _NEARLY_SAME else ""
