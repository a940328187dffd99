"""Objects that a setting of the evaluation keeps from being found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.matching import NOBODY
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps


@dataclass(frozen=True)
class Limits:
    """What is certain from counts and boxes alone; 0 where a setting is not known.

    Attributes:
        full_images: those that reach TEST.DETECTIONS_PER_IMAGE and have more objects than that.
        beyond: objects in them beyond that number, which no detection is left for.
        suppressed: objects that are not found, but overlap a found one of their class by more than
            MODEL.ROI_HEADS.NMS_THRESH_TEST, so that NMS removes one of the two.
    """

    full_images: int = 0
    beyond: int = 0
    suppressed: int = 0


def find_limits(overlaps: Overlaps, found: np.ndarray, facts: Facts) -> Limits:
    """Count them.

    Args:
        found: (D,) as :func:`match` returns it.
    """
    real = overlaps.object_image[~overlaps.object_crowd]
    images = 1 + max([NOBODY, *overlaps.object_image, *overlaps.detection_image])
    objects = np.bincount(real, minlength=images)
    full = np.zeros(images, dtype=bool)
    limit = facts.detections_per_image
    if limit is not None:
        detections = np.bincount(overlaps.detection_image, minlength=images)
        full = (detections >= limit) & (objects > limit)
    return Limits(
        full_images=int(full.sum()),
        beyond=int((objects[full] - (limit or 0)).sum()),
        suppressed=_suppressed(overlaps, found, facts.nms_threshold),
    )


def _suppressed(overlaps: Overlaps, found: np.ndarray, threshold: float | None) -> int:
    if threshold is None:
        return 0
    is_found = np.zeros(len(overlaps.object_class), dtype=bool)
    is_found[found[found != NOBODY]] = True
    lost = ~is_found & ~overlaps.object_crowd
    place = overlaps.object_image * len(overlaps.class_names) + overlaps.object_class
    total = 0
    for group in np.intersect1d(place[lost], place[is_found]):
        here = place == group
        some, others = overlaps.object_box[here & lost], overlaps.object_box[here & is_found]
        iou = mask_util.iou(some, others, [0] * len(others))
        total += int((iou.max(axis=1) > threshold).sum())
    return total
