"""Masks: polygons and outlines, checked, and mended where that is safe; bitmasks as run lengths.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height]. An RLE
is ``{"size": [height, width], "counts": ...}``; pixels are counted down the columns. What leaves
this module is compressed, its ``counts`` ASCII text: pycocotools decodes that, and json can hold
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import eq, mul
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .base import Patch, Reason

Rle = dict[str, Any]
Segmentation = Sequence[Sequence[float]] | Rle

# Pixels: annotation tools write x == width, or half a pixel more, as a matter of course.
TOLERANCE = 1.0
_FLAT = 1e-6  # pixels
_BOX_SHARE, _BOX_PIXELS = 0.1, 2.0  # how far an edge may be off: of the side, or in pixels
_MAX_POINTS = 1000
_SAGITTA = 0.1  # how far, in pixels, an edge of the polygon may run inside the true curve


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """The rectangle between two opposite corners, given in any order."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def ellipse(cx: float, cy: float, rx: float, ry: float, theta: float = 0.0) -> list[float]:
    """An ellipse with half axes ``rx``, ``ry``, turned by ``theta`` radians from x towards y.

    A radius that is not positive, or not finite, gives coordinates that are not numbers: the
    caller's cleaning counts them.
    """
    radius = max(rx, ry)
    if not (min(rx, ry) > 0 and math.isfinite(radius) and math.isfinite(theta)):
        return [math.nan] * 6
    share = min(max(0.5, 1 - _SAGITTA / radius), math.cos(math.pi / _MAX_POINTS))
    count = max(16, math.ceil(math.pi / math.acos(share)))
    angles = np.arange(count) * (2 * math.pi / count)
    u, v = rx * np.cos(angles), ry * np.sin(angles)
    cos, sin = math.cos(theta), math.sin(theta)
    return np.stack([cx + u * cos - v * sin, cy + u * sin + v * cos], axis=1).ravel().tolist()


def sound_polygon(
    polygon: Any, height: int, width: int
) -> tuple[list[float], float, list[float]] | None:
    """A polygon that :func:`clean_polygons` would leave as it is, found out in less time; its area
    and its box (x0, y0, x1, y1). None for any other.

    It is a list of numbers, finite, without consecutive repeated points, lies inside the image and
    has an area.
    """
    if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
        return None
    kinds = set(map(type, polygon))
    if not kinds <= {int, float}:
        return None
    xs, ys = polygon[::2], polygon[1::2]
    box = [min(xs), min(ys), max(xs), max(ys)]
    if min(box) < 0 or box[2] > width or box[3] > height:
        return None
    doubled = abs(sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1])))
    points = [*zip(xs, ys, strict=True)]
    if not doubled > 1e-3 or any(map(eq, points, points[1:])):  # nor is it, where one is NaN
        return None
    # Floats, since detectron2's transforms would write scaled ones into integer arrays.
    return polygon if kinds == {float} else [*map(float, polygon)], doubled / 2, box


def clean_polygons(
    parts: Sequence[Any], height: int, width: int
) -> tuple[list[list[float]], Reason | None, list[Reason]]:
    """Check every part (flat x, y) of an instance and keep what is usable.

    A part may repeat its first point at its end. Points up to ``TOLERANCE`` outside the image are
    moved onto its border without a word.

    Returns:
        the polygons that are usable, the reason why none is, and what was mended.
    """
    polygons: list[list[float]] = []
    problems: list[Reason] = []
    repairs: dict[Reason, None] = {}  # each once
    for part in parts:
        points, found = _clean_part(part, height, width)
        if points is None:
            problems += found
        else:
            polygons.append(points.reshape(-1).tolist())
            repairs |= dict.fromkeys(found)
    if not polygons:
        return [], problems[0] if problems else Reason.BAD_COORDINATES, []
    return polygons, None, [*repairs, *([Reason.PART_DROPPED] if problems else [])]


