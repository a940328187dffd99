"""Outlines of masks along the edges of their pixels, exact to the pixel.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height]. A ring
is (N, 2) float64, its last point joined to its first; outer rings run clockwise on the screen,
holes the other way. Rasterised by pycocotools, the rings give the very mask again.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .bridges import drop_collinear, join_rings

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
