"""Which cause comes first: the judgement behind the sentence, from figures and facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures

#: points of AP that are not worth a word
NEGLIGIBLE = 0.5
#: Detectors as good as can be had lose so much of AP50 to stricter thresholds: Mask R-CNN R50-FPN
#: on COCO has box AP 41.0 and mask AP 37.2 of AP50 61.5 and 58.6 (detectron2's model zoo).
USUAL_LOOSENESS = 0.4
#: AP50, and gain of the best single repair, up to which detections look like chance
CHANCE_AP50, CHANCE_GAIN = 2.0, 25.0
#: detectron2's own; a higher one costs AP, which lives on detections of low scores, too
USUAL_SCORE_THRESHOLD = 0.05
#: an NMS threshold that few duplicates reach
NO_SUPPRESSION = 0.8
#: a share that makes one part of something the point of it
MOST, HALF = 0.6, 0.5


@dataclass(frozen=True)
class Cause:
    """Why AP is low, in one word of the table below, and how much of AP it costs.

    Attributes:
        name: "untrained", "chance", "classes", "score threshold", "proposals",
            "nothing found", or a kind of mistake.
        gain: points of AP.
        size: "small", "medium" or "large" where most of it lies there, else "".
    """

    name: str
    gain: float
    size: str = ""


def weights(figures: Figures) -> dict[str, float]:
    """Kind of mistake -> what it costs: AP50, and AP where outlines are looser than usual."""
    found = {kind: repair.gain for kind, repair in figures.repairs.items()}
    loose = figures.loose_boxes + figures.loose_masks
    unusual = max(0.0, loose - USUAL_LOOSENESS * figures.ap50)
    if loose > 0:
        found["localisation"] += unusual * figures.loose_boxes / loose
        found["mask"] += unusual * figures.loose_masks / loose
    return found


def rank_causes(figures: Figures, facts: Facts) -> list[Cause]:
    """Causes, the one to mend first in front; none where nothing is left to repair."""
    lacking = 100 - figures.ap
    if not figures.objects or lacking < NEGLIGIBLE:
        return []
    costs = weights(figures)
    kinds = [Cause(k, costs[k], _size(figures, k)) for k in sorted(costs, key=lambda k: -costs[k])]
    kinds = [cause for cause in kinds if cause.gain >= NEGLIGIBLE]
    ranked = [*_conditions(figures, facts, kinds, lacking), *kinds] or _loose_only(figures)
    first: dict[str, Cause] = {}
    for cause in ranked:
        first.setdefault(cause.name, cause)
    return list(first.values())


def _conditions(
    figures: Figures, facts: Facts, kinds: list[Cause], lacking: float
) -> Iterator[Cause]:
    """What explains a whole table of mistakes, and so comes before them."""
    first = kinds[0].name if kinds else ""
    if _untrained_matters(figures, facts):
        yield Cause("untrained", lacking)
    if not figures.detections:
        threshold = facts.score_threshold
        high = threshold is not None and threshold > USUAL_SCORE_THRESHOLD
        yield Cause("score threshold" if high else "nothing found", lacking)
        return
    if first == "classification" and _permuted(figures):
        yield Cause("classes", figures.renaming_gain)
    elif _looks_like_chance(figures, kinds):
        yield Cause("chance", lacking)
    if worse_than_boxes(figures):
        yield Cause("mask", figures.box_ap - figures.ap)
    if _suppresses_nothing(figures, facts):
        yield Cause("duplicate", figures.repairs["duplicate"].gain)
    if first in ("missed", "localisation", "both") and (
        facts.missing_proposals() >= HALF * figures.lost > 0.05
    ):
        yield Cause("proposals", 100 * facts.missing_proposals(), _unproposed_size(facts))
    if first == "missed":
        yield from _threshold(figures, facts, kinds[0])


def worse_than_boxes(figures: Figures) -> bool:
    """Masks lose more than half of the AP that their boxes have."""
    return figures.ap < HALF * figures.box_ap and figures.box_ap > CHANCE_AP50


def _permuted(figures: Figures) -> bool:
    """Other names mend most of what is wrong with classes, or make AP50 half as high again."""
    gain, classification = figures.renaming_gain, figures.repairs["classification"].gain
    mends = gain >= max(2.0, HALF * classification)
    return mends or gain >= max(5.0, HALF * figures.ap50)


def _looks_like_chance(figures: Figures, kinds: list[Cause]) -> bool:
    """There are detections enough, but not even their repair would lead to the objects."""
    mendable = max((cause.gain for cause in kinds if cause.name != "missed"), default=0.0)
    enough = figures.detections >= figures.objects
    return enough and figures.ap50_any_class < CHANCE_AP50 and mendable < CHANCE_GAIN


def _suppresses_nothing(figures: Figures, facts: Facts) -> bool:
    """NMS lets pass what is all but the same box, and that shows."""
    off = facts.nms_threshold is not None and facts.nms_threshold >= NO_SUPPRESSION
    found = sum(group.found for group in figures.sizes.values())
    return off and figures.repairs["duplicate"].count >= HALF * found > 0


def _untrained_matters(figures: Figures, facts: Facts) -> bool:
    if not facts.untrained:
        return False
    # A mask head of no use does no harm to boxes.
    beside_masks = [part for part in facts.untrained if "mask" not in part]
    return bool(beside_masks) or figures.task == "segm"


def _threshold(figures: Figures, facts: Facts, missed: Cause) -> Iterator[Cause]:
    lowest = figures.scores[0]
    threshold = lowest if facts.score_threshold is None else facts.score_threshold
    # Where it is not known, the lowest of many scores tells it.
    known = facts.score_threshold is not None or figures.detections >= 20
    if known and threshold >= 4 * USUAL_SCORE_THRESHOLD:
        yield Cause("score threshold", missed.gain)


def _size(figures: Figures, kind: str) -> str:
    """The size that has most of a kind's gain, if others have objects, too."""
    by_size = {s: g for s, g in figures.repairs[kind].by_size.items() if g == g}
    total = sum(by_size.values())
    populated = [s for s, group in figures.sizes.items() if group.objects]
    for size, gain in by_size.items():
        if total > 0 and gain >= MOST * total and populated != [size]:
            return size
    return ""


def _unproposed_size(facts: Facts) -> str:
    recall = {s: r for s, r in facts.recall["1000"].items() if s != "all" and r is not None}
    worst = min(recall, key=lambda s: recall[s], default="")
    others = [r for s, r in recall.items() if s != worst]
    return worst if others and recall[worst] < HALF * min(others) > HALF**2 else ""


def _loose_only(figures: Figures) -> list[Cause]:
    """Where all is found and nothing is wrong, only exactness is left."""
    loose = {"localisation": figures.loose_boxes, "mask": figures.loose_masks}
    worst = max(loose, key=lambda kind: loose[kind])
    return [Cause(worst, loose[worst])] if loose[worst] >= NEGLIGIBLE else []
