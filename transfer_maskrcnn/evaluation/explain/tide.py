"""What is wrong with each detection, which objects are missed, and what AP50 would be without it.

Detections are matched as COCO does. Kinds of mistakes are those of TIDE (Bolya et al. 2020,
https://arxiv.org/abs/2008.08115), in the order of its own code: of kinds that fit, the first of
localisation, classification, duplicate, both, background. What differs: with masks, kinds are still
those of the boxes, and "mask" is one more, before all others, for what has the right class and box,
about an object that no detection of a higher score has found. Crowds make nothing wrong, as in
COCO.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import exp
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.evaluation.bootstrap import class_ap
from transfer_maskrcnn.evaluation.matches import ALL_SIZES, Matches, evaluate, gather

Record = dict[str, Any]

#: IoU from which a box fits, and below which it has nothing to do with an object
FOREGROUND, BACKGROUND = 0.5, 0.1
NOBODY = -1
#: COCO's, by the square root of the area in pixels
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
#: of a class's objects, how large a part must be called by one other name, how many at least, and
#: in how many images all that are
_MAJORITY, _LEAST_OBJECTS, _LEAST_IMAGES = 2 / 3, 4, 3
#: the probability of as many agreements if each name were right, or at random
_SIGNIFICANCE = 0.01


class Cause(str, Enum):
    """Why AP is low: a kind of mistake, what is found but not exact, or what explains all of it."""

    MISSED = "missed"
    CLASSIFICATION = "classification"
    LOCALISATION = "localisation"
    MASK = "mask"
    DUPLICATE = "duplicate"
    BACKGROUND = "background"
    BOTH = "both"
    INEXACT_BOXES = "inexact boxes"
    INEXACT_MASKS = "inexact masks"
    MASKS_BEHIND = "masks behind boxes"
    UNTRAINED = "untrained"
    CLASSES = "classes"
    INPUT_SIZE = "input size"
    SCORE_THRESHOLD = "score threshold"
    ALL_UNDER_THRESHOLD = "all under the score threshold"
    NOTHING_FOUND = "nothing found"
    CHANCE = "chance"
    DETECTIONS_PER_IMAGE = "detections per image"
    SUPPRESSION = "suppression"
    PROPOSALS = "proposals"


KINDS = tuple(Cause)[:7]
_MENDABLE = [KINDS.index(k) for k in (Cause.MASK, Cause.LOCALISATION, Cause.CLASSIFICATION)]


@dataclass(frozen=True, eq=False)
class Scene:
    """D detections by score descending, as COCO orders them; G objects; P pairs that overlap.

    A pair is of one image, of any two classes. Classes and images are places by rising id.
    """

    coco: Matches  # at all thresholds
    matches: Matches  # at IoU 0.5, its detections in the order of these here
    ap50: np.ndarray  # (K,) of each class, 0 to 100; NaN where there is nothing to find
    place: np.ndarray  # (D,) in the results as given
    found: np.ndarray  # (D,) the object that a right detection found; -1: none
    detection_area: np.ndarray  # (D,) of the box, in square pixels
    object_class: np.ndarray  # (G,)
    object_image: np.ndarray  # (G,)
    object_box: np.ndarray  # (G, 4) XYWH in pixels
    object_area: np.ndarray  # (G,) as annotated, in square pixels
    object_counts: np.ndarray  # (G,) bool: it is no crowd
    object_found: np.ndarray  # (G,) bool
    pair_detection: np.ndarray  # (P,) ascending
    pair_object: np.ndarray  # (P,)
    box_iou: np.ndarray  # (P,) over 0; with a crowd, the share of the detection that lies in it


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The kind of each mistake, as a place in ``KINDS``; -1 where there is none."""

    kind: np.ndarray  # (D,) of detections
    about: np.ndarray  # (D,) the object that a mistake is about; -1: none
    area: np.ndarray  # (D,) of that object, or of the box itself, in square pixels
    missed: np.ndarray  # (G,) bool


