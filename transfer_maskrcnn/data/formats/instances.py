"""From the instances that a parser found to detectron2 annotations: masks, boxes, areas, crowds.

All of a file are looked at in one array, and only what is odd is looked at alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from .base import LoadReport, RawImage, RawInstance, Reason
from .files import number
from .masks import (
    TOLERANCE,
    Segmentation,
    box_of,
    box_tolerance,
    boxes_fit,
    clean_polygons,
    clean_rle,
    flat_numbers,
    mask_to_rle,
    paste,
    polygons_area,
    polygons_to_rle,
    rle_area,
    rle_to_mask,
    sound_polygon,
)
from .rings import cut_holes

_CUT = frozenset((Reason.PART_DROPPED, Reason.CLIPPED))
PLACE = "place"  # of an annotation in its file, until all are gathered
_AREA_FACTOR = 2.0  # how far a stated area may be from the mask's, either way
_ALIKE = 0.9  # of the boxes that are wrong: they are wrong in the same way
_SCALED = " times as large"  # of boxes
_SAME_FILL = 0.15  # how far apart the shares may be that two areas have of their boxes
# COCO has a crowd in a hundred instances, and few of them are one compact piece.
_MANY_CROWDS, _SOME_CROWDS, _COMPACT = 0.25, 0.05, 0.8


@dataclass
class _Found:
    """Instances and what is known of them, row k of each array being of instance k.

    ``sizes`` are height and width of the image, ``around`` is the box of the mask (x0, y0, x1, y1),
    ``areas`` its area, ``stated_areas`` what the file says, or NaN. All in pixels.
    """

    instances: list[RawInstance]
    sizes: np.ndarray
    masks: list[Segmentation]
    around: np.ndarray
    areas: np.ndarray
    stated_areas: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        return np.array([one.problem is None for one in self.instances], dtype=bool)


def annotate(
    images: Sequence[RawImage],
    sizes: Sequence[tuple[int, int]],
    index: Mapping[str, int],
    report: LoadReport,
) -> list[list[dict[str, Any]]]:
    """The usable instances of each image as detectron2 annotations; the others are counted.

    Args:
        images: those that are kept.
        sizes: height and width of each in pixels.
        index: label -> number of its class.
    """
    instances = [one for image in images for one in image.instances]
    counts = [len(image.instances) for image in images]
    found = _masks(instances, np.repeat(np.reshape(sizes, (-1, 2)), counts, axis=0))
    boxes = _boxes(found, report)
    is_stated = _fitting_areas(found, report)
    _doubt_crowds(found, report)
    rows = zip(
        *(instances, found.masks, boxes.tolist(), is_stated.tolist(), found.stated_areas.tolist()),
        strict=True,
    )
    return [[*_annotations(islice(rows, count), index, report)] for count in counts]


def _annotations(
    rows: Iterable[tuple[RawInstance, Segmentation, list[float], bool, float]],
    index: Mapping[str, int],
    report: LoadReport,
) -> Iterator[dict[str, Any]]:
    for instance, mask, box, is_stated, area in rows:
        if instance.problem:
            report.count(report.left_out, instance.problem, instance.place)
            continue
        annotation = {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": index[instance.label],
            "segmentation": mask,
            "iscrowd": instance.iscrowd,
            PLACE: instance.place,
            **({"area": area} if is_stated else {}),
        }
        for repair in dict.fromkeys(instance.repairs):
            report.count(report.repaired, repair, instance.place)
        for doubt in instance.doubts:
            report.count(report.doubted, doubt, instance.place)
        yield annotation


def _masks(instances: list[RawInstance], sizes: np.ndarray) -> _Found:
    """The masks; an instance learns why it has none, or what of it was mended."""
    total = len(instances)
    stated_areas = _numbers(instances, [(one.area,) for one in instances], 1)[:, 0]
    found = _Found(instances, sizes, [], np.zeros((total, 4)), np.zeros(total), stated_areas)
    for k, (one, size) in enumerate(zip(instances, sizes.tolist(), strict=True)):
        found.masks.append([] if one.problem else _mask(found, k, *size))
    return found


def _mask(found: _Found, k: int, height: int, width: int) -> Segmentation:
    """The mask of instance ``k``, whose box and area are put into ``found``."""
    one = found.instances[k]
    drawn = _in_pixels(one, height, width)
    sound = sound_polygon(drawn[0], height, width) if len(drawn) == 1 and not one.patches else None
    if sound is not None:
        polygon, found.areas[k], found.around[k] = sound
        return [polygon]
    if one.rle is None:
        mask = _drawn(one, drawn, found.stated_areas[k], height, width)
    else:
        mask, one.problem = clean_rle(one.rle, height, width)
    if mask:
        found.around[k] = box_of(mask)
        found.areas[k] = rle_area(mask) if isinstance(mask, dict) else polygons_area(mask)
    return mask


def _drawn(
    one: RawInstance, parts: list[Any], stated_area: float, height: int, width: int
) -> Segmentation:
    """The union of polygons, ``parts`` in pixels, and patches; their holes are cut out."""
    polygons, problem, repairs = clean_polygons(parts, height, width)
    one.repairs += repairs
    if len(polygons) > 1:
        # Of a clipped instance, it is the area of what was drawn.
        stated = math.nan if Reason.CLIPPED in one.repairs else float(stated_area)
        polygons, holes = cut_holes(polygons, height, width, stated)
        one.repairs += [Reason.HOLES] if holes is Reason.HOLES else []
        one.doubts += [Reason.PART_IN_PART] if holes is Reason.PART_IN_PART else []
    if one.patches:
        return _pasted(one, polygons, height, width)
    one.problem = problem
    return polygons


def _in_pixels(one: RawInstance, height: int, width: int) -> list[Any]:
    """The polygons of an instance as they are drawn; what is no list of numbers as it is."""
    if not one.relative:
        return one.polygons
    numbers = [flat_numbers(polygon)[0] for polygon in one.polygons]
    sides = width, height
    return [n if n is None else (n * np.resize(sides, n.size)).tolist() for n in numbers]


def _pasted(one: RawInstance, polygons: list[list[float]], height: int, width: int) -> Segmentation:
    mask = paste(one.patches, height, width)
    if polygons:
        mask |= rle_to_mask(polygons_to_rle(polygons, height, width))
    if not mask.any():
        drawn = any(patch.mask.any() for patch in one.patches)
        one.problem = Reason.OUTSIDE_IMAGE if drawn else Reason.ZERO_AREA
    return mask_to_rle(mask)


def _boxes(found: _Found, report: LoadReport) -> np.ndarray:
    """(N, 4): x0, y0, x1, y1 inside the image. The file's own box, where that is around the mask,
    or else the mask's."""
    rows = [
        row if type(row := one.bbox_xywh) is list and len(row) == 4 else [math.nan] * 4
        for one in found.instances
    ]
    stated = _numbers(found.instances, rows, 4)
    has_boxes = [one.bbox_xywh is not None for one in found.instances]
    usable = found.usable & np.array(has_boxes, dtype=bool)
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = stated[:, :2], stated[:, :2] + stated[:, 2:]
        has_box = usable & np.isfinite(stated).all(axis=1) & (stated[:, 2:] > 0).all(axis=1)
        inner_low, inner_high = np.maximum(low, 0), np.minimum(high, found.sizes[:, ::-1])
        beyond = np.maximum(inner_low - low, high - inner_high).max(axis=1) > TOLERANCE
        fits = has_box & (inner_low < inner_high).all(axis=1)
    boxes = np.concatenate([inner_low, inner_high], axis=1)
    fits &= boxes_fit(boxes, found.around)
    off = has_box & ~fits
    for k in np.flatnonzero(off).tolist():  # a box may be around what was of no use
        if not _CUT.isdisjoint(found.instances[k].repairs):
            drawn = map(flat_numbers, _in_pixels(found.instances[k], *found.sizes[k].tolist()))
            whole = box_of([p for p, _ in drawn if p is not None and len(p) % 2 == 0])
            off[k] = not boxes_fit(np.append(low[k], high[k]), np.array([whole])).all()
    for k in np.flatnonzero(usable & ~fits & ~off).tolist():
        found.instances[k].repairs.append(Reason.BOX_RECOMPUTED)
    for k in np.flatnonzero(fits & beyond).tolist():
        found.instances[k].repairs.append(Reason.BOX_CLIPPED)
    _tell_off(found, np.flatnonzero(off), stated, report)
    return np.where(fits[:, None], boxes, found.around)


