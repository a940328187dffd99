"""What is wrong with each detection, which objects are missed, and what AP would be without it.

The kinds are those of TIDE (Bolya et al. 2020, https://arxiv.org/abs/2008.08115), in the order of
its own code: of kinds that fit, the first of localisation, classification, duplicate, background,
both. What differs: with masks, kinds are still those of the boxes, and "mask" is one more, before
all others, for what has the right class and box, about an object that no detection of a higher
score has found. Crowds make nothing wrong, as in COCO.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from transfer_maskrcnn.evaluation.explain.matching import FOREGROUND, NOBODY, Outcome
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps

#: below, a detection has nothing to do with an object
BACKGROUND = 0.1
#: kind -> what it is
KINDS = {
    "missed": "an object that no detection is about",
    "classification": "the box fits an object of another class",
    "localisation": "the class is right, the box overlaps by less than half (IoU 0.1 to 0.5)",
    "mask": "class and box are right, the mask overlaps by less than half",
    "duplicate": "the object was found already, by a detection of a higher score",
    "background": "there is no object (IoU under 0.1)",
    "both": "the box overlaps by less than half (IoU 0.1 to 0.5) an object of another class",
}
#: COCO's, by the square root of the area in pixels
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The kind of each mistake, as a place in ``KINDS``; -1 where there is none."""

    found: np.ndarray  # (D,) the object that a right detection found; -1: none
    kind: np.ndarray  # (D,) of detections
    about: np.ndarray  # (D,) the object that a mistake is about; -1: none
    area: np.ndarray  # (D,) of that object, or of the box itself, in square pixels
    missed: np.ndarray  # (G,) bool


def _place(kind: str) -> int:
    return list(KINDS).index(kind)


def find_mistakes(overlaps: Overlaps, found: np.ndarray, in_crowd: np.ndarray) -> Mistakes:
    """One kind for each detection that found nothing: the first that fits; see this module.

    It is about the object that, of those that fit the kind, it overlaps most.

    ``missed`` are objects that neither a right detection nor a mistake of class, place or mask is
    about: those would be found if the mistake were repaired.

    Args:
        found, in_crowd: as :func:`match` returns them.
    """
    detections = len(found)
    right = np.flatnonzero(found != NOBODY)
    finder = np.full(len(overlaps.object_crowd), detections)
    finder[found[right]] = right
    own = (
        overlaps.detection_class[overlaps.pair_detection]
        == overlaps.object_class[overlaps.pair_object]
    )
    real, box = ~overlaps.object_crowd[overlaps.pair_object], overlaps.box_iou
    # Detections come by falling score: what a later one will find was still to be found.
    still_free = finder[overlaps.pair_object] > overlaps.pair_detection
    nearest_own, _ = _most(overlaps, own & real, detections)
    loose = (nearest_own < FOREGROUND)[overlaps.pair_detection]
    fits = [
        ("mask", own & real & still_free & (box >= FOREGROUND)),
        ("localisation", own & real & loose & (box >= BACKGROUND)),
        ("classification", ~own & real & (box >= FOREGROUND)),
        ("duplicate", own & real & (box >= FOREGROUND)),
        ("both", real & (box >= BACKGROUND)),
    ]
    kind = np.full(detections, _place("background"))
    about = np.full(detections, NOBODY)
    for name, pairs in reversed(fits):
        _, nearest = _most(overlaps, pairs, detections)
        kind[nearest != NOBODY] = _place(name)
        about = np.where(nearest != NOBODY, nearest, about)
    innocent = (found != NOBODY) | in_crowd
    kind[innocent], about[innocent] = NOBODY, NOBODY
    claimed = np.isin(kind, [_place(k) for k in ("mask", "localisation", "classification")])
    missed = ~overlaps.object_crowd & (finder == detections)
    missed[about[claimed]] = False
    area = np.where(
        about != NOBODY, np.append(overlaps.object_area, 0)[about], overlaps.detection_area
    )
    return Mistakes(found, kind, about, area, missed)


def _most(overlaps: Overlaps, pairs: np.ndarray, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) the largest IoU of boxes among ``pairs`` (P,), 0 for none, and (D,) its object."""
    iou, object_ = np.zeros(detections), np.full(detections, NOBODY)
    chosen = np.flatnonzero(pairs)
    rising = chosen[np.argsort(overlaps.box_iou[chosen], kind="stable")]
    # Of several values for one place the last stays, which is the largest.
    iou[overlaps.pair_detection[rising]] = overlaps.box_iou[rising]
    object_[overlaps.pair_detection[rising]] = overlaps.pair_object[rising]
    return iou, object_


def in_size(area: np.ndarray, size: str | None) -> np.ndarray:
    """Bool: which areas are of a size; all for None."""
    low, high = SIZES[size] if size else (-np.inf, np.inf)
    return (area >= low) & (area < high)


def repaired(
    before: Outcome,
    overlaps: Overlaps,
    mistakes: Mistakes,
    kinds: Collection[str],
    size: str | None = None,
) -> Outcome:
    """The outcome if mistakes of ``kinds``, of objects of one size, had not been made.

    As in TIDE: of several detections with a wrong class, place or mask about one object that is not
    found the one of the highest score becomes right, and all others go; so do duplicates,
    background and "both"; what is missed need not be found. So no AP gets lower, and without any
    mistake it is 100. Unlike in TIDE, the one of the highest score is that of ``kinds``, not of all
    kinds, so that gains of classification and localisation are TIDE's or a little larger.
    """
    wrong = mistakes.kind != NOBODY
    chosen = wrong & np.isin(mistakes.kind, [_place(kind) for kind in kinds])
    chosen &= in_size(mistakes.area, size)
    mendable = [_place(kind) for kind in ("mask", "localisation", "classification")]
    is_found = np.isin(mistakes.about, mistakes.found)
    mended = np.flatnonzero(chosen & ~is_found & np.isin(mistakes.kind, mendable))
    _, first = np.unique(mistakes.about[mended], return_index=True)
    right = mended[first]
    if "mask" not in kinds:  # the right class alone does not mend a bad mask
        right = right[_has_good_mask(overlaps, mistakes)[right]]
    category, quality = before.category.copy(), before.quality.copy()
    category[right] = overlaps.object_class[mistakes.about[right]]
    quality[right] = 1.0
    counted = before.counted & ~chosen
    counted[right] = True
    to_find = before.to_find
    if "missed" in kinds:
        lost = mistakes.missed & in_size(overlaps.object_area, size)
        to_find = to_find - np.bincount(overlaps.object_class[lost], minlength=len(to_find))
    return replace(before, category=category, quality=quality, counted=counted, to_find=to_find)


def _has_good_mask(overlaps: Overlaps, mistakes: Mistakes) -> np.ndarray:
    """(D,) bool: a repair of class or place is enough."""
    good = mistakes.kind != _place("classification")
    same = mistakes.about[overlaps.pair_detection] == overlaps.pair_object
    good[overlaps.pair_detection[same & (overlaps.iou >= FOREGROUND)]] = True
    return good


def count(overlaps: Overlaps, mistakes: Mistakes, kind: str, size: str | None = None) -> int:
    """How many mistakes there are of a kind."""
    if kind == "missed":
        return int((mistakes.missed & in_size(overlaps.object_area, size)).sum())
    return int(((mistakes.kind == _place(kind)) & in_size(mistakes.area, size)).sum())
