"""What the sentence of an explanation says of each condition."""

from __future__ import annotations

from transfer_maskrcnn.evaluation.explain.cause import Cause
from transfer_maskrcnn.evaluation.explain.conditions import finds_nothing
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures
from transfer_maskrcnn.text import plural

_PARTS = {
    "proposal_generator": "the RPN",
    "roi_heads.box_head": "the box head",
    "roi_heads.box_predictor": "the box predictor",
    "roi_heads.mask_head": "the mask head",
}
#: proposals an image below which their number is the reason; detectron2's own limit is 1000
_FEW_PROPOSALS = 50
#: the recall that the proposals after the first 100 must bring for more of them to be advised
_CLIMBING = 0.05
_LOOK_AT_WEIGHTS = "look whether MODEL.WEIGHTS loaded and whether the loss fell, and train longer"


def of_condition(cause: Cause, figures: Figures, facts: Facts) -> str:
    """A sentence without its full stop; "" for a kind of mistake."""
    name = cause.name
    if name == "untrained":
        parts = [_PARTS.get(part, part) for part in facts.untrained]
        return (
            f"The weights of {_listed(parts)} were never trained, or did not load: look at "
            "MODEL.WEIGHTS and at transfer_plan.json, and train"
        )
    if name == "chance":
        return (
            "The detections have next to nothing to do with the objects, as of random weights: "
            f"{_LOOK_AT_WEIGHTS}"
        )
    if name == "nothing found":
        return f"{_nothing(figures)}, as by random weights: {_LOOK_AT_WEIGHTS}"
    if name == "classes":
        return _classes(figures)
    if name in ("score threshold", "input size", "detections per image", "suppression"):
        return _of_setting(name, figures, facts)
    return _proposals(cause, facts) if name == "proposals" else ""


def _nothing(figures: Figures) -> str:
    if not figures.detections:
        return "Nothing at all is detected"
    if not figures.found:
        found = plural(figures.detections, "detection")
        return f"None of the {plural(figures.objects, 'object')} is found, with {found} in all"
    found = plural(figures.detections, "detection")
    return f"Next to nothing is found of {plural(figures.objects, 'object')}, with {found} in all"


def _classes(figures: Figures) -> str:
    pairs = [f"{seen!r} is {meant!r}" for seen, meant in list(figures.renaming.items())[:3]]
    more = ", ..." if len(figures.renaming) > 3 else ""
    return (
        f"Class ids are permuted ({', '.join(pairs)}{more}): with the classes put right AP50 is "
        f"{figures.ap50 + figures.renaming_gain:.1f} instead of {figures.ap50:.1f}; give the "
        "classes in the order that the weights were trained with"
    )


def _of_setting(name: str, figures: Figures, facts: Facts) -> str:
    if name == "score threshold":
        return _score_threshold(figures, facts)
    if name == "input size":
        trained = sorted({min(facts.min_size_train), max(facts.min_size_train)})
        return (
            f"INPUT.MIN_SIZE_TEST is {facts.min_size_test}, far from the sizes that the model "
            f"was trained with (INPUT.MIN_SIZE_TRAIN {' to '.join(map(str, trained))}), and "
            f"{_percent(figures.lost)} of the objects are not found: evaluate at a size of training"
        )
    if name == "detections per image":
        limits, limit = figures.limits, facts.detections_per_image
        return (
            f"TEST.DETECTIONS_PER_IMAGE {limit} is too low: {plural(limits.full_images, 'image')} "
            f"with more objects reach it, which leaves no detection for {limits.beyond:,} of "
            f"{plural(figures.objects, 'object')}: raise it well above {figures.most_objects:,}, "
            "the most objects in an image"
        )
    return (
        f"MODEL.ROI_HEADS.NMS_THRESH_TEST {facts.nms_threshold:g} is too low: "
        f"{figures.limits.suppressed:,} of {plural(figures.objects, 'object')} are not found, and "
        "overlap a found one of their class by more than that; set it to 0.5"
    )


def _score_threshold(figures: Figures, facts: Facts) -> str:
    setting = f"MODEL.ROI_HEADS.SCORE_THRESH_TEST {facts.score_threshold:g}"
    if finds_nothing(figures):
        return (
            f"{_nothing(figures)}: either the score threshold is too high ({setting}: nothing "
            f"under {facts.score_threshold:g} counts; AP needs low scores, too: set it to 0.05), "
            f"or the weights are as good as random ({_LOOK_AT_WEIGHTS})"
        )
    return (
        f"The score threshold is too high: nothing under {facts.score_threshold:g} counts, and "
        f"{_percent(figures.lost)} of the objects are not found; AP needs low scores, too: set "
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST to 0.05"
    )


def _proposals(cause: Cause, facts: Facts) -> str:
    size = f" {cause.size}" if cause.size else ""
    missing = f"{_percent(facts.missing_proposals())} have"
    counts = _missing_counts(facts)
    if counts:
        objects = facts.proposed_objects["all"]
        missing = f"{counts.pop('all')} of {plural(objects, 'object')} have"
    of = ", ".join(f"{n} of {facts.proposed_objects[s]} {s}" for s, n in counts.items())
    return (
        f"The RPN misses{size} objects: {missing} no proposal that fits (IoU 0.5)"
        f"{f' ({of})' if of else ''}: {_rpn_remedy(facts)}"
    )


def _missing_counts(facts: Facts) -> dict[str, int]:
    """Of all and of each size that there is: objects without a proposal."""
    recall = facts.recall["1000"]
    return {
        size: round(number * (1 - share))
        for size, number in facts.proposed_objects.items()
        if (share := recall.get(size)) is not None and number
    }


def _rpn_remedy(facts: Facts) -> str:
    usual = "fit MODEL.ANCHOR_GENERATOR.SIZES to the objects, or train the RPN, too"
    median = facts.proposals.get("median")
    if median is None:
        return usual
    pre, levels, nms = facts.rpn_pre_nms_topk, facts.rpn_levels, facts.rpn_nms_threshold
    if median < _FEW_PROPOSALS and pre is not None and pre * (levels or 1) < 2 * _FEW_PROPOSALS:
        return f"raise MODEL.RPN.PRE_NMS_TOPK_TEST (now {pre}, for each feature map)"
    if facts.rpn_post_nms_topk is not None and median >= facts.rpn_post_nms_topk:
        raised = (
            f"raise MODEL.RPN.POST_NMS_TOPK_TEST (now {facts.rpn_post_nms_topk}, which most "
            "images reach)"
        )
        if median < _FEW_PROPOSALS:
            return raised
        few, every = facts.recall.get("100", {}).get("all"), facts.recall["1000"]["all"]
        if few is not None and every is not None and every - few >= _CLIMBING:
            return f"{raised}, {usual}"
    elif nms is not None and nms < 0.5:
        return f"raise MODEL.RPN.NMS_THRESH (now {nms:g}; detectron2's own is 0.7)"
    return usual


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