def read_scene(truth: Record, results: Sequence[Record], task: str) -> Scene:
    """Match detections to objects.

    Args:
        truth: COCO ground truth: ``images``, ``categories``, ``annotations``.
        results: COCO results, "bbox" as XYWH in pixels, for "segm" with masks.
        task: "bbox" or "segm".

    Raises:
        DatasetError: a result is of an image or a category that the ground truth lacks.
    """
    evaluation = evaluate(truth, results, task, [len(results) or 1], ALL_SIZES)
    coco = gather(evaluation, truth, task)
    found = np.full(len(results), NOBODY)
    in_crowd = np.zeros(len(results), dtype=bool)
    for one in evaluation.evalImgs:
        if one is not None:
            ids = np.array(one["dtIds"], dtype=np.int64) - 1
            found[ids] = np.array(one["dtMatches"][0], dtype=np.int64) - 1
            in_crowd[ids] = one["dtIgnore"][0]
    found[in_crowd] = NOBODY
    score = np.array([r["score"] for r in results], dtype=float)
    image = _places(results, "image_id", coco.image_ids)
    order = np.lexsort((image, -score))
    matches = replace(
        coco,
        iou_thresholds=coco.iou_thresholds[:1],
        category=_places(results, "category_id", coco.category_ids)[order],
        image=image[order],
        score=score[order],
        matched=found[None, order] != NOBODY,
        ignored=in_crowd[None, order],
    )
    objects = truth.get("annotations", [])
    object_box, object_image = _boxes(objects), _places(objects, "image_id", coco.image_ids)
    crowd = np.array([o.get("iscrowd", 0) for o in objects], dtype=bool)
    boxes = _boxes(results)[order]
    pairs = _pairs(boxes, matches.image, object_box, object_image, crowd)
    return Scene(
        coco=coco,
        matches=matches,
        ap50=class_ap(matches),
        place=order,
        found=found[order],
        detection_area=boxes[:, 2] * boxes[:, 3],
        object_class=_places(objects, "category_id", coco.category_ids),
        object_image=object_image,
        object_box=object_box,
        object_area=np.array([o["area"] for o in objects], dtype=float),
        object_counts=~crowd,
        object_found=np.isin(np.arange(len(objects)), found),
        pair_detection=pairs[0].astype(np.int64),
        pair_object=pairs[1].astype(np.int64),
        box_iou=pairs[2],
    )


def _places(records: Sequence[Record], key: str, ids: np.ndarray) -> np.ndarray:
    places = {name: place for place, name in enumerate(ids.tolist())}
    return np.array([places[record[key]] for record in records], dtype=np.int64)


def _boxes(records: Sequence[Record]) -> np.ndarray:
    return np.array([record["bbox"] for record in records], dtype=float).reshape(-1, 4)


def _pairs(
    boxes: np.ndarray, image: np.ndarray, others: np.ndarray, of: np.ndarray, crowd: np.ndarray
) -> np.ndarray:
    """(3, P): detection, object, IoU of their boxes."""
    parts = [np.zeros((3, 0))]
    of_image, objects = _by_value(image), _by_value(of)
    for name in of_image.keys() & objects.keys():
        here, there = of_image[name], objects[name]
        iou = mask_util.iou(boxes[here], others[there], crowd[there])
        row, column = np.nonzero(iou)
        parts.append(np.stack([here[row], there[column], iou[row, column]]))
    pairs = np.concatenate(parts, axis=1)
    return pairs[:, np.lexsort((pairs[1], pairs[0]))]


def _by_value(values: np.ndarray) -> dict[int, np.ndarray]:
    """Value -> where it stands, rising."""
    order = np.argsort(values, kind="stable")
    names, starts = np.unique(values[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=False))


def find_mistakes(scene: Scene) -> Mistakes:
    """One kind for each detection that found nothing: the first that fits; see this module.

    It is about the object that, of those that fit the kind, it overlaps most.

    ``missed`` are objects that neither a right detection nor a mistake of class, place or mask is
    about: those would be found if the mistake were repaired.
    """
    detection, object_, found = scene.pair_detection, scene.pair_object, scene.found
    own = scene.matches.category[detection] == scene.object_class[object_]
    real, near = scene.object_counts[object_], scene.box_iou >= BACKGROUND
    fits = scene.box_iou >= FOREGROUND
    right = np.flatnonzero(found != NOBODY)
    finder = np.full(len(scene.object_class), len(found))
    finder[found[right]] = right
    placed = np.zeros(len(found), dtype=bool)
    placed[detection[own & real & fits]] = True
    candidates = {
        # Detections come by falling score: what a later one will find was still to be found.
        Cause.MASK: own & fits & (finder[object_] > detection),
        Cause.LOCALISATION: own & near & ~placed[detection],
        Cause.CLASSIFICATION: ~own & fits,
        Cause.DUPLICATE: own & fits,
        Cause.BOTH: near,
    }
    kind = np.full(len(found), KINDS.index(Cause.BACKGROUND))
    about = np.full(len(found), NOBODY)
    for name, pairs in reversed(candidates.items()):
        rising = np.flatnonzero(pairs & real)
        rising = rising[np.argsort(scene.box_iou[rising], kind="stable")]
        # Of several values for one place the last stays, which is of the largest IoU.
        about[detection[rising]] = object_[rising]
        kind[detection[rising]] = KINDS.index(name)
    innocent = (found != NOBODY) | scene.matches.ignored[0]
    kind[innocent], about[innocent] = NOBODY, NOBODY
    missed = scene.object_counts & ~scene.object_found
    missed[about[np.isin(kind, _MENDABLE)]] = False
    of_object = np.append(scene.object_area, 0)[about]
    return Mistakes(
        kind=kind,
        about=about,
        area=np.where(about != NOBODY, of_object, scene.detection_area),
        missed=missed,
    )


