"""Learning curves whose area and crossing can be worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.study.intervals import area_under_curve, iterations_to_reach


def rows(*points: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"iteration": iteration, "mean": ap} for iteration, ap in points]


AREAS = [
    # curve, mean AP
    (rows((0, 40), (100, 40)), 40),
    (rows((0, 0), (100, 50)), 25),
    # uneven distances: 10 iterations at 15 on average, 90 at 25
    (rows((0, 10), (10, 20), (100, 30)), 24),
    # a model that detects nothing until the end, or was never evaluated before
    (rows((0, 0), (50, 0), (100, 40)), 10),
    (rows((100, 0)), 0),
]


@pytest.mark.parametrize(("curve", "expected"), AREAS)
def test_area_under_curve(curve: list[dict[str, Any]], expected: float) -> None:
    assert area_under_curve(curve) == pytest.approx(expected)


REACHED = [
    # curve, level, iterations
    (rows((0, 10), (100, 30)), 20, 50),
    # exactly at a point
    (rows((0, 10), (100, 30), (200, 40)), 30, 100),
    # the starting weights are there, or above
    (rows((0, 30), (100, 10)), 30, 0),
    (rows((0, 40)), 30, 0),
    # the first of two times
    (rows((0, 0), (100, 40), (200, 0), (300, 40)), 20, 50),
    # nothing detected at first
    (rows((0, 0), (100, 0), (200, 20)), 10, 150),
    # a plateau below the level
    (rows((0, 10), (100, 10), (200, 20)), 15, 150),
    # never
    (rows((0, 10), (100, 29.9)), 30, None),
]


@pytest.mark.parametrize(("curve", "level", "expected"), REACHED)
def test_iterations_to_reach(
    curve: list[dict[str, Any]], level: float, expected: float | None
) -> None:
    assert iterations_to_reach(curve, level) == pytest.approx(expected)