def _clean_part(part: Any, height: int, width: int) -> tuple[np.ndarray | None, list[Reason]]:
    """(N, 2) float64 points and what of them was mended; or None and why."""
    flat, repairs = flat_numbers(part)
    # Beyond 1e9 pixels the area would lose the digits that decide whether a polygon is flat.
    if flat is None or not (np.abs(flat) < 1e9).all():
        return None, [Reason.BAD_COORDINATES]
    if flat.size % 2:
        return None, [Reason.ODD_COUNT]
    points = flat.reshape(-1, 2)
    repeated = (points[1:] == points[:-1]).all(axis=1)
    if repeated.any():
        points = points[np.append(True, ~repeated)]
        repairs.append(Reason.REPEATED_POINTS)
    if len(np.unique(points, axis=0)) < 3:
        return None, [Reason.TOO_FEW_POINTS]
    border = np.array([width, height], dtype=np.float64)
    if (points < -TOLERANCE).any() or (points > border + TOLERANCE).any():
        points = clip_polygon(points, height, width)
        if len(points) < 3:
            return None, [Reason.OUTSIDE_IMAGE]
        repairs.append(Reason.CLIPPED)
    points = np.clip(points, 0.0, border)
    # How far the points are off a line. (The signed area is 0 for a figure of eight, too.)
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[1]
    return (points, repairs) if spread > _FLAT else (None, [Reason.ZERO_AREA])


def flat_numbers(part: Any) -> tuple[np.ndarray | None, list[Reason]]:
    """Numbers, also those written as text, which is a repair; None where there is anything else."""
    try:
        flat = np.asarray(part)
        is_text = flat.dtype.kind == "U"
        if flat.ndim != 1 or not flat.size or not (is_text or flat.dtype.kind in "iuf"):
            return None, []
        return flat.astype(np.float64), [Reason.OTHER_TYPE] if is_text else []
    except (ValueError, TypeError, OverflowError):
        return None, []


def clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon inside the image (Sutherland and Hodgman), (N, 2) to (M, 2).

    M is 0 where nothing is inside. A concave polygon that falls into pieces stays one polygon whose
    pieces are joined along the border of the image, which covers the same pixels.
    """
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = sign * (points[:, axis] - limit)  # negative: outside
        following = np.roll(points, -1, axis=0)
        following_inside = np.roll(inside, -1)
        crosses = (inside < 0) != (following_inside < 0)
        share = np.zeros(len(points))
        np.divide(inside, inside - following_inside, out=share, where=crosses)
        crossing = points + share[:, None] * (following - points)
        crossing[:, axis] = limit
        both = np.stack([points, crossing], axis=1).reshape(-1, 2)
        points = both[np.stack([inside >= 0, crosses], axis=1).reshape(-1)]
    return points


def polygons_area(polygons: Sequence[Sequence[float]]) -> float:
    """The areas of flat x, y polygons, summed."""
    origins = (np.reshape(polygon, (-1, 2)) - polygon[:2] for polygon in polygons)
    return sum(abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:])) / 2 for x, y in (p.T for p in origins))


def box_of(segmentation: Segmentation | Sequence[np.ndarray]) -> list[float]:
    """x0, y0, x1, y1 in pixels of the smallest box around a mask, its far edges included."""
    if isinstance(segmentation, dict):
        x, y, width, height = mask_util.toBbox(segmentation).tolist()
        return [x, y, x + width, y + height]
    points = np.concatenate([np.asarray(p).reshape(-1, 2) for p in segmentation])
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def box_tolerance(around: np.ndarray) -> np.ndarray:
    """(N, 2): how far, in x and y, a careless box may be off from those of masks, (N, 4)."""
    return np.maximum(_BOX_SHARE * (around[:, 2:] - around[:, :2]), _BOX_PIXELS)


def boxes_fit(boxes: np.ndarray, around: np.ndarray) -> np.ndarray:
    """(N,) bool: whether boxes are those of masks, but for careless edges; x0, y0, x1, y1."""
    with np.errstate(invalid="ignore"):
        fits = np.abs(boxes - around) <= np.tile(box_tolerance(around), 2)
    return np.asarray(fits.all(axis=1))


def rle_area(rle: Rle) -> int:
    """The number of pixels of a compressed RLE."""
    return int(mask_util.area(rle))


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of polygons as one compressed RLE of the whole image."""
    return _as_text(mask_util.merge(mask_util.frPyObjects([*map(list, polygons)], height, width)))


