"""Scores from which detections are right often enough."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.incremental.thresholds import ENOUGH, precise_scores

R, W, CROWD = True, False, None


def matches(outcomes: list[tuple[float, bool | None]], objects: int) -> Matches:
    """One class; scores falling; a detection is right, wrong, or in a crowd."""
    right = np.array([outcome is True for _, outcome in outcomes], dtype=bool)
    ignored = np.array([outcome is None for _, outcome in outcomes], dtype=bool)
    return Matches(
        iou_type="segm",
        ground_truth="",
        image_ids=np.array([1]),
        category_ids=np.array([1]),
        # the first must not be taken for 0.5
        iou_thresholds=np.array([0.75, 0.5]),
        objects=np.array([[objects]]),
        category=np.zeros(len(outcomes), int),
        image=np.zeros(len(outcomes), int),
        score=np.array([score for score, _ in outcomes]),
        matched=np.stack([~right, right]) if outcomes else np.zeros((2, 0), bool),
        ignored=np.stack([ignored] * 2),
    )


def falling(*outcomes: bool | None) -> list[tuple[float, bool | None]]:
    return [(round(0.99 - 0.01 * i, 2), outcome) for i, outcome in enumerate(outcomes)]


LOW: list[tuple[float, bool | None]] = [(0.2, W), (0.19, W), (0.18, W)]
CASES = [
    # what, detections, objects, score at precision 0.8
    ("all right", falling(R, R, R, R, R), 9, 0.95),
    ("one of six wrong", falling(R, R, W, R, R, R), 9, 0.94),
    ("a wrong one at the end is not reached", falling(R, R, R, R, W, R, W, W), 9, 0.94),
    ("precise again further down", falling(R, W, W, R, R, R, R, R, R, R, R), 9, 0.89),
    ("too few to judge: the default", falling(R, R, R, R), 9, 0.7),
    ("of as few objects, too", falling(R, R, R, R), ENOUGH, 0.7),
    ("wrong ones below the default show nothing", [*falling(R, R, R), *LOW], 9, 0.7),
    ("enough, and too few right", falling(R, R, R, W, W), 9, math.inf),
    ("enough, and as many right as wanted", falling(R, R, R, R, W), 9, 0.7),
    ("many wrong ones after good ones", [*falling(R, R, R, R, *[W] * 9), (0.1, R)], 9, math.inf),
    ("below the default, enough are right", [*LOW, *[(0.1, R)] * 5], 9, math.inf),
    ("the last of these, far below", [*falling(R, R, R, R), *LOW, (0.1, R)], 9, 0.7),
    ("never precise", falling(R, W, R, W, R, W, R, W, R, W), 9, math.inf),
    ("no detection", [], 9, 0.7),
    ("crowds do not count", falling(R, R, CROWD, CROWD, CROWD, R, R, R), 9, 0.92),
    ("too few objects: the default", falling(R, R, R, R), ENOUGH - 1, 0.7),
    ("of these, most detections are wrong", falling(*[W] * 9), ENOUGH - 1, 0.7),
    # the threshold would let in the wrong ones of its own score
    ("equal scores", [(0.9, R)] * 5 + [(0.5, R), (0.5, W), (0.5, W)], 9, 0.9),
]


@pytest.mark.parametrize(("detections", "objects", "expected"), [case[1:] for case in CASES])
def test_precise_scores(
    detections: list[tuple[float, bool | None]], objects: int, expected: float
) -> None:
    assert precise_scores(matches(detections, objects), 0.8, default=0.7) == [expected]
