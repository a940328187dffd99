"""COCO AP of resampled images, without matching again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transfer_maskrcnn.evaluation.matches import Matches

#: COCO's 101 recall levels, computed as pycocotools does
RECALLS = np.linspace(0.0, 1.0, 101)
#: with fewer, images that happen to agree would pass for certainty
LEAST_IMAGES = 5
REPLICATES = 1000
#: elements of the largest temporary array
CELLS = 2**21
_MOST_ENTRIES = 10_000_000  # detections times resamples of one interval: some seconds


class Interval(NamedTuple):
    """A range of AP, or of a difference of APs, from 0 to 100."""

    low: float
    high: float


def class_ap(matches: Matches) -> np.ndarray:
    """(K,) COCO AP of each class, 0 to 100; NaN where there is nothing to find."""
    return bootstrap_class_ap(matches)[:, 0]


def mean_ap(ap: np.ndarray) -> float:
    """COCO's mean over (K,) classes: NaN is left out; NaN where there is nothing else."""
    return float(mean_of_classes(ap))


def average_precision(matches: Matches) -> float:
    """COCO AP, 0 to 100: the mean over IoU thresholds and those classes that have ground truth; NaN
    where none has."""
    return mean_ap(class_ap(matches))


def resample(images: int, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """How often each image is drawn when as many are drawn as there are, with replacement.

    Returns:
        (replicates, images) integers; each row adds up to ``images``.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=replicates)


def interval(values: np.ndarray) -> Interval:
    """The 95 % percentile interval of bootstrap replicates.

    Replicates without any ground truth, NaN, do not count; where all are NaN, so is the interval.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(np.nan, np.nan)
    return Interval(*np.percentile(known, [2.5, 97.5]).tolist())


def ap_interval(matches: Matches) -> Interval:
    """Of COCO AP, over the choice of the images alone: another training is not in it. NaN where
    there are fewer than :data:`LEAST_IMAGES`. Very many detections get fewer resamples."""
    images, most = len(matches.image_ids), _MOST_ENTRIES // max(1, len(matches.score))
    if images < LEAST_IMAGES:
        return Interval(np.nan, np.nan)
    return interval(bootstrap_ap(matches, resample(images, max(200, min(REPLICATES, most)))))


def bootstrap_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """COCO AP of many resamples of the images.

    It is pycocotools' AP on a data set in which image i is there ``weights[b, i]`` times, its
    copies side by side in the order of image ids. Only where one image, drawn more than once, has
    detections of equal score in one class does that order, which is arbitrary, differ.

    Args:
        weights: (B replicates, N images) integers, none negative.

    Returns:
        (B,) AP from 0 to 100: as COCO does, a class without ground truth in the replicate is left
        out of the mean; NaN where none has any.
    """
    return mean_of_classes(bootstrap_class_ap(matches, weights))


def bootstrap_class_ap(
    matches: Matches,
    weights: np.ndarray | None = None,
    categories: Sequence[int] | None = None,
) -> np.ndarray:
    """What :func:`bootstrap_ap` is the mean of.

    Args:
        weights: (B replicates, N images), as there; None: each image once, B = 1.
        categories: K rows of ``matches.objects``; None: all.

    Returns:
        (K, B) AP from 0 to 100; NaN where the class has no ground truth in the replicate.
    """
    if weights is None:
        weights = np.ones((1, len(matches.image_ids)), dtype=np.int64)
    categories = range(len(matches.objects)) if categories is None else categories
    ap = [100 * _class_ap(matches, category, weights) for category in categories]
    return np.reshape(ap, (len(categories), len(weights)))


def mean_of_classes(ap: np.ndarray) -> np.ndarray:
    """COCO's mean over the first axis, K classes: NaN is left out; NaN where there is nothing
    else."""
    known = ~np.isnan(ap)
    classes = known.sum(axis=0)
    total = np.where(known, ap, 0.0).sum(axis=0)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def _class_ap(matches: Matches, category: int, weights: np.ndarray) -> np.ndarray:
    """(B,) AP of one class, 0 to 1; NaN where the replicate has none of its objects."""
    of_class = matches.category == category
    image = matches.image[of_class]
    counted = ~matches.ignored[:, of_class]
    matched = matches.matched[:, of_class]
    to_find = weights @ matches.objects[category]
    ap = np.zeros(len(weights))
    step = max(1, CELLS // max(1, len(image)))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        for counts, hits in zip(counted, matched, strict=True):
            ap[part] += _interpolated(weights[part], image[counts], hits[counts], to_find[part])
    return np.where(to_find > 0, ap / len(counted), np.nan)


def _interpolated(
    weights: np.ndarray, image: np.ndarray, hits: np.ndarray, to_find: np.ndarray
) -> np.ndarray:
    """(B,) 101-point AP of one class at one IoU threshold.

    Precision rises while copies of a hit are added and falls with each miss, so its envelope needs
    no other points than those after the last copy of each hit.
    """
    detected = np.cumsum(np.take(weights, image, axis=1), axis=1)[:, hits]
    found = np.cumsum(np.take(weights, image[hits], axis=1), axis=1)
    precision = found / np.maximum(detected, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / np.maximum(to_find, 1)[:, None]
    levels_reached = np.searchsorted(RECALLS, recall, side="right")
    new_levels = np.diff(levels_reached, axis=1, prepend=0)
    return (envelope * new_levels).sum(axis=1) / len(RECALLS)
