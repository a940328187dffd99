"""One closed line of several: rings joined by bridges of no width, walked to and fro.

The way there and the way back cancel out where a polygon is filled by the even-odd rule, as
pycocotools does: a ring beside the others adds to the area, one inside another cuts a hole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
