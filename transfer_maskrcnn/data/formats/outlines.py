"""Rectangles, circles and ellipses as polygons: flat lists x0, y0, x1, y1, ... in pixels."""

from __future__ import annotations

import math

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
