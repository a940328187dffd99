"""Rings of one instance among each other: what lies within another is a hole, cut in by a bridge.

A ring is (N, 2) float64 in pixels, its last point joined to its first. Several rings become one
closed line by bridges of no width, walked to and fro. The way there and the way back cancel out
where a polygon is filled by the even-odd rule, as pycocotools does: a ring beside the others adds
to the area, one inside another cuts a hole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

from .base import Reason
from .masks import polygons_area, rle_area

_INSIDE = 0.98  # of a part's pixels, that the other one has too: edges may touch
_NOTABLE = 0.05  # of the pixels around them: smaller parts make no difference worth a word
_SAME_AREA = 0.05  # how far a stated area may be from one that it speaks for
_CLEARLY = 0.25  # of the difference that the holes make
_MOST_DISTANCES = 1_000_000  # held in memory at once


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Rings, each (N, 2), as one (M, 2) ring; always the nearest pair of points is joined next."""
    points = np.concatenate(rings)
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    nearest = np.zeros(len(points), dtype=np.int64)  # of the joined points, to each waiting one
    distance = np.full(len(points), np.inf)
    path = newest = np.flatnonzero(owner == 0)
    waiting = owner != 0
    for _ in rings[1:]:
        left = np.flatnonzero(waiting)
        for block in np.array_split(left, 1 + len(left) * len(newest) // _MOST_DISTANCES):
            x, y = (points[block, None] - points[newest]).transpose(2, 0, 1)
            squared = x * x + y * y
            best = squared.argmin(axis=1)
            shortest = squared[np.arange(len(block)), best]
            nearest[block] = np.where(shortest < distance[block], newest[best], nearest[block])
            distance[block] = np.minimum(shortest, distance[block])
        entry = int(np.argmin(np.where(waiting, distance, np.inf)))
        newest = np.flatnonzero(owner == owner[entry])
        waiting[newest] = False
        loop = np.append(np.roll(newest, newest[0] - entry), entry)
        at = np.flatnonzero(path == nearest[entry])[0]
        path = np.concatenate([path[: at + 1], loop, path[at:]])
    joined = points[path]
    return joined[(joined != np.roll(joined, 1, axis=0)).any(axis=1)]  # no point twice on end


def cut_holes(
    polygons: list[list[float]], height: int, width: int, stated_area: float
) -> tuple[list[list[float]], Reason | None]:
    """Cut the parts of an instance that lie within another of its parts out of that one.

    What lies within a hole is mask again. Parts that merely overlap, or are there twice, stay. So
    do all where the stated area speaks for the mask without holes.

    Args:
        polygons: flat x, y, in an image of ``height`` and ``width``.
        stated_area: NaN where there is none.

    Returns:
        the polygons, a hole being joined to what is around it; ``Reason.HOLES`` where there are
        any, ``Reason.PART_IN_PART`` where parts within others were left.
    """
    rles = mask_util.frPyObjects(polygons, height, width)
    pixels = np.array([rle_area(rle) for rle in rles])
    # As of crowds, IoU is the share of a part's pixels that the other one has, too.
    within = mask_util.iou(rles, rles, [1] * len(rles)) >= _INSIDE
    within &= pixels[:, None] < _INSIDE * pixels
    inside: dict[int, list[int]] = {}  # a part and its holes
    for inner in np.flatnonzero(within.sum(axis=1) % 2).tolist():
        outers = np.flatnonzero(within[inner]).tolist()
        inside.setdefault(min(outers, key=pixels.__getitem__), []).append(inner)
    if not inside:
        return polygons, None
    holes = [hole for own in inside.values() for hole in own]
    joined = [
        _cut(part, [polygons[hole] for hole in inside[k]]) if k in inside else part
        for k, part in enumerate(polygons)
        if k not in holes
    ]
    filled = float(rle_area(mask_util.merge(rles)))
    cut = polygons_area(joined)
    likeliest = min(
        (cut, filled, polygons_area(polygons)), key=lambda area: abs(area - stated_area)
    )
    most = min(_SAME_AREA * stated_area, _CLEARLY * abs(likeliest - cut))
    is_filled = likeliest != cut and abs(likeliest - stated_area) <= most
    overlap = any(
        rle_area(mask_util.merge([rles[k] for k in own])) < _INSIDE * pixels[own].sum()
        for own in inside.values()
    )
    if not (is_filled or overlap):
        return joined, Reason.HOLES
    return polygons, Reason.PART_IN_PART if pixels[holes].sum() >= _NOTABLE * filled else None


def _cut(part: list[float], holes: list[list[float]]) -> list[float]:
    """A part with holes, which run the other way round, so that they count as less area."""
    outer, *inner = (np.reshape(polygon, (-1, 2)) for polygon in (part, *holes))
    sign = _signed_area(outer) < 0
    turned = [ring[::-1] if (_signed_area(ring) < 0) == sign else ring for ring in inner]
    flat: list[float] = join_rings([outer, *turned]).reshape(-1).tolist()
    return flat


def _signed_area(ring: np.ndarray) -> float:
    x, y = (ring - ring[0]).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