def mask_to_rle(mask: np.ndarray) -> Rle:
    """A (height, width) mask, non-zero where the instance is, as compressed RLE."""
    return _as_text(mask_util.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def rle_to_mask(rle: Rle) -> np.ndarray:
    """A compressed RLE as a (height, width) bool mask."""
    return np.asarray(mask_util.decode(rle), dtype=bool)


def paste(patches: Sequence[Patch], height: int, width: int) -> np.ndarray:
    """The union of patches on an empty (height, width) bool mask; what lies outside is cut off."""
    canvas = np.zeros((height, width), dtype=bool)
    for patch in patches:
        inner = patch.mask[max(-patch.y, 0) :, max(-patch.x, 0) :]
        under = canvas[max(patch.y, 0) :, max(patch.x, 0) :]
        rows, columns = np.minimum(inner.shape, under.shape)
        under[:rows, :columns] |= inner[:rows, :columns]
    return canvas


def labels_to_rles(labels: np.ndarray) -> dict[int, Rle]:
    """Every value but 0 of an integer (height, width) array as compressed RLE, in one pass."""
    height, width = labels.shape
    flat = labels.reshape(-1, order="F")
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    rles: dict[int, Rle] = {}
    for value, runs in zip(found.tolist(), np.split(order, first[1:]), strict=True):
        if value != 0:
            edges = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)
            rles[value] = _compress(np.diff(edges, prepend=0, append=flat.size), height, width)
    return rles


def clean_rle(rle: Rle, height: int, width: int) -> tuple[Rle, Reason | None]:
    """A COCO RLE, compressed or not, as compressed RLE; and the problem, or None.

    The run lengths are checked here, since pycocotools trusts them with its memory.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width] and size != (height, width):
        return {}, Reason.MASK_OTHER_SIZE
    runs = _run_lengths(counts)
    if runs is None or ((runs < 0) | (runs > height * width)).any() or runs.sum() != height * width:
        return {}, Reason.BAD_MASK
    if runs[1::2].sum() == 0:
        return {}, Reason.ZERO_AREA
    return _compress(runs, height, width), None


def merge_rles(rles: Sequence[Rle]) -> tuple[Rle, Reason | None]:
    """The union of COCO RLEs of one size, in the form of :func:`clean_rle`."""
    size = rles[0].get("size")
    if not (isinstance(size, list) and len(size) == 2 and {type(n) for n in size} == {int}):
        return {}, Reason.MASK_OTHER_SIZE
    cleaned = [clean_rle(rle, *size) for rle in rles]
    problem = next((found for _, found in cleaned if found), None)
    if problem:
        return {}, problem
    return _as_text(mask_util.merge([rle for rle, _ in cleaned])), None


def _run_lengths(counts: Any) -> np.ndarray | None:
    """Run lengths, int64, of a list or of COCO's compressed counts; None where it is neither."""
    try:
        if isinstance(counts, (str, bytes)):
            raw = counts.encode("ascii") if isinstance(counts, str) else counts
            return _decode_counts(np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48)
        runs = np.asarray(counts)
    except (ValueError, TypeError, OverflowError):
        return None
    return runs.astype(np.int64) if runs.ndim == 1 and runs.dtype.kind in "iu" else None


def _decode_counts(codes: np.ndarray) -> np.ndarray | None:
    """Run lengths of COCO's compressed counts: 5 bits a character, lowest first, bit 5 set where
    more follow, bit 4 of the last the sign; from the fourth on, differences to two before."""
    if codes.size == 0 or (codes < 0).any() or (codes > 63).any() or codes[-1] & 0x20:
        return None
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.append(0, ends[:-1] + 1)
    length = ends - starts + 1
    if length.max() > 7:  # 35 bits: more than any image has pixels
        return None
    place = 5 * (np.arange(codes.size) - np.repeat(starts, length))
    values = np.add.reduceat((codes & 0x1F) << place, starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * length), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _compress(runs: np.ndarray, height: int, width: int) -> Rle:
    return _as_text(
        mask_util.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    )


def _as_text(rle: Rle) -> Rle:
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
