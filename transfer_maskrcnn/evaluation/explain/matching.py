"""COCO's matching of detections to objects at IoU 0.5, and the AP of what it finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfer_maskrcnn.evaluation.bootstrap import RECALLS
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps

FOREGROUND = 0.5
#: COCO's ten, 0.5 to 0.95
THRESHOLDS = np.linspace(0.5, 0.95, 10)
NOBODY = -1


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each of D detections (score descending), and what was to be found."""

    category: np.ndarray  # (D,)
    quality: np.ndarray  # (D,) IoU with the object that it found; 0 where it found none
    counted: np.ndarray  # (D,) bool: neither right nor wrong, as within a crowd, is False
    to_find: np.ndarray  # (K,) objects of each class


def match(overlaps: Overlaps) -> tuple[np.ndarray, np.ndarray]:
    """COCO's greedy matching at IoU 0.5.

    Returns:
        (D,) the object that each detection found, or NOBODY; and (D,) bool: it found none, but lies
        within a crowd of its class.
    """
    found = np.full(len(overlaps.detection_class), NOBODY)
    in_crowd = np.zeros(len(found), dtype=bool)
    same = overlaps.detection_class[overlaps.pair_detection]
    same = same == overlaps.object_class[overlaps.pair_object]
    candidates = np.flatnonzero(same & (overlaps.iou >= FOREGROUND))
    taken: set[int] = set()
    best = np.zeros(len(found))
    crowd = overlaps.object_crowd
    # Pairs come by detection: a new one begins when the last has had all its chances.
    last = NOBODY
    for detection, object_, iou in zip(
        overlaps.pair_detection[candidates].tolist(),
        overlaps.pair_object[candidates].tolist(),
        overlaps.iou[candidates].tolist(),
        strict=True,
    ):
        if detection != last:
            taken.add(int(found[last]) if last != NOBODY else NOBODY)
            last = detection
        if crowd[object_]:
            in_crowd[detection] = True
        elif object_ not in taken and iou >= best[detection]:
            found[detection], best[detection] = object_, iou
    return found, in_crowd & (found == NOBODY)


def outcome(overlaps: Overlaps, found: np.ndarray, in_crowd: np.ndarray) -> Outcome:
    """What :func:`match` returned, as something that has an AP."""
    quality = np.zeros(len(found))
    hit = found[overlaps.pair_detection] == overlaps.pair_object
    quality[overlaps.pair_detection[hit]] = overlaps.iou[hit]
    return Outcome(
        category=overlaps.detection_class,
        quality=quality,
        counted=~in_crowd,
        to_find=np.bincount(
            overlaps.object_class[~overlaps.object_crowd], minlength=len(overlaps.class_names)
        ),
    )


def class_ap(result: Outcome, threshold: float = FOREGROUND) -> np.ndarray:
    """(K,) AP of each class at one IoU threshold, 0 to 100; NaN where there is nothing to find."""
    counted = np.flatnonzero(result.counted)
    by_class = counted[np.argsort(result.category[counted], kind="stable")]
    right = result.quality[by_class] >= min(threshold, 1 - 1e-10)
    ends = np.searchsorted(result.category[by_class], np.arange(len(result.to_find) + 1))
    ap = np.full(len(result.to_find), np.nan)
    for place in np.flatnonzero(result.to_find):
        hits = right[ends[place] : ends[place + 1]]
        ap[place] = 100 * _interpolated(hits, int(result.to_find[place]))
    return ap


def _interpolated(hits: np.ndarray, to_find: int) -> float:
    """COCO's 101-point AP, 0 to 1. Only at a hit can precision be the best of what follows."""
    places = np.flatnonzero(hits)
    found = np.arange(1, len(places) + 1)
    envelope = np.maximum.accumulate((found / (places + 1))[::-1])[::-1]
    reached = np.searchsorted(found / to_find, RECALLS, side="left")
    return float(envelope[reached[reached < len(places)]].sum()) / len(RECALLS)


def mean_ap(ap: np.ndarray) -> float:
    """The mean over classes that have something to find; NaN where none has."""
    known = ap[~np.isnan(ap)]
    return float(known.mean()) if len(known) else float("nan")
