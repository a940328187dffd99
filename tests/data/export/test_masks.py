"""Outlines are the mask, exactly, also when they are joined into one line."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transfer_maskrcnn.data.export.masks import (
    drop_collinear,
    editable_polygons,
    mask_to_simple_polygons,
    trace_rings,
)
from transfer_maskrcnn.data.formats.masks import polygons_area, polygons_to_rle, rle_to_mask
from transfer_maskrcnn.data.formats.rings import join_rings

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda s: arrays(bool, s))


def corners_of(mask: np.ndarray) -> list[list[np.ndarray]]:
    return [[drop_collinear(ring) for ring in piece] for piece in trace_rings(mask)]


def mask_of(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in text.split()])


def fill(ring: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return rle_to_mask(polygons_to_rle([ring.reshape(-1).tolist()], *shape)).astype(int)


@pytest.mark.parametrize(
    ("text", "corners"),
    [
        # nothing
        ("... ...", []),
        # one pixel, at x 1, y 0
        (".#. ...", [[4]]),
        # the whole image
        ("## ##", [[4]]),
        # an L: no point but its corners
        ("#.. #.. ###", [[6]]),
        # two pixels that meet at a corner are two pieces
        ("#. .#", [[4], [4]]),
        # a hole
        ("### #.# ###", [[4, 4]]),
        # two holes that meet at a corner are one, as background has 8 neighbours
        ("#### #.## ##.# ####", [[4, 8]]),
        # a hole that meets the outside at a corner is part of the outside
        ("### #.# ##.", [[10]]),
        # an island in a hole is a piece of its own
        ("##### #...# #.#.# #...# #####", [[4, 4], [4]]),
    ],
)
def test_pieces_and_corners(text: str, corners: list[list[int]]) -> None:
    assert [[*map(len, piece)] for piece in corners_of(mask_of(text))] == corners


def test_runs_along_the_edges_of_pixels_clockwise() -> None:
    ((outer,),) = corners_of(mask_of(".... .##."))
    assert outer.tolist() == [[1, 1], [3, 1], [3, 2], [1, 2]]
    assert outer.dtype == np.float64


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_rings_are_the_mask(mask: np.ndarray) -> None:
    pieces = corners_of(mask)
    assert len(pieces) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    filled = np.zeros(mask.shape, dtype=int)
    for outer, *holes in pieces:
        filled += fill(outer, mask.shape)
        for hole in holes:
            filled -= fill(hole, mask.shape)
        for ring in (outer, *holes):
            step = np.roll(ring, -1, axis=0) - ring
            assert ((step == 0).sum(axis=1) == 1).all()  # along x or y
            assert ((step != 0) != np.roll(step != 0, 1, axis=0)).all()  # and turns at every point
    assert (filled == mask).all()


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_polygons_with_bridges_are_the_mask(mask: np.ndarray) -> None:
    polygons = mask_to_simple_polygons(mask)
    assert len(polygons) == len(trace_rings(mask))
    if polygons:
        assert (rle_to_mask(polygons_to_rle(polygons, *mask.shape)) == mask).all()
    assert polygons_area(polygons) == mask.sum()  # to and fro, bridges enclose nothing


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_editable_polygons_are_the_mask_nearly(mask: np.ndarray) -> None:
    polygons = editable_polygons(mask)
    exact = mask_to_simple_polygons(mask)
    assert sum(polygons_area([part]) >= 17 for part in exact) <= len(polygons) <= len(exact)
    assert sum(map(len, polygons)) <= sum(map(len, exact))
    if polygons:
        drawn = rle_to_mask(polygons_to_rle(polygons, *mask.shape)) != 0
        assert (drawn & mask).sum() >= 0.98 * (drawn | mask).sum()


@pytest.mark.parametrize(
    ("points", "most"),
    [
        ([(20, 30), (170, 30), (170, 140), (20, 140)], 4),  # a rectangle, exact
        ([(10, 10), (150, 40), (60, 160)], 12),  # slopes, hundreds of steps
        ([(60 + 50 * np.cos(a), 60 + 50 * np.sin(a)) for a in np.arange(0, 6.28, 0.02)], 40),
    ],
)
def test_editable_polygons_have_few_points(points: list[tuple[float, float]], most: int) -> None:
    mask = cv2.fillPoly(np.zeros((180, 180), np.uint8), [np.array(points, np.int32)], 1)
    (polygon,) = editable_polygons(mask)
    assert len(polygon) // 2 <= most


def test_a_wavy_outline_is_one_polygon() -> None:
    """Pixels that hang on it by a corner are no pieces to correct by hand."""
    mask = np.zeros((90, 90), dtype=np.uint8)
    mask[20:70, 20:70] = 1
    mask[range(19, 10, -3), range(19, 10, -3)] = mask[[19, 70], [70, 19]] = mask[70:73, 70:73] = 1
    assert len(mask_to_simple_polygons(mask)) > 4 and len(editable_polygons(mask)) == 1
    mask[20:70, 20:70] = 0  # where they are all that there is, they stay
    assert len(editable_polygons(mask)) > 1


def test_a_large_mask() -> None:
    mask = np.zeros((900, 1200), dtype=np.uint8)
    rng = np.random.default_rng(0)
    for value in (1, 0, 1):
        for _ in range(30):
            centre = (int(rng.integers(1200)), int(rng.integers(900)))
            cv2.circle(mask, centre, int(rng.integers(5, 90)), value, -1)
    polygons = mask_to_simple_polygons(mask)
    assert (rle_to_mask(polygons_to_rle(polygons, 900, 1200)) == mask).all()


def ring(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=float)


LEFT, RIGHT = ring((0, 0), (2, 0), (2, 2), (0, 2)), ring((9, 1), (9, 3), (8, 2))


def test_joins_the_nearest_points_to_and_fro() -> None:
    joined = join_rings([LEFT, RIGHT]).tolist()
    assert joined == [[0, 0], [2, 0], [2, 2], [8, 2], [9, 1], [9, 3], [8, 2], [2, 2], [0, 2]]


def test_a_ring_is_left_as_it_is() -> None:
    assert join_rings([LEFT]).tolist() == LEFT.tolist()


def test_nearest_ring_first() -> None:
    middle = ring((5, 2), (6, 2), (6, 3))
    joined = join_rings([LEFT, RIGHT, middle]).tolist()
    steps = {(tuple(a), tuple(b)) for a, b in pairwise(joined)}
    assert ((2, 2), (5, 2)) in steps and ((6, 2), (8, 2)) in steps
    assert ((2, 2), (8, 2)) not in steps


def test_a_ring_that_is_nearer_to_an_earlier_one() -> None:
    joined = join_rings(
        [LEFT, LEFT + np.array([3, 0]), LEFT - np.array([4, 0])]
    ).tolist()  # the right one comes first
    steps = {(tuple(a), tuple(b)) for a, b in pairwise(joined)}
    assert ((0, 0), (-2, 0)) in steps and ((-2, 0), (0, 0)) in steps


def test_rings_that_touch_repeat_no_point() -> None:
    joined = join_rings([LEFT, LEFT + 2])
    assert (joined != np.roll(joined, 1, axis=0)).any(axis=1).all()


def test_many_distances_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rings = [LEFT + np.array([5 * x, 7 * y]) for x in range(4) for y in range(3)]
    whole = join_rings(rings)
    monkeypatch.setattr("transfer_maskrcnn.data.formats.rings._MOST_DISTANCES", 5)
    assert (join_rings(rings) == whole).all()


@pytest.mark.parametrize(
    ("points", "left"),
    [
        # straight on
        ([(0, 0), (1, 0), (2, 0), (2, 2)], [(0, 0), (2, 0), (2, 2)]),
        # there and back again: the end of a bridge
        ([(0, 0), (2, 0), (5, 0), (2, 0), (2, 2)], [(0, 0), (5, 0), (2, 0), (2, 2)]),
        # the first and the last point
        ([(1, 0), (2, 0), (2, 2), (0, 0)], [(2, 0), (2, 2), (0, 0)]),
    ],
)
def test_drop_collinear(points: list[tuple[float, float]], left: list[tuple[float, float]]) -> None:
    assert drop_collinear(ring(*points)).tolist() == ring(*left).tolist()