@np.errstate(over="ignore", invalid="ignore")  # of numbers that are no pixels
def _tell_off(found: _Found, off: np.ndarray, stated: np.ndarray, report: LoadReport) -> None:
    """Count the instances with the numbers ``off``, whose ``stated`` box is not around the mask."""
    around, areas = found.around[off], found.stated_areas[off]
    likely = _likely_form(stated[off], around, found.sizes[off])
    # The area fills the stated box as the mask fills its own: these are two against one.
    areas = np.where(np.isnan(areas), found.areas[off], areas) / stated[off, 2:].prod(axis=1)
    filled = found.areas[off] / (around[:, 2:] - around[:, :2]).prod(axis=1).clip(min=1e-9)
    is_mask = np.abs(areas - filled) <= _SAME_FILL * filled
    is_mask &= not likely or _SCALED in likely  # in another form, it is the boxes
    found.stated_areas[off[is_mask]] = math.nan
    for k, is_off in zip(off.tolist(), is_mask.tolist(), strict=True):
        is_, reaches = (
            ", ".join(f"{value:.6g}" for value in row) for row in (stated[k], found.around[k])
        )
        note = f"bbox is {is_}{likely}; the mask reaches from x0, y0 to x1, y1 of {reaches}"
        counts = report.doubted if is_off else report.repaired
        reason = Reason.MASK_OFF if is_off else Reason.BOX_OFF
        report.count(counts, reason, found.instances[k].place._replace(note=note))


