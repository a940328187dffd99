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
        default: the score of a class of which the images say too little.

    Returns:
        a score for each of the K categories: the lowest that is precise enough with ``ENOUGH``
        right detections; else infinity where the images show that the class is not precise; else
        ``default``, as for a class with fewer than ``ENOUGH`` objects.

        They show it where at least ``ENOUGH`` detections are judged, and fewer than ``precision``
        of these are right. Judged are those from ``default`` on; of a class with ``ENOUGH`` right
        ones, at whatever score, at least its ``ENOUGH`` best.
    """
    half = int(np.argmin(np.abs(matches.iou_thresholds - 0.5)))
    scores: list[float] = []
    for category, objects in enumerate(matches.objects.sum(axis=1)):
        mine = (matches.category == category) & ~matches.ignored[half]
        if objects < ENOUGH:
            scores.append(default)
        else:
            outcome = matches.score[mine], matches.matched[half, mine]
            scores.append(_lowest(*outcome, precision, default))
    return scores


def _lowest(score: np.ndarray, right: np.ndarray, precision: float, default: float) -> float:
    """Of one class, scores in falling order."""
    found = np.cumsum(right)
    share = found / np.arange(1, len(right) + 1)
    # The last of equal scores: a threshold lets all of them pass, or none.
    last = np.append(score[1:] != score[:-1], True)[: len(score)]
    good = np.flatnonzero(last & (share >= precision) & (found >= ENOUGH))
    if len(good):
        return float(score[good[-1]])
    best = score[ENOUGH - 1] if right.sum() >= ENOUGH else math.inf
    judged = right[score >= min(best, default)]
    imprecise = len(judged) >= ENOUGH and judged.mean() < precision
    return math.inf if imprecise else default