def in_size(area: np.ndarray, size: str | None) -> np.ndarray:
    """Bool: which areas are of a size; all for None."""
    low, high = SIZES[size] if size else (-np.inf, np.inf)
    return (area >= low) & (area < high)


def repaired(
    scene: Scene, mistakes: Mistakes, kinds: Collection[Cause], size: str | None = None
) -> Matches:
    """The matches if mistakes of ``kinds``, of objects of one size, had not been made.

    As in TIDE: of several detections with a wrong class, place or mask about one object that is not
    found the one of the highest score becomes right, and all others go; so do duplicates,
    background and "both"; what is missed need not be found. So no AP gets lower, and without any
    mistake it is 100. Unlike in TIDE, the one of the highest score is that of ``kinds``, not of all
    kinds, so that gains of classification and localisation are TIDE's or a little larger.
    """
    before, about = scene.matches, mistakes.about
    chosen = np.isin(mistakes.kind, [KINDS.index(kind) for kind in kinds])
    chosen &= in_size(mistakes.area, size)
    to_find = ~np.isin(about, scene.found) & np.isin(mistakes.kind, _MENDABLE)
    mended = np.flatnonzero(chosen & to_find)
    right = mended[np.unique(about[mended], return_index=True)[1]]
    category, matched = before.category.copy(), before.matched.copy()
    category[right], matched[:, right] = scene.object_class[about[right]], True
    ignored = before.ignored | chosen
    ignored[:, right] = False
    objects = before.objects.copy()
    if Cause.MISSED in kinds:
        lost = mistakes.missed & in_size(scene.object_area, size)
        np.subtract.at(objects, (scene.object_class[lost], scene.object_image[lost]), 1)
    return replace(before, category=category, matched=matched, ignored=ignored, objects=objects)


def gains(
    scene: Scene, mistakes: Mistakes, kinds: Collection[Cause], size: str | None = None
) -> np.ndarray:
    """(K,) AP50 of each class that a repair brings; NaN where there is no object.

    A class of which nothing is left to find, because all was missed, counts as 100.
    """
    after = class_ap(repaired(scene, mistakes, kinds, size))
    return np.where(np.isnan(after) & ~np.isnan(scene.ap50), 100.0, after) - scene.ap50


def find_renaming(scene: Scene) -> dict[int, int]:
    """Class of the detections -> class that they are, where that is another, and beyond doubt.

    Two or more classes must each have a clear majority of their objects called by one other name,
    no two by the same, more often than chance makes it (Hoeffding 1963, Probability inequalities
    for sums of bounded random variables, theorem 1). What counts is the class of the detection of
    the highest score whose box fits.
    """
    fits = (scene.box_iou >= FOREGROUND) & scene.object_counts[scene.pair_object]
    objects, first = np.unique(scene.pair_object[fits], return_index=True)  # score descending
    seen = scene.matches.category[scene.pair_detection[fits][first]]
    called: dict[int, int] = {}
    for meant in np.unique(scene.object_class[objects]).tolist():
        names, counts = np.unique(seen[scene.object_class[objects] == meant], return_counts=True)
        most = int(np.argmax(counts))
        if counts[most] >= max(_LEAST_OBJECTS, _MAJORITY * counts.sum()):
            called[meant] = int(names[most])
    used = list(called.values())
    # A name that no object has cannot be the other half of an exchange.
    there = set(scene.object_class[scene.object_counts].tolist())
    moved = {m: s for m, s in called.items() if m != s and used.count(s) == 1 and s in there}
    learnt = np.array([moved.get(m, NOBODY) for m in scene.object_class[objects].tolist()])
    agree, concerned = int((seen == learnt).sum()), max(1, int((learnt != NOBODY).sum()))
    by_chance = exp(-((2 * agree - concerned) ** 2) / (2 * concerned))
    images = np.unique(scene.object_image[objects][seen == learnt])
    proven = len(moved) > 1 and len(images) >= _LEAST_IMAGES and by_chance <= _SIGNIFICANCE
    return {seen: meant for meant, seen in moved.items()} if proven else {}


def count_suppressed(scene: Scene, nms: float) -> int:
    """Objects that are not found, but overlap a found one of their class by more than ``nms``."""
    lost = np.flatnonzero(scene.object_counts & ~scene.object_found)
    found, boxes = np.flatnonzero(scene.object_found), scene.object_box
    place = scene.object_image * len(scene.matches.objects) + scene.object_class
    pairs = _pairs(boxes[lost], place[lost], boxes[found], place[found], np.zeros(len(found)))
    return len(np.unique(pairs[0, pairs[2] > nms]))
