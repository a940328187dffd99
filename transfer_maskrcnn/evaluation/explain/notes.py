"""What the figures do not say by themselves, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from transfer_maskrcnn.evaluation.explain.cause import NEGLIGIBLE
from transfer_maskrcnn.evaluation.explain.conditions import OVER_SUPPRESSION, USUAL_SCORE_THRESHOLD
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures

#: what is said of them in a table or a list
SIZE_WORDS = {"small": "under 32²", "medium": "32² to 96²", "large": "over 96²"}
_NAMED = 5


def notes(figures: Figures, facts: Facts) -> Iterator[str]:
    """COCO's "-1" and "nan" in words, and settings that are worth a look."""
    if figures.objects:
        yield from _undefined(figures)
        yield from _of_settings(figures, facts)
        yield from _recall(facts)
        if figures.detections > 1 and figures.scores[0] == figures.scores[1]:
            yield "All scores are equal: AP depends on the order of the images."
        if figures.renaming_gain >= NEGLIGIBLE:
            gain = f"{figures.renaming_gain:.1f}"
            yield f"With the permuted classes put right AP50 would be {gain} higher."


def _undefined(figures: Figures) -> Iterator[str]:
    for size, group in figures.sizes.items():
        if not group.objects:
            yield (
                f"No object is {size} ({SIZE_WORDS[size]} pixels), so there is no AP{size[0]}: "
                "COCO's own code prints -1 for it, detectron2 nan."
            )
    without = [name for name, group in figures.classes.items() if not group.objects]
    if without:
        more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
        verb = "it has no AP, and does" if len(without) == 1 else "they have no AP, and do"
        yield f"No object of class {', '.join(without[:_NAMED])}{more}: {verb} not count."
    if not figures.detections:
        yield "Without any detection COCO computes nothing: nan stands for AP 0."


def _of_settings(figures: Figures, facts: Facts) -> Iterator[str]:
    limit, threshold, nms = facts.detections_per_image, facts.score_threshold, facts.nms_threshold
    if limit is not None and figures.most_objects > limit:
        yield (
            f"An image has {figures.most_objects} objects, but no more than {limit} detections: "
            "raise TEST.DETECTIONS_PER_IMAGE."
        )
    if threshold is not None and threshold > USUAL_SCORE_THRESHOLD:
        yield (
            f"Detections of scores under {threshold:g} do not count, which costs AP: detectron2's "
            f"own MODEL.ROI_HEADS.SCORE_THRESH_TEST is {USUAL_SCORE_THRESHOLD:g}."
        )
    if nms is not None and nms < OVER_SUPPRESSION:
        yield (
            f"Of two detections of a class that overlap by more than {nms:g} one goes: "
            "detectron2's own MODEL.ROI_HEADS.NMS_THRESH_TEST is 0.5."
        )


def _recall(facts: Facts) -> Iterator[str]:
    few, all_ = (facts.recall.get(number, {}).get("all") for number in ("100", "1000"))
    if few is None or all_ is None:
        return
    most = facts.proposals.get("most")
    if most is not None and most <= 100:
        shares = f"with all proposals (at most {most:.0f} an image) {all_:.0%}"
    else:
        every = "up to 1000" if most is None or most >= 1000 else f"all (at most {most:.0f})"
        shares = f"with 100 proposals {few:.0%}, with {every} {all_:.0%}"
    yield f"RPN: {shares} of the objects have one that fits (IoU 0.5).".replace("%", " %")
