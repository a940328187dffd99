"""Masks: polygons and outlines, checked, and mended where that is safe; bitmasks as run lengths.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height]. An RLE
is ``{"size": [height, width], "counts": ...}``; pixels are counted down the columns. What leaves
this module is compressed, its ``counts`` ASCII text: pycocotools decodes that, and json can hold
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .base import Patch, Reason

Rle = dict[str, Any]
Segmentation = Sequence[Sequence[float]] | Rle

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
    count = _MAX_POINTS
    if radius < 20_000:  # with more points the edges would be closer than needed
        count = max(16, math.ceil(math.pi / math.acos(max(0.5, 1 - _SAGITTA / radius))))
    cos, sin = math.cos(theta), math.sin(theta)
    points: list[float] = []
    for k in range(count):
        u = rx * math.cos(2 * math.pi * k / count)
        v = ry * math.sin(2 * math.pi * k / count)
        points += [cx + u * cos - v * sin, cy + u * sin + v * cos]
    return points


TOLERANCE = (
    1.0  # pixels: annotation tools write x == width, or half a pixel more, as a matter of course
)


@dataclass
class CleanPolygons:
    """Usable polygons of one instance. Where there are none, ``problem`` is the reason."""

    polygons: list[list[float]] = field(default_factory=list)
    problem: Reason | None = None
    repairs: list[Reason] = field(default_factory=list)


def clean_polygons(parts: Sequence[Any], height: int, width: int) -> CleanPolygons:
    """Check every part (flat x, y) of an instance and keep what is usable.

    A part may repeat its first point at its end. Points up to ``TOLERANCE`` outside the image are
    moved onto its border without a word.
    """
    result = CleanPolygons()
    problems: list[Reason] = []
    for part in parts:
        points, problem, repairs = _clean_part(part, height, width)
        if problem:
            problems.append(problem)
        else:
            result.polygons.append(points.reshape(-1).tolist())
            result.repairs += [r for r in repairs if r not in result.repairs]
    if not result.polygons:
        result.problem = problems[0] if problems else Reason.BAD_COORDINATES
    elif problems:
        result.repairs.append(Reason.PART_DROPPED)
    return result


def _clean_part(
    part: Any, height: int, width: int
) -> tuple[np.ndarray, Reason | None, list[Reason]]:
    """(N, 2) float64 points, the problem or None, the repairs."""
    repairs: list[Reason] = []
    points = to_points(part)
    if points is None:
        return np.empty((0, 2)), Reason.BAD_COORDINATES, repairs
    repeated = (points[1:] == points[:-1]).all(axis=1)
    if repeated.any():
        points = points[np.concatenate(([True], ~repeated))]
        repairs.append(Reason.REPEATED_POINTS)
    if len(np.unique(points, axis=0)) < 3:
        return points, Reason.TOO_FEW_POINTS, repairs
    border = np.array([width, height], dtype=np.float64)
    if (points < -TOLERANCE).any() or (points > border + TOLERANCE).any():
        points = clip_polygon(points, height, width)
        if len(points) < 3:
            return points, Reason.OUTSIDE_IMAGE, repairs
        repairs.append(Reason.CLIPPED)
    points = np.clip(points, 0.0, border)
    if _is_flat(points):
        return points, Reason.ZERO_AREA, repairs
    return points, None, repairs


def to_points(part: Any) -> np.ndarray | None:
    """Flat numbers as (N, 2) float64, or None where they are not finite pairs of numbers."""
    flat = _flat_numbers(part)
    if flat is None:
        return None
    points = flat.astype(np.float64).reshape(-1, 2)
    # Beyond 1e9 pixels the area would lose the digits that decide whether a polygon is flat.
    return points if (np.abs(points) < 1e9).all() else None


def _flat_numbers(part: Any) -> np.ndarray | None:
    try:
        flat = np.asarray(part)
    except (ValueError, TypeError, OverflowError):
        return None
    good = flat.ndim == 1 and flat.size > 0 and flat.size % 2 == 0 and flat.dtype.kind in "iuf"
    return flat if good else None


def _is_flat(points: np.ndarray) -> bool:
    """Whether all points lie on one line. (The signed area says 0 for a figure of eight too.)"""
    x, y = (points - points[0]).T
    if abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) > 1e-6:
        return False
    far = np.argmax(x * x + y * y)
    return bool((np.abs(x * y[far] - y * x[far]) <= 1e-6).all())


def polygons_area(polygons: Sequence[Sequence[float]]) -> float:
    """The areas of flat x, y polygons, summed."""
    total = 0.0
    for polygon in polygons:
        x, y = (np.asarray(polygon).reshape(-1, 2) - polygon[:2]).T
        total += abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:])) / 2  # the first point is the origin
    return total


def clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon inside the image (Sutherland and Hodgman), (N, 2) to (M, 2).

    M is 0 where nothing is inside. A concave polygon that falls into pieces stays one polygon whose
    pieces are joined along the border of the image, which covers the same pixels.
    """
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        if len(points) == 0:
            break
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


