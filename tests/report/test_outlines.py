"""Outlines run between the pixels inside and those outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transfer_maskrcnn.report.outlines import mask_outline, outline

MASKS = [
    # one pixel: a diamond around its middle
    ([[1]], 4),
    # a square with a hole, at the border: two closed lines
    ([[1, 1, 1], [1, 0, 1], [1, 1, 1]], 16),
    # two pixels that touch at a corner: two diamonds, of which none crosses the other
    ([[1, 0], [0, 1]], 8),
    ([[0, 1], [1, 0]], 8),
    ([[0, 0], [0, 0]], 0),
]


@pytest.mark.parametrize(("mask", "segments"), MASKS)
def test_every_line_is_closed(mask: list[list[int]], segments: int) -> None:
    found = mask_outline(np.array(mask))
    assert found.shape == (segments, 2, 2)
    points, times = np.unique(found.reshape(-1, 2), axis=0, return_counts=True)
    assert len(points) == segments and (times == 2).all()


def test_one_pixel() -> None:
    points = mask_outline(np.ones((1, 1))).reshape(-1, 2)
    assert {tuple(point) for point in points} == {(0, 0.5), (0.5, 0), (0, -0.5), (-0.5, 0)}


def area(segments: npt.NDArray[np.float64]) -> float:
    """Of a polygon around its centre, from segments in any order and direction."""
    centre = segments.reshape(-1, 2).mean(axis=0)
    (x0, y0), (x1, y1) = np.moveaxis(segments - centre, 0, -1)
    return float(np.abs(x0 * y1 - x1 * y0).sum() / 2)


@pytest.mark.parametrize("radius", [3.0, 9.5, 20.0])
def test_area_of_a_disc(radius: float) -> None:
    y, x = np.mgrid[-25:26, -25:26]
    assert area(mask_outline(x**2 + y**2 <= radius**2)) == pytest.approx(
        np.pi * radius**2, rel=0.06
    )


def bounds(segments: npt.NDArray[np.float64]) -> list[float]:
    points = segments.reshape(-1, 2)
    return [*points.min(axis=0), *points.max(axis=0)]


INSTANCES = [
    # instance, step, left, top, right, bottom in pixels
    ({"segmentation": [[10, 20, 40, 20, 40, 50, 10, 50]]}, 1, [9.5, 19.5, 39.5, 49.5]),
    # every third pixel: the outline may be off by as many
    ({"segmentation": [[10, 20, 40, 20, 40, 50, 10, 50]]}, 3, [9.5, 19.5, 39.5, 49.5]),
    # run lengths as numbers: columns of 60 pixels
    ({"segmentation": {"size": [60, 60], "counts": [620, 30, 2950]}}, 1, [9.5, 19.5, 10.5, 49.5]),
    # no mask: the box, whose edges lie between pixels
    ({"bbox": [10, 20, 30, 30]}, 1, [9.5, 19.5, 39.5, 49.5]),
]


@pytest.mark.parametrize(("instance", "step", "expected"), INSTANCES)
def test_place(instance: dict[str, Any], step: int, expected: list[float]) -> None:
    assert bounds(outline(instance, 60, 60, step)) == pytest.approx(expected, abs=step - 0.5)
