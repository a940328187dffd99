"""The figures of an explanation: AP, and what it would be if one kind of mistake were repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.limits import Limits, find_limits
from transfer_maskrcnn.evaluation.explain.matching import (
    NOBODY,
    THRESHOLDS,
    Outcome,
    class_ap,
    match,
    mean_ap,
    outcome,
)
from transfer_maskrcnn.evaluation.explain.mistakes import (
    KINDS,
    SIZES,
    Mistakes,
    count,
    find_mistakes,
    in_size,
    repaired,
)
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps
from transfer_maskrcnn.evaluation.explain.renaming import find_renaming


@dataclass(frozen=True)
class Group:
    """Objects of one size, or class: how many, and how many are found. Crowds do not count."""

    objects: int
    found: int


@dataclass(frozen=True)
class Repair:
    """One kind of mistake: how many there are, and the AP50 (0 to 100) gained without them.

    Gains do not add up: a repair is worth more, or less, after another. Those of "missed" by size
    are NaN where AP50 is 0: they would say which class has objects of one size alone.
    """

    count: int
    gain: float
    by_size: Mapping[str, float]
    count_by_size: Mapping[str, int]
    by_class: Mapping[str, float]  # of the AP50 of that class; without those that have no object


@dataclass(frozen=True)
class Figures:
    """All that is measured. AP is from 0 to 100; NaN where there is no object.

    Attributes:
        ap: the evaluation's own, where the facts have it; else over ten IoU thresholds, of the
            matches at 0.5, which is COCO's or a little less.
        box_ap: the same of boxes alone.
        class_ap50: of classes that have objects.
        most_objects: in one image.
        loose_boxes, loose_masks: AP50 - AP, what stricter thresholds cost, in its two parts.
        ap50_any_class: of a single class of all objects.
        renaming: class of the detections -> class that they are, where that is proven.
        renaming_gain: the AP50 that this brings.
        limits: what settings keep from being found.
    """

    task: str
    detections: int
    most_objects: int
    scores: tuple[float, float]  # lowest and highest; NaN without detections
    ap: float
    box_ap: float
    ap50: float
    ap50_any_class: float
    class_ap50: Mapping[str, float]
    sizes: Mapping[str, Group]
    classes: Mapping[str, Group]
    repairs: Mapping[str, Repair]
    loose_boxes: float
    loose_masks: float
    renaming: Mapping[str, str]
    renaming_gain: float
    limits: Limits

    @property
    def objects(self) -> int:
        return sum(group.objects for group in self.sizes.values())

    @property
    def found(self) -> int:
        return sum(group.found for group in self.sizes.values())

    @property
    def lost(self) -> float:
        """The share of objects that no right detection found."""
        return 1 - self.found / max(1, self.objects)

    @property
    def loose(self) -> float:
        """AP50 - AP: what stricter thresholds cost."""
        return self.loose_boxes + self.loose_masks


def measure(overlaps: Overlaps, task: str, facts: Facts | None = None) -> tuple[Figures, Mistakes]:
    """Everything, from one matching at IoU 0.5 (two more for questions about classes).

    Args:
        overlaps: of the task's boxes or masks.
        task: "bbox" or "segm".
        facts: settings, and the AP that the evaluation computed.
    """
    facts = facts or Facts()
    found, in_crowd = match(overlaps)
    before = outcome(overlaps, found, in_crowd)
    mistakes = find_mistakes(overlaps, found, in_crowd)
    ap50 = class_ap(before)
    ap = _known_ap(before, task, facts)
    boxes, masks = _looseness(overlaps, before, mistakes, ap)
    boxes_alone = replace(overlaps, iou=overlaps.box_iou)
    moved, renaming_gain = _renaming(overlaps, mean_ap(ap50))
    score = overlaps.detection_score
    figures = Figures(
        task=task,
        detections=len(found),
        most_objects=_most_in_an_image(overlaps),
        scores=(float(score[-1]), float(score[0])) if len(score) else (np.nan, np.nan),
        ap=ap,
        box_ap=_known_ap(outcome(boxes_alone, *match(boxes_alone)), "bbox", facts),
        ap50=mean_ap(ap50),
        ap50_any_class=_ap50(_one_class(overlaps)),
        class_ap50=_by_name(overlaps, ap50),
        sizes={
            size: _group(overlaps, found, in_size(overlaps.object_area, size)) for size in SIZES
        },
        classes={
            name: _group(overlaps, found, overlaps.object_class == place)
            for place, name in enumerate(overlaps.class_names)
        },
        repairs={kind: _repair(overlaps, before, mistakes, ap50, kind) for kind in KINDS},
        loose_boxes=boxes,
        loose_masks=masks,
        renaming=moved,
        renaming_gain=renaming_gain,
        limits=find_limits(overlaps, found, facts),
    )
    return figures, mistakes


def _known_ap(result: Outcome, task: str, facts: Facts) -> float:
    known = facts.ap_of(task, mean_ap(class_ap(result)))
    return _strict_ap(result) if known is None else known


def _renaming(overlaps: Overlaps, ap50: float) -> tuple[dict[str, str], float]:
    """The names to exchange, and the AP50 that it brings; nothing if it brings none."""
    renaming = find_renaming(overlaps)
    gain = _ap50(overlaps.renamed(renaming.names)) - ap50 if renaming.proven else 0.0
    if not gain > 0:
        return {}, 0.0
    names = overlaps.class_names
    return {names[seen]: names[meant] for seen, meant in renaming.proven.items()}, gain


def gains(
    before: Outcome, overlaps: Overlaps, mistakes: Mistakes, kinds: list[str], size: str | None
) -> np.ndarray:
    """(K,) AP50 of each class that a repair brings; NaN where there is no object.

    A class of which nothing is left to find, because all was missed, counts as 100.
    """
    ap50, after = class_ap(before), class_ap(repaired(before, overlaps, mistakes, kinds, size))
    return np.where(np.isnan(after) & ~np.isnan(ap50), 100.0, after) - ap50


def _repair(
    overlaps: Overlaps, before: Outcome, mistakes: Mistakes, ap50: np.ndarray, kind: str
) -> Repair:
    def gain(size: str | None) -> np.ndarray:
        if not count(overlaps, mistakes, kind, size):
            return np.where(np.isnan(ap50), np.nan, 0.0)
        return gains(before, overlaps, mistakes, [kind], size)

    whole = gain(None)
    artefact = kind == "missed" and not mean_ap(ap50) > 0
    return Repair(
        count=count(overlaps, mistakes, kind),
        gain=mean_ap(whole),
        by_size={size: np.nan if artefact else mean_ap(gain(size)) for size in SIZES},
        count_by_size={size: count(overlaps, mistakes, kind, size) for size in SIZES},
        by_class=_by_name(overlaps, whole),
    )


def _looseness(
    overlaps: Overlaps, before: Outcome, mistakes: Mistakes, ap: float
) -> tuple[float, float]:
    """AP50 - ``ap``, because of boxes, and because masks are worse than boxes."""
    hit = mistakes.found[overlaps.pair_detection] == overlaps.pair_object
    of_boxes = before.quality.copy()
    better = np.maximum(overlaps.iou, overlaps.box_iou)
    of_boxes[overlaps.pair_detection[hit]] = better[hit]
    with_good_masks = _strict_ap(replace(before, quality=of_boxes))
    ap50, strict = mean_ap(class_ap(before)), _strict_ap(before)
    # The two parts are of the matches at 0.5, which is all but COCO's AP.
    scale = (ap50 - ap) / (ap50 - strict) if ap50 > strict else 0.0
    return (ap50 - with_good_masks) * scale, (with_good_masks - strict) * scale


def _strict_ap(result: Outcome) -> float:
    return float(np.mean([mean_ap(class_ap(result, threshold)) for threshold in THRESHOLDS]))


def _ap50(overlaps: Overlaps) -> float:
    return mean_ap(class_ap(outcome(overlaps, *match(overlaps))))


def _one_class(overlaps: Overlaps) -> Overlaps:
    return replace(
        overlaps,
        class_names=("object",),
        detection_class=np.zeros_like(overlaps.detection_class),
        object_class=np.zeros_like(overlaps.object_class),
    )


def _by_name(overlaps: Overlaps, values: np.ndarray) -> dict[str, float]:
    pairs = zip(overlaps.class_names, values, strict=True)
    return {name: float(value) for name, value in pairs if not np.isnan(value)}


def _group(overlaps: Overlaps, found: np.ndarray, members: np.ndarray) -> Group:
    right = found[found != NOBODY]
    return Group(int((members & ~overlaps.object_crowd).sum()), int(members[right].sum()))


def _most_in_an_image(overlaps: Overlaps) -> int:
    return int(np.bincount(overlaps.object_image[~overlaps.object_crowd], minlength=1).max())
