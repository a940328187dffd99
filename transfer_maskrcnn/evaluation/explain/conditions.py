"""What explains a whole table of mistakes, and so comes before any kind of mistake.

Each is a fact, or follows from counts: weights that were never trained, a setting, classes in
another order, detections that have nothing to do with the objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transfer_maskrcnn.evaluation.explain.cause import HALF, Cause, standing_out
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures

#: AP50, and gain of the best single repair, up to which detections look like chance
CHANCE_AP50, CHANCE_GAIN = 2.0, 25.0
#: detectron2's own; a higher one costs AP, which lives on detections of low scores, too
USUAL_SCORE_THRESHOLD = 0.05
#: score thresholds that come first where objects are lost, or where nothing is detected
_HIGH_THRESHOLD, _SILENCING_THRESHOLD = 0.2, 0.3
#: NMS thresholds that few duplicates reach, and that neighbours do
NO_SUPPRESSION, OVER_SUPPRESSION = 0.8, 0.3
#: the share of lost objects that is many
_MANY = 0.2
#: objects in a hundred that a setting may cost before it comes first, whatever else is wrong
_MAJOR = 25.0
#: the AP50 that makes other names worth telling first
_WORTH_RENAMING = 2.0


def conditions(figures: Figures, facts: Facts, kinds: Sequence[Cause]) -> Iterator[Cause]:
    """Those that hold, the one to mend first in front.

    Args:
        kinds: causes that are kinds of mistakes, by falling gain.
    """
    lacking = 100 - figures.ap
    if _untrained_matters(figures, facts):
        yield Cause("untrained", lacking)
    if figures.renaming_gain >= _WORTH_RENAMING:
        yield Cause("classes", figures.renaming_gain)
    if _seen_at_another_size(facts) and figures.lost >= _MANY / 2:
        yield Cause("input size", lacking)
    if finds_nothing(figures):
        if _threshold(facts) > _SILENCING_THRESHOLD:
            yield Cause("score threshold", lacking)
        yield Cause("nothing found", lacking)
    elif _tells_nothing(figures):
        yield Cause("chance", lacking)
    yield from _of_a_part(figures, facts, kinds)


def _of_a_part(figures: Figures, facts: Facts, kinds: Sequence[Cause]) -> Iterator[Cause]:
    """Conditions that leave detections which have something to do with the objects."""
    first = kinds[0] if kinds else Cause("", 0.0)
    if worse_than_boxes(figures):
        yield Cause("mask", figures.box_ap - figures.ap)
    if _suppresses_nothing(figures, facts):
        yield Cause("duplicate", figures.repairs["duplicate"].gain)
    leading = min(_MAJOR, max(1.0, HALF * first.gain))
    yield from (cause for cause in limiting(figures, facts) if cause.gain >= leading)
    if _threshold(facts) >= _HIGH_THRESHOLD and figures.lost >= _MANY:
        yield Cause("score threshold", figures.repairs["missed"].gain)
    missing = facts.missing_proposals()
    of_boxes = first.name in ("missed", "localisation", "both") or 100 * missing >= _MAJOR
    if of_boxes and missing >= HALF * figures.lost > 0.05:
        yield Cause("proposals", 100 * missing, _unproposed_size(facts))


def limiting(figures: Figures, facts: Facts) -> list[Cause]:
    """Settings that certainly keep objects from being found, by how many in a hundred."""
    in_a_hundred = 100 / max(1, figures.objects)
    limits = figures.limits
    found = []
    if limits.beyond:
        found.append(Cause("detections per image", limits.beyond * in_a_hundred))
    low = facts.nms_threshold is not None and facts.nms_threshold < OVER_SUPPRESSION
    if low and limits.suppressed:
        found.append(Cause("suppression", limits.suppressed * in_a_hundred))
    return sorted(found, key=lambda cause: -cause.gain)


def worse_than_boxes(figures: Figures) -> bool:
    """Masks lose more than half of the AP that their boxes have."""
    return figures.ap < HALF * figures.box_ap and figures.box_ap > CHANCE_AP50


def finds_nothing(figures: Figures) -> bool:
    """There are fewer detections than objects, and none has anything to do with them."""
    return figures.detections < figures.objects and _tells_nothing(figures)


def _tells_nothing(figures: Figures) -> bool:
    """Not even repairs of the detections there are would lead to the objects."""
    mendable = max(r.gain for kind, r in figures.repairs.items() if kind != "missed")
    nothing = not figures.ap50_any_class >= CHANCE_AP50  # NaN, too: there are no detections
    return nothing and not mendable >= CHANCE_GAIN


def _threshold(facts: Facts) -> float:
    return facts.score_threshold or 0.0


def _seen_at_another_size(facts: Facts) -> bool:
    """The model sees images far outside the sizes that it was trained with."""
    side, trained = facts.min_size_test, facts.min_size_train
    if not side or not trained or min(trained) <= 0:
        return False
    return side < min(trained) / 2 or side > 2 * max(trained)


def _suppresses_nothing(figures: Figures, facts: Facts) -> bool:
    """NMS lets pass what is all but the same box, and that shows."""
    off = facts.nms_threshold is not None and facts.nms_threshold >= NO_SUPPRESSION
    return off and figures.repairs["duplicate"].count >= HALF * figures.found > 0


def _untrained_matters(figures: Figures, facts: Facts) -> bool:
    if not facts.untrained:
        return False
    # A mask head of no use does no harm to boxes.
    beside_masks = [part for part in facts.untrained if "mask" not in part]
    return bool(beside_masks) or figures.task == "segm"


def _unproposed_size(facts: Facts) -> str:
    objects = {s: n for s, n in facts.proposed_objects.items() if s != "all"}
    recall = facts.recall["1000"]
    if not objects or not all(size in recall for size in objects):
        return ""
    lacking = {s: n * (1 - share) for s, n in objects.items() if (share := recall[s]) is not None}
    return standing_out(lacking, objects)
