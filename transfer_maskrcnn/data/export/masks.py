"""The masks of detectron2 annotations, polygons or RLE: measured, and turned into each other.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height].

Outlines run along the edges of a mask's pixels and are exact to the pixel. A ring is (N, 2)
float64, its last point joined to its first; outer rings run clockwise on the screen, holes the
other way. Rasterised by pycocotools, the rings give the very mask again.

Several rings become one closed line by bridges of no width, walked to and fro. The way there and
the way back cancel out where a polygon is filled by the even-odd rule, as pycocotools does: a ring
beside the others adds to the area, one inside another cuts a hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from transfer_maskrcnn.data.formats.masks import (
    Segmentation,
    box_of,
    polygons_area,
    polygons_to_rle,
    rle_area,
)

Polygons = Sequence[Sequence[float]]


def as_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """The mask as compressed RLE of the whole image, whose size is in pixels."""
    if isinstance(segmentation, dict):
        return segmentation
    return polygons_to_rle(segmentation, height, width)


def segmentation_area(segmentation: Segmentation, height: int, width: int) -> float:
    """The mask's area in square pixels: what polygons enclose, or the number of pixels.

    Polygons that cross themselves or each other enclose less, or more, than they cover: theirs is
    the number of pixels, too.
    """
    pixels = float(rle_area(as_rle(segmentation, height, width)))
    if isinstance(segmentation, dict) or not encloses(segmentation, pixels):
        return pixels
    return polygons_area(segmentation)


def encloses(polygons: Polygons, pixels: float) -> bool:
    """Whether the polygons enclose what their mask of ``pixels`` covers, but for rounding.

    Pixels count by their centres, so only those along the outline make a difference.
    """
    return abs(polygons_area(polygons) - pixels) <= 1 + sum(map(_length, polygons)) / 2


def segmentation_box(segmentation: Segmentation) -> list[float]:
    """x, y, width, height in pixels of the smallest box around the mask."""
    x0, y0, x1, y1 = box_of(segmentation)
    return [x0, y0, x1 - x0, y1 - y0]


def _length(polygon: Sequence[float]) -> float:
    points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    return float(np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum())


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
        _update(points, newest, np.flatnonzero(waiting), nearest, distance)
        entry = int(np.argmin(np.where(waiting, distance, np.inf)))
        newest = np.flatnonzero(owner == owner[entry])
        waiting[newest] = False
        loop = np.append(np.roll(newest, newest[0] - entry), entry)
        at = np.flatnonzero(path == nearest[entry])[0]
        path = np.concatenate([path[: at + 1], loop, path[at:]])
    return _without_repeats(points[path])


def _update(
    points: np.ndarray,
    newest: np.ndarray,
    waiting: np.ndarray,
    nearest: np.ndarray,
    distance: np.ndarray,
) -> None:
    """Take the newest ring into account, in place; distances are squared."""
    size = max(1, _MOST_DISTANCES // len(newest))
    for start in range(0, len(waiting), size):
        block = waiting[start : start + size]
        x, y = (points[block, None] - points[newest]).transpose(2, 0, 1)
        squared = x * x + y * y
        best = squared.argmin(axis=1)
        shortest = squared[np.arange(len(block)), best]
        nearer = shortest < distance[block]
        distance[block[nearer]] = shortest[nearer]
        nearest[block[nearer]] = newest[best[nearer]]


def drop_collinear(ring: np.ndarray) -> np.ndarray:
    """A ring without the points at which it goes straight on; where it turns back, they stay."""
    x0, y0 = (ring - np.roll(ring, 1, axis=0)).T
    x1, y1 = (np.roll(ring, -1, axis=0) - ring).T
    straight = (x0 * y1 == y0 * x1) & (x0 * x1 + y0 * y1 > 0)
    return ring[~straight]


def _without_repeats(ring: np.ndarray) -> np.ndarray:
    return ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]


_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # right, down, left, up
_RIGHT_TURN, _STRAIGHT, _LEFT_TURN = 1, 0, 3  # what is added to the number of a step


class Outline(NamedTuple):
    """One piece of a mask: its outer ring and the rings of its holes, corners alone."""

    outer: np.ndarray
    holes: list[np.ndarray]


class _Edges(NamedTuple):
    """Pixel edges between mask and background, the mask on their right as one walks."""

    pixels: np.ndarray  # (E, 2) the pixel of the mask beside the edge
    starts: np.ndarray  # (E, 2)
    steps: np.ndarray  # (E,) into _STEPS


def mask_to_polygons(mask: np.ndarray) -> list[Outline]:
    """The pieces of a (height, width) mask; none for an empty one.

    Pixels that only touch at a corner belong to different pieces, and background that does so to
    one hole or to the outside (4 neighbours for the mask, 8 for the background).
    """
    return [
        Outline(drop_collinear(outer), [drop_collinear(hole) for hole in holes])
        for outer, *holes in trace_rings(mask)
    ]


def mask_to_simple_polygons(mask: np.ndarray) -> list[list[float]]:
    """Each piece as one flat x, y polygon without holes: they are cut in by bridges of no width."""
    joined = (drop_collinear(join_rings(piece)) for piece in trace_rings(mask))
    return [points.reshape(-1).tolist() for points in joined]


def trace_rings(mask: np.ndarray) -> list[list[np.ndarray]]:
    """The rings of each piece, the outer one first, with a point at every corner of a pixel.

    Bridges between such rings can be the shortest there are, which cross no other ring.
    """
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return []
    inside = np.ascontiguousarray(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] != 0)
    edges = _edges(inside)
    order, ring_starts = _walk(_successors(edges, inside.shape[1] + 1))
    starts = edges.starts[order]
    following = edges.starts[order] + _STEPS[edges.steps[order]]
    cross = starts[:, 0] * following[:, 1] - starts[:, 1] * following[:, 0]
    is_hole = np.add.reduceat(cross, ring_starts) < 0
    _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    x, y = edges.pixels[order[ring_starts]].T
    rings = np.split(starts + np.array([xs[0], ys[0]], dtype=np.float64), ring_starts[1:])
    pieces: dict[int, list[np.ndarray]] = {}
    for ring in np.lexsort((is_hole, labels[y, x])).tolist():
        pieces.setdefault(int(labels[y[ring], x[ring]]), []).append(rings[ring])
    return list(pieces.values())


def _edges(inside: np.ndarray) -> _Edges:
    padded = np.pad(inside, 1)
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))  # of the pixel, where its edge to each begins
    pixels = [np.argwhere(inside & ~neighbour)[:, ::-1] for neighbour in neighbours]
    return _Edges(
        np.concatenate(pixels),
        np.concatenate([xy + corner for xy, corner in zip(pixels, corners, strict=True)]),
        np.repeat(np.arange(4), [len(xy) for xy in pixels]),
    )


def _successors(edges: _Edges, stride: int) -> np.ndarray:
    """(E,) the edge that follows each. Where two mask pixels meet at a corner alone, the one to the
    right, which is of the same pixel."""
    keys = (edges.starts @ (1, stride)) * 4 + edges.steps
    ends = (edges.starts + _STEPS[edges.steps]) @ (1, stride)
    by_key = np.argsort(keys)
    sorted_keys = keys[by_key]
    successors = np.empty(len(keys), dtype=np.int64)
    for turn in (_LEFT_TURN, _STRAIGHT, _RIGHT_TURN):  # the last one found stays
        wanted = ends * 4 + (edges.steps + turn) % 4
        place = np.searchsorted(sorted_keys, wanted).clip(max=len(keys) - 1)
        found = sorted_keys[place] == wanted
        successors[found] = by_key[place[found]]
    return successors


def _walk(successors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All edges, ring after ring, each in walking order, and where in that order rings begin.

    Steps are doubled instead of taken (list ranking by pointer jumping), so that numpy can do it.
    """
    count = len(successors)
    doublings = range(count.bit_length())
    heads, jumps = np.arange(count), successors  # the head of a ring is its first edge
    for _ in doublings:
        heads = np.minimum(heads, heads[jumps])
        jumps = jumps[jumps]
    is_head = heads == np.arange(count)
    to_head = (~is_head).astype(np.int64)
    jumps = np.where(is_head, np.arange(count), successors)
    for _ in doublings:
        to_head = to_head + to_head[jumps]
        jumps = jumps[jumps]
    to_head[is_head] = count
    order = np.lexsort((-to_head, heads))
    return order, np.flatnonzero(is_head[order])
