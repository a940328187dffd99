"""Polygons: checked, mended where that is safe, and clipped to their image.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .base import Reason

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
