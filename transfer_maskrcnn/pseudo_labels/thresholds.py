"""For each class, the score from which a teacher's detections are right often enough."""

from __future__ import annotations

import math

import numpy as np

from transfer_maskrcnn.evaluation.matches import Matches

#: right detections that a class needs before its precision is believed
ENOUGH = 5


def precise_scores(matches: Matches, precision: float, default: float) -> list[float]:
    """The lowest score of each class from which at least ``precision`` of its detections are right.

    A detection is right if it matches an object at IoU 0.5; those matched to a crowd do not count.

    Args:
        matches: of the teacher on held-out images; its categories are the teacher's classes.
        precision: 0 to 1.
        default: the score of a class with fewer than ``ENOUGH`` objects there.

    Returns:
        a score for each of the K categories; infinity where no score is precise enough with
        ``ENOUGH`` right detections.
    """
    half = int(np.argmin(np.abs(matches.iou_thresholds - 0.5)))
    scores: list[float] = []
    for category, objects in enumerate(matches.objects.sum(axis=1)):
        mine = (matches.category == category) & ~matches.ignored[half]
        if objects < ENOUGH:
            scores.append(default)
        else:
            scores.append(_lowest(matches.score[mine], matches.matched[half, mine], precision))
    return scores


def _lowest(score: np.ndarray, right: np.ndarray, precision: float) -> float:
    """Of one class, scores in falling order."""
    found = np.cumsum(right)
    share = found / np.arange(1, len(right) + 1)
    # The last of equal scores: a threshold lets all of them pass, or none.
    last = np.append(score[1:] != score[:-1], True)[: len(score)]
    good = np.flatnonzero(last & (share >= precision) & (found >= ENOUGH))
    return float(score[good[-1]]) if len(good) else math.inf
