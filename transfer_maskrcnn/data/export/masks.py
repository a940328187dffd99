"""The masks of detectron2 annotations, polygons or RLE: measured, and turned into each other.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height].

Outlines run along the edges of a mask's pixels and are exact to the pixel. A ring is (N, 2)
float64, its last point joined to its first; outer rings run clockwise on the screen, holes the
other way. Rasterised by pycocotools, the rings give the very mask again.

Several rings become one closed line by bridges: see ``formats/rings``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.data.formats.masks import (
    Segmentation,
    box_of,
    mask_to_rle,
    polygons_area,
    polygons_to_rle,
    rle_area,
)
from transfer_maskrcnn.data.formats.rings import join_rings

Polygons = Sequence[Sequence[float]]


def as_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Polygons, or an RLE of any kind, as compressed RLE of the whole image (in pixels)."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return dict(mask_util.frPyObjects(segmentation, height, width))
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
    rings = (np.reshape(polygon, (-1, 2)).astype(float) for polygon in polygons)
    length = sum(float(np.hypot(*(r - np.roll(r, 1, axis=0)).T).sum()) for r in rings)
    return abs(polygons_area(polygons) - pixels) <= 1 + length / 2


def segmentation_box(segmentation: Segmentation) -> list[float]:
    """x, y, width, height in pixels of the smallest box around the mask."""
    x0, y0, x1, y1 = box_of(segmentation)
    return [x0, y0, x1 - x0, y1 - y0]


def drop_collinear(ring: np.ndarray) -> np.ndarray:
    """A ring without the points at which it goes straight on; where it turns back, they stay."""
    x0, y0 = (ring - np.roll(ring, 1, axis=0)).T
    x1, y1 = (np.roll(ring, -1, axis=0) - ring).T
    straight = (x0 * y1 == y0 * x1) & (x0 * x1 + y0 * y1 > 0)
    return ring[~straight]


def mask_to_simple_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[list[float]]:
    """Each piece as one flat x, y polygon without holes: they are cut in by bridges of no width.

    Above 0, ``tolerance`` is how far, in pixels, an outline may run beside the middles of the
    pixels' edges, which lie in line where the corners of a slope are steps.
    """
    pieces = ([_simplified(ring, tolerance) for ring in piece] for piece in trace_rings(mask))
    joined = (drop_collinear(join_rings(piece)) for piece in pieces)
    return [points.reshape(-1).tolist() for points in joined]


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    if not tolerance:
        return ring
    middles = (ring + np.roll(ring, -1, axis=0)) / 2
    fewer = cv2.approxPolyDP(middles.astype(np.float32), tolerance, closed=True)[:, 0]
    return fewer.astype(np.float64) if len(fewer) > 2 else ring


_TOLERANCES = (1.0, 0.5, 0.0)  # pixels
_SPECK = 17  # pixels: less hangs on a wavy outline by the corners
_ALIKE = 0.98  # IoU


def editable_polygons(mask: np.ndarray) -> list[list[float]]:
    """:func:`mask_to_simple_polygons` of so few points that a hand can move them, the IoU with the
    mask still 0.98 or more; without specks, where that leaves as much."""
    drawn = [mask_to_simple_polygons(mask, tolerance) for tolerance in _TOLERANCES]
    for least in (_SPECK, 0):
        ways = [[part for part in parts if polygons_area([part]) >= least] for parts in drawn]
        rles = [polygons_to_rle(parts, *mask.shape) for parts in ways if parts]
        alike = mask_util.iou(rles, [mask_to_rle(mask)], [0]) if rles else ()
        good = [w for w, iou in zip(filter(None, ways), alike, strict=True) if iou >= _ALIKE]
        if good:
            return min(good, key=lambda parts: sum(map(len, parts)))
    return []


# Of the four directions in which an edge between mask and background runs, with the mask on its
# right: right, down, left, up.
_STEP_Y, _STEP_X = np.array([0, 1, 0, -1]), np.array([1, 0, -1, 0])
_PIXEL_Y, _PIXEL_X = np.array([0, 0, -1, -1]), np.array([0, -1, -1, 0])  # from its start


def trace_rings(mask: np.ndarray) -> list[list[np.ndarray]]:
    """The rings of each piece of a (height, width) mask, the outer one first, with a point at every
    corner of a pixel; none for an empty mask.

    Pixels that only touch at a corner belong to different pieces, and background that does so to
    one hole or to the outside (4 neighbours for the mask, 8 for the background). Bridges between
    such rings can be the shortest there are, which cross no other ring.
    """
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return []
    inside = np.pad(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] != 0, 1)
    direction, y, x, successors = _edges(inside)
    _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    labels = labels[y + _PIXEL_Y[direction], x + _PIXEL_X[direction]]
    points = np.stack([x + (xs[0] - 1.0), y + (ys[0] - 1.0)], axis=1)
    pieces: dict[int, list[np.ndarray]] = {}
    seen: set[int] = set()
    for first in range(len(successors)):
        if first in seen:
            continue
        ring = [first]
        while (edge := successors[ring[-1]]) != first:
            ring.append(edge)
        seen.update(ring)
        is_hole = (
            x[ring] * _STEP_Y[direction[ring]] - y[ring] * _STEP_X[direction[ring]]
        ).sum() < 0
        piece = pieces.setdefault(int(labels[first]), [])
        piece.insert(len(piece) if is_hole else 0, points[ring])
    return list(pieces.values())


def _edges(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Direction and start (y, x) of every edge, (E,) each, and which edge follows it. ``inside`` is
    the mask within a border of background."""
    core = inside[1:-1, 1:-1]
    walls = np.zeros((4, *inside.shape), dtype=bool)
    walls[0, 1:-1, 1:-1] = core & ~inside[:-2, 1:-1]
    walls[1, 1:-1, 2:] = core & ~inside[1:-1, 2:]
    walls[2, 2:, 2:] = core & ~inside[2:, 1:-1]
    walls[3, 2:, 1:-1] = core & ~inside[1:-1, :-2]
    direction, y, x = np.nonzero(walls)
    end = y + _STEP_Y[direction], x + _STEP_X[direction]
    # Where two pixels of the mask meet at a corner alone, the edge to the right is the same one's.
    turns = [(direction + turn) % 4 for turn in (1, 0, 3)]
    following = np.select([walls[(turn, *end)] for turn in turns], turns)
    wanted = np.ravel_multi_index((following, *end), walls.shape)
    return direction, y, x, np.searchsorted(np.flatnonzero(walls), wanted).tolist()