def screen_polygons(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """For many polygons at once: which need no look by :func:`clean_polygons`. (N,) bool.

    Those are finite, have no consecutive repeated points, lie inside the image and have an area.
    """
    arrays = [_flat_numbers(polygon) for polygon in polygons]
    clean = np.array([array is not None and array.size >= 6 for array in arrays], dtype=bool)
    chosen = [array for array in arrays if array is not None and array.size >= 6]
    if not chosen:
        return clean
    points = np.concatenate(chosen).astype(np.float64).reshape(-1, 2)
    starts = np.cumsum([0] + [a.size // 2 for a in chosen[:-1]])
    ends = np.append(starts[1:], len(points)) - 1
    following = np.roll(points, -1, axis=0)
    same = (points == following).all(axis=1)
    same[ends] = False
    following[ends] = points[starts]
    inside = (points >= 0).all(axis=1) & (points <= (width, height)).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        cross = points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]
        area = np.abs(np.add.reduceat(cross, starts))
    clean[clean] = np.logical_and.reduceat(inside & ~same, starts) & (area > 1e-3)
    return clean


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of polygons as one compressed RLE of the whole image."""
    parts = mask_util.frPyObjects([list(p) for p in polygons], height, width)
    return _as_text(mask_util.merge(parts))


def mask_to_rle(mask: np.ndarray) -> Rle:
    """A (height, width) mask, non-zero where the instance is, as compressed RLE."""
    columns = np.zeros(mask.shape, dtype=np.uint8, order="F")
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(ys):  # only the instance's box, since turning rows into columns is what costs time
        box = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
        columns[box] = mask[box] != 0
    return _as_text(mask_util.encode(columns))


def rle_to_mask(rle: Rle) -> np.ndarray:
    """A compressed RLE as a (height, width) bool mask."""
    return np.asarray(mask_util.decode(rle), dtype=bool)


def paste(patches: Sequence[Patch], height: int, width: int) -> np.ndarray:
    """The union of patches on an empty (height, width) bool mask; what lies outside is cut off."""
    canvas = np.zeros((height, width), dtype=bool)
    for patch in patches:
        x0, y0 = max(patch.x, 0), max(patch.y, 0)
        x1 = min(patch.x + patch.mask.shape[1], width)
        y1 = min(patch.y + patch.mask.shape[0], height)
        if x0 < x1 and y0 < y1:
            inner = patch.mask[y0 - patch.y : y1 - patch.y, x0 - patch.x : x1 - patch.x]
            canvas[y0:y1, x0:x1] |= inner
    return canvas


def labels_to_rles(labels: np.ndarray) -> dict[int, Rle]:
    """Every value but 0 of an integer (height, width) array as compressed RLE, in one pass."""
    height, width = labels.shape
    flat = labels.reshape(-1, order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    rles: dict[int, Rle] = {}
    for value, runs in zip(found.tolist(), np.split(order, first[1:]), strict=True):
        if value != 0:
            edges = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)
            counts = np.diff(np.concatenate(([0], edges, [flat.size])))
            rles[value] = _compress(counts, height, width)
    return rles


def clean_rle(rle: Rle, height: int, width: int) -> tuple[Rle, Reason | None]:
    """A COCO RLE, compressed or not, as compressed RLE; and the problem, or None.

    The run lengths are checked here, since pycocotools trusts them with its memory.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width] and size != (height, width):
        return {}, Reason.MASK_OTHER_SIZE
    runs = _decode_counts(counts) if isinstance(counts, (str, bytes)) else _plain_counts(counts)
    if runs is None or (runs < 0).any() or (runs > height * width).any():
        return {}, Reason.BAD_MASK
    if runs.sum() != height * width:
        return {}, Reason.BAD_MASK
    if runs[1::2].sum() == 0:
        return {}, Reason.ZERO_AREA
    return _compress(runs, height, width), None


def box_of(segmentation: Segmentation) -> list[float]:
    """x0, y0, x1, y1 in pixels of the smallest box around a mask."""
    if isinstance(segmentation, dict):
        return rle_box(segmentation)
    points = np.concatenate([np.asarray(p).reshape(-1, 2) for p in segmentation])
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def rle_box(rle: Rle) -> list[float]:
    """x0, y0, x1, y1 around the pixels of a compressed RLE; x1, y1 are the far edges."""
    x, y, width, height = mask_util.toBbox(rle).tolist()
    return [x, y, x + width, y + height]


def is_empty(rle: Rle) -> bool:
    return rle_area(rle) == 0


def rle_area(rle: Rle) -> int:
    """The number of pixels of a compressed RLE."""
    return int(mask_util.area(rle))


def _plain_counts(counts: Any) -> np.ndarray | None:
    try:
        runs = np.asarray(counts)
    except (ValueError, TypeError, OverflowError):
        return None
    return runs.astype(np.int64) if runs.ndim == 1 and runs.dtype.kind in "iu" else None


def _decode_counts(counts: str | bytes) -> np.ndarray | None:
    """Run lengths, int64, of COCO's compressed counts: 5 bits a character, lowest first, bit 5 set
    where more follow, bit 4 of the last the sign; from the fourth on, differences to two before."""
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
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
    plain = {"size": [height, width], "counts": runs.tolist()}
    return _as_text(mask_util.frPyObjects(plain, height, width))


def _as_text(rle: Rle) -> Rle:
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