def _likely_form(stated: np.ndarray, around: np.ndarray, sizes: np.ndarray) -> str:
    """In which form nearly all of the ``stated`` boxes, (N, 4), are those of the masks."""
    low, high = around[:, :2], around[:, 2:]
    side = high - low
    forms = {
        "x0, y0, x1, y1": around,
        "centre x, y, width, height": np.concatenate([(low + high) / 2, side], axis=1),
        "x, y, width, height": np.concatenate([low, side], axis=1),
        "y, x, height, width": np.concatenate([low[:, ::-1], side[:, ::-1]], axis=1),
    }
    most = np.tile(box_tolerance(around), 2)
    for name, expected in forms.items() if len(stated) else ():
        scale = float(np.median(stated.sum(axis=1) / expected.sum(axis=1).clip(min=1e-9)))
        units = {
            "": np.ones(4),
            " in fractions of the image": 1 / np.tile(sizes[:, ::-1], 2),
            f", {scale:.3g}{_SCALED}": np.full(4, max(scale, 1e-9)),
        }
        for unit, factor in units.items():
            if (np.abs(stated / factor - expected) <= most).all(axis=1).mean() >= _ALIKE:
                return f", which looks like {name}{unit}"
    return ""


def _fitting_areas(found: _Found, report: LoadReport) -> np.ndarray:
    """(N,) bool: whether the file states an area, and a likely one."""
    stated, areas = found.stated_areas, found.areas
    clipped = np.array([Reason.CLIPPED in one.repairs for one in found.instances], dtype=bool)
    # Of a clipped instance, it is the area of what was drawn.
    is_stated = (stated > 0) & (stated < math.inf) & ~clipped
    fits = (areas / _AREA_FACTOR <= stated) & (stated <= areas * _AREA_FACTOR)
    for k in np.flatnonzero(is_stated & ~fits & found.usable):
        note = f"area {stated[k]:g}, the mask has {areas[k]:g}"
        place = found.instances[k].place._replace(note=note)
        report.count(report.repaired, Reason.AREA_MISMATCH, place)
    return is_stated & fits


def _doubt_crowds(found: _Found, report: LoadReport) -> None:
    """Count crowds, which are not trained on, where they may be objects: tools write brush masks
    as such."""
    crowds = [k for k, one in enumerate(found.instances) if one.iscrowd and not one.problem]
    kept = int(np.count_nonzero(found.usable))
    many = len(crowds) > _MANY_CROWDS * kept
    several = len(crowds) > max(1, _SOME_CROWDS * kept)
    if many or (several and all(_is_compact(found.masks[k]) for k in crowds)):
        for place in (found.instances[k].place for k in crowds):
            note = "iscrowd 1; read with crowds: instances, it is an object"
            report.count(report.doubted, Reason.CROWDS, place._replace(note=note))


def _is_compact(mask: Segmentation) -> bool:
    """Whether a bitmask is one piece that fills most of its convex hull."""
    if not isinstance(mask, dict):
        return False
    x, y, width, height = map(int, mask_util.toBbox(mask))
    crop = np.ascontiguousarray(mask_util.decode(mask)[y : y + height, x : x + width])
    hull = cv2.contourArea(cv2.convexHull(cv2.findNonZero(crop)))
    return cv2.connectedComponents(crop)[0] == 2 and int(crop.sum()) >= _COMPACT * hull


def _numbers(
    instances: Sequence[RawInstance], rows: Sequence[Sequence[Any]], width: int
) -> np.ndarray:
    """(N, width) float64 of a row an instance, NaN where a value is no number. Numbers written as
    text are read, and counted as mended."""
    values = list(chain.from_iterable(rows))
    kinds = set(map(type, values))
    if kinds <= {int, float}:
        with suppress(OverflowError):  # a whole number that no float can hold
            return np.array(values, dtype=np.float64).reshape(len(rows), width)
    if str in kinds:
        for one, row in zip(instances, rows, strict=True):
            if any(type(value) is str and not math.isnan(number(value)) for value in row):
                one.repairs.append(Reason.OTHER_TYPE)
    return np.array([number(v) for v in values], dtype=np.float64).reshape(len(rows), width)
