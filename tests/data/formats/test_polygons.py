from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.masks import (
    clean_polygons,
    clip_polygon,
    ellipse,
    polygons_to_rle,
    rle_to_mask,
    screen_polygons,
)

HEIGHT, WIDTH = 20, 30
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]


@pytest.mark.parametrize(
    "part, problem",
    [
        (SQUARE, None),
        (SQUARE[::-1], None),  # the other way round
        ([*SQUARE, 2, 2], None),  # closed explicitly
        ([2, 2, 8, 8, 8, 2, 2, 8], None),  # a bow tie: signed area 0, but it covers pixels
        ([0, 0, 30, 0, 30, 20, 0, 20], None),  # the whole image, border included
        ([], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2], Reason.TOO_FEW_POINTS),
        ([2, 2, 8, 2, 2, 2], Reason.TOO_FEW_POINTS),  # three points, two of them the same
        ([2, 2, 8, 2, 8], Reason.BAD_COORDINATES),  # odd
        ([2, 2, 8, 2, 5, 2], Reason.ZERO_AREA),  # on a line
        ([2, 2, 4, 4, 8, 8, 6, 6], Reason.ZERO_AREA),
        ([2, 2, 8, 2, math.nan, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, math.inf, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, 1e300, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, 10**400, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, None, 8], Reason.BAD_COORDINATES),
        (["2", "2", "8", "2", "8", "8"], Reason.BAD_COORDINATES),
        ([[2, 2], [8, 2], [8, 8]], Reason.BAD_COORDINATES),  # pairs, not flat
        ([[2, 2], [8, 2, 1]], Reason.BAD_COORDINATES),
        (7, Reason.BAD_COORDINATES),
        (None, Reason.BAD_COORDINATES),
        ({"size": [20, 30]}, Reason.BAD_COORDINATES),
        ([40, 2, 50, 2, 50, 8], Reason.OUTSIDE_IMAGE),
        ([-9, -9, -3, -9, -3, -3], Reason.OUTSIDE_IMAGE),
        ([40, -30, 90, 10, 90, -30], Reason.OUTSIDE_IMAGE),  # beyond a corner
    ],
)
def test_problems(part: Any, problem: str) -> None:
    cleaned = clean_polygons([part], HEIGHT, WIDTH)
    assert cleaned.problem == problem
    assert bool(cleaned.polygons) is not bool(problem)
    assert not screen_polygons([part], HEIGHT, WIDTH)[0] or not problem


@pytest.mark.parametrize(
    "parts, polygons, repairs",
    [
        # repeated points go; one that closes the polygon stays
        ([[2, 2, 2, 2, 8, 2, 8, 8, 2, 2]], [[2, 2, 8, 2, 8, 8, 2, 2]], [Reason.REPEATED_POINTS]),
        # a pixel outside: onto the border, without a word
        ([[-1, 2, 8, 2, 8, 20.5]], [[0, 2, 8, 2, 8, 20]], []),
        # further outside: cut, not moved
        ([[20, 0, 40, 0, 40, 20, 20, 20]], [[20, 0, 30, 0, 30, 20, 20, 20]], [Reason.CLIPPED]),
        # one good part is enough, whatever the others are
        ([SQUARE, [1, 1], [40, 2, 50, 2, 50, 8]], [SQUARE], [Reason.PART_DROPPED]),
        # a repair that several parts need counts once
        ([[1, 1, 1, 1, 5, 1, 5, 5]] * 2, [[1, 1, 5, 1, 5, 5]] * 2, [Reason.REPEATED_POINTS]),
    ],
)
def test_repairs(parts: list[Any], polygons: list[Any], repairs: list[str]) -> None:
    cleaned = clean_polygons(parts, HEIGHT, WIDTH)
    assert cleaned.problem is None
    assert cleaned.repairs == repairs
    assert [sorted(zip(p[::2], p[1::2], strict=True)) for p in cleaned.polygons] == [
        sorted(zip(p[::2], p[1::2], strict=True)) for p in polygons
    ]


