"""Polygons are mended where that is safe; run lengths are what pycocotools makes of them."""

import math
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from transfer_maskrcnn.data.formats.base import Patch, Reason
from transfer_maskrcnn.data.formats.masks import (
    box_of,
    clean_polygons,
    clean_rle,
    clip_polygon,
    ellipse,
    labels_to_rles,
    mask_to_rle,
    paste,
    polygons_area,
    polygons_to_rle,
    rle_to_mask,
    sound_polygon,
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
        ([2, 2, 8, 2, 8], Reason.ODD_COUNT),
        ([2, 2, 8, 2, 5, 2], Reason.ZERO_AREA),  # on a line
        ([2, 2, 4, 4, 8, 8, 6, 6], Reason.ZERO_AREA),
        ([2, 2, 8, 2, math.nan, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, math.inf, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, 1e300, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, 10**400, 8], Reason.BAD_COORDINATES),
        ([2, 2, 8, 2, None, 8], Reason.BAD_COORDINATES),
        (["2", "2", "8", "2", "8.0", "8"], None),
        (["2", "2", "8", "2", "8,0", "8"], Reason.BAD_COORDINATES),
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
    polygons, found, _ = clean_polygons([part], HEIGHT, WIDTH)
    assert found == problem
    assert bool(polygons) is not bool(problem)
    assert not sound_polygon(part, HEIGHT, WIDTH) or not problem


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
    cleaned, problem, mended = clean_polygons(parts, HEIGHT, WIDTH)
    assert problem is None
    assert mended == repairs
    assert [sorted(zip(p[::2], p[1::2], strict=True)) for p in cleaned] == [
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
    for one in parts:
        cleaned, problem, repairs = clean_polygons([one], HEIGHT, WIDTH)
        for polygon in cleaned:
            assert len(polygon) >= 6
            x, y = np.array(polygon).reshape(-1, 2).T
            assert x.min() >= 0 and y.min() >= 0 and x.max() <= WIDTH and y.max() <= HEIGHT
        if found := sound_polygon(one, HEIGHT, WIDTH):
            polygon, area, box = found
            assert 0 < area == pytest.approx(polygons_area([one]), rel=1e-3)
            assert cleaned == [one] == [polygon] and not repairs and not problem
            assert set(map(type, polygon)) == {float}
            assert box == box_of([one])


def test_the_fast_look_passes_ordinary_polygons() -> None:
    parts = [SQUARE, [*SQUARE, 2, 2], [2, 2, 2, 2, 8, 2, 8, 8], SQUARE[:6], [2, 2, 8, 2]]
    found = [sound_polygon(part, HEIGHT, WIDTH) for part in parts]
    assert [one and one[1] for one in found] == [36, 36, None, 18, None]


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
    assert clean_polygons([polygon], HEIGHT, WIDTH)[1] == Reason.BAD_COORDINATES


masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40))


@settings(max_examples=200, deadline=None)
@given(masks)
def test_compressed_and_plain_counts_come_back(mask: np.ndarray) -> None:
    size = list(mask.shape)
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    flat = mask.reshape(-1, order="F").astype(int)
    plain, value, length = [], 0, 0
    for pixel in flat:
        if pixel != value:
            plain.append(length)
            value, length = pixel, 0
        length += 1
    plain.append(length)
    assert mask_to_rle(mask) == {"size": size, "counts": encoded["counts"].decode()}
    for counts in (encoded["counts"], encoded["counts"].decode(), plain):
        rle, problem = clean_rle({"size": size, "counts": counts}, *mask.shape)
        assert problem == (None if mask.any() else Reason.ZERO_AREA)
        if not problem:
            assert (rle_to_mask(rle) == mask).all()
            assert isinstance(rle["counts"], str)


def test_long_runs() -> None:
    mask = np.zeros((3000, 2000), dtype=bool)  # run lengths of several characters, differences < 0
    mask[10:2900, 100:1900] = True
    mask[500:510, 500:510] = False
    rle, problem = clean_rle(mask_to_rle(mask), 3000, 2000)
    assert problem is None and (rle_to_mask(rle) == mask).all()
    assert box_of(rle) == [100, 10, 1900, 2900]


@pytest.mark.parametrize(
    "rle, problem",
    [
        ({"size": [4, 5], "counts": [3, 2, 15]}, None),
        ({"size": (4, 5), "counts": [3, 0, 2, 5, 10]}, None),
        ({"size": [4, 5], "counts": [20]}, Reason.ZERO_AREA),
        ({"size": [4, 5], "counts": [3, 0, 17]}, Reason.ZERO_AREA),
        ({"size": [5, 4], "counts": [3, 2, 15]}, Reason.MASK_OTHER_SIZE),
        ({"counts": [3, 2, 15]}, Reason.MASK_OTHER_SIZE),
        ({"size": [4, 5]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": None}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [3, 2, 16]}, Reason.BAD_MASK),  # more than there are pixels
        ({"size": [4, 5], "counts": [3, 2]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [30, -10]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [3.0, 2.0, 15.0]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [10**30]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [[3], [2]]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": ""}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": "o"}, Reason.BAD_MASK),  # ends in the middle of a number
        ({"size": [4, 5], "counts": "oooooooooo0"}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": "\x01 é"}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": "zzz"}, Reason.BAD_MASK),
    ],
)
def test_malformed(rle: dict[str, Any], problem: str) -> None:
    assert clean_rle(rle, 4, 5)[1] == problem


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_no_text_of_counts_gets_to_pycocotools_unchecked(counts: str) -> None:
    rle, problem = clean_rle({"size": [4, 5], "counts": counts}, 4, 5)
    assert problem or rle_to_mask(rle).shape == (4, 5)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4))
)
def test_labels(labels: np.ndarray) -> None:
    rles = labels_to_rles(labels)
    assert set(rles) == set(np.unique(labels).tolist()) - {0}
    for value, rle in rles.items():
        assert (rle_to_mask(rle) == (labels == value)).all()


@settings(max_examples=100, deadline=None)
@given(masks, st.integers(-50, 50), st.integers(-50, 50))
def test_paste(mask: np.ndarray, x: int, y: int) -> None:
    canvas = np.zeros((140, 140), dtype=bool)
    canvas[50 + y : 50 + y + mask.shape[0], 50 + x : 50 + x + mask.shape[1]] = mask
    assert (paste([Patch(mask, x, y)], 20, 30) == canvas[50:70, 50:80]).all()
