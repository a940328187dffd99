from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transfer_maskrcnn.data.export.masks import (
    mask_to_polygons,
    mask_to_simple_polygons,
    trace_rings,
)
from transfer_maskrcnn.data.formats.masks import polygons_area, polygons_to_rle, rle_to_mask

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda s: arrays(bool, s))


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
    pieces = mask_to_polygons(mask_of(text))
    found = [[len(piece.outer), *map(len, piece.holes)] for piece in pieces]
    assert found == corners


def test_runs_along_the_edges_of_pixels_clockwise() -> None:
    (piece,) = mask_to_polygons(mask_of(".... .##."))
    assert piece.outer.tolist() == [[1, 1], [3, 1], [3, 2], [1, 2]]
    assert piece.outer.dtype == np.float64


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_rings_are_the_mask(mask: np.ndarray) -> None:
    pieces = mask_to_polygons(mask)
    assert len(pieces) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    filled = np.zeros(mask.shape, dtype=int)
    for piece in pieces:
        filled += fill(piece.outer, mask.shape)
        for hole in piece.holes:
            filled -= fill(hole, mask.shape)
        for ring in (piece.outer, *piece.holes):
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


def test_a_large_mask() -> None:
    mask = np.zeros((900, 1200), dtype=np.uint8)
    rng = np.random.default_rng(0)
    for value in (1, 0, 1):
        for _ in range(30):
            centre = (int(rng.integers(1200)), int(rng.integers(900)))
            cv2.circle(mask, centre, int(rng.integers(5, 90)), value, -1)
    polygons = mask_to_simple_polygons(mask)
    assert (rle_to_mask(polygons_to_rle(polygons, 900, 1200)) == mask).all()