def rasterised(points: np.ndarray, height: int, width: int) -> np.ndarray:
    return rle_to_mask(polygons_to_rle([points.reshape(-1).tolist()], height, width))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-25, 55), st.integers(-25, 45)), min_size=3, max_size=8))
def test_clipping_covers_what_the_polygon_covers_inside(pairs: list[tuple[int, int]]) -> None:
    """Against a rasterisation on a larger canvas; only pixels on outlines may differ."""
    points = np.array(pairs, dtype=np.float64)
    clipped = clip_polygon(points, HEIGHT, WIDTH)
    whole = rasterised(points + 25, HEIGHT + 50, WIDTH + 50)[25:-25, 25:-25]
    if len(clipped) < 3:
        # nothing but, at most, a border that the polygon touches
        assert not whole[1:-1, 1:-1].any()
        return
    assert (clipped >= 0).all() and (clipped <= (WIDTH, HEIGHT)).all()
    differs = rasterised(clipped, HEIGHT, WIDTH) != whole
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        for x, y in start + np.linspace(0, 1, 400)[:, None] * (end - start):
            i, j = int(np.floor(y)), int(np.floor(x))
            differs[max(i - 1, 0) : max(i + 2, 0), max(j - 1, 0) : max(j + 2, 0)] = False
    assert not differs[1:-1, 1:-1].any()


coordinate = st.one_of(
    st.integers(-3, 34),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([None, "1", True, [1], 10**400, -0.0]),
)
part = st.one_of(
    st.lists(st.integers(-3, 34), max_size=12),
    st.lists(coordinate, max_size=10),
    st.lists(st.floats(0, 20), min_size=6, max_size=12),
    coordinate,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(part, max_size=5))
def test_the_fast_look_agrees_with_the_thorough_one(parts: list[Any]) -> None:
    clean = screen_polygons(parts, HEIGHT, WIDTH)
    assert len(clean) == len(parts)
    for one, flag in zip(parts, clean, strict=True):
        cleaned = clean_polygons([one], HEIGHT, WIDTH)
        for polygon in cleaned.polygons:
            assert len(polygon) >= 6
            x, y = np.array(polygon).reshape(-1, 2).T
            assert x.min() >= 0 and y.min() >= 0 and x.max() <= WIDTH and y.max() <= HEIGHT
        if flag:
            assert cleaned.polygons == [one] and not cleaned.repairs and not cleaned.problem


def test_the_fast_look_passes_ordinary_polygons() -> None:
    parts = [SQUARE, [*SQUARE, 2, 2], [2, 2, 2, 2, 8, 2, 8, 8], SQUARE, [2, 2, 8, 2], SQUARE]
    assert screen_polygons(parts, HEIGHT, WIDTH).tolist() == [True, True, False, True, False, True]
    assert screen_polygons([], HEIGHT, WIDTH).tolist() == []


@pytest.mark.parametrize(
    "rx, ry, theta",
    [(5, 5, 0.0), (12, 3, 0.0), (12, 3, 0.7), (300, 200, 2.0), (0.3, 0.4, 0.0), (3e4, 9, 0)],
)
def test_ellipse(rx: float, ry: float, theta: float) -> None:
    points = np.array(ellipse(50, 60, rx, ry, theta)).reshape(-1, 2) - (50, 60)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == pytest.approx(math.pi * rx * ry, rel=0.03)
    cos, sin = math.cos(theta), math.sin(theta)
    u, v = x * cos + y * sin, y * cos - x * sin  # turned back
    assert np.allclose((u / rx) ** 2 + (v / ry) ** 2, 1)


@pytest.mark.parametrize("rx, ry", [(0, 1), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_ellipse_without_a_size(rx: float, ry: float) -> None:
    polygon = ellipse(5, 5, rx, ry)
    assert clean_polygons([polygon], HEIGHT, WIDTH).problem == Reason.BAD_COORDINATES
