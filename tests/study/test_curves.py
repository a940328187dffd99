"""Learning curves whose area and crossing can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.study.curves import (
    Curve,
    area_under_curve,
    iterations_to_reach,
    speed_up,
    speed_up_in_words,
)

NAN = float("nan")

AREAS = [
    # curve, last iteration, mean AP
    ([(0, 40), (100, 40)], 100, 40),
    ([(0, 0), (100, 50)], 100, 25),
    # uneven distances: 10 iterations at 15 on average, 90 at 25
    ([(0, 10), (10, 20), (100, 30)], 100, 24),
    # no evaluation of the starting weights
    ([(100, 50)], 100, 25),
    # nothing detected, as COCO and as JSON write it
    ([(0, NAN), (50, None), (100, 40)], 100, 10),
    # in any order
    ([(100, 30), (0, 10), (10, 20)], 100, 24),
    # longer than the budget: cut off at AP 20
    ([(0, 0), (100, 40)], 50, 10),
    # shorter than the budget: the last AP stays
    ([(0, 0), (50, 40)], 100, 30),
    # no evaluation at all
    ([], 100, 0),
]


@pytest.mark.parametrize(("points", "last", "expected"), AREAS)
def test_area_under_curve(points: Curve, last: float, expected: float) -> None:
    assert area_under_curve(points, last) == pytest.approx(expected)


REACHED = [
    # curve, level, iterations
    ([(0, 10), (100, 30)], 20, 50),
    # exactly at a point
    ([(0, 10), (100, 30), (200, 40)], 30, 100),
    # the starting weights are there, or above
    ([(0, 30), (100, 10)], 30, 0),
    ([(0, 40)], 30, 0),
    # the first of two times
    ([(0, 0), (100, 40), (200, 0), (300, 40)], 20, 50),
    # not evaluated at 0: AP 0 there
    ([(100, 40)], 10, 25),
    # nothing detected at first
    ([(0, None), (100, NAN), (200, 20)], 10, 150),
    # a plateau below the level
    ([(0, 10), (100, 10), (200, 20)], 15, 150),
    # never
    ([(0, 10), (100, 29.9)], 30, None),
    ([], 30, None),
]


@pytest.mark.parametrize(("points", "level", "expected"), REACHED)
def test_iterations_to_reach(points: Curve, level: float, expected: float | None) -> None:
    assert iterations_to_reach(points, level) == pytest.approx(expected)


SPEED_UPS = [
    # own iterations, the reference's budget, factor, words
    (65, 400, 400 / 65, "reaches it 6.2x sooner"),
    (4, 400, 100, "reaches it about 100x sooner"),  # roughly: it lies between two points
    (400, 400, 1, "reaches it just as soon"),
    (395, 400, 400 / 395, "reaches it just as soon"),
    (600, 400, 2 / 3, "reaches it 1.5x later"),
    (0.0, 400, math.inf, "is there before the first iteration"),
    (None, 400, None, "does not reach it"),
]


@pytest.mark.parametrize(("own", "budget", "factor", "words"), SPEED_UPS)
def test_speed_up(own: float | None, budget: float, factor: float | None, words: str) -> None:
    assert speed_up(own, budget) == pytest.approx(factor)
    assert speed_up_in_words(own, budget) == words


@pytest.mark.parametrize("budget", [0, -5, NAN])
def test_a_budget_without_iterations_is_refused(budget: float) -> None:
    with pytest.raises(TransferError, match="expected more than 0"):
        area_under_curve([(0, 10)], budget)
    with pytest.raises(TransferError, match="expected more than 0"):
        speed_up(10, budget)
