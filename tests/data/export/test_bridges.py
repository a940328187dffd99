from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from transfer_maskrcnn.data.export.masks import drop_collinear, join_rings


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
    monkeypatch.setattr("transfer_maskrcnn.data.export.masks._MOST_DISTANCES", 5)
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
