"""The sentence of an explanation, and the notes below it."""

from __future__ import annotations

from collections.abc import Iterator

from transfer_maskrcnn.evaluation.explain.causes import (
    NEGLIGIBLE,
    Cause,
    weights,
    worse_than_boxes,
)
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures

#: what is said of them in a table or a list
SIZE_WORDS = {"small": "under 32²", "medium": "32² to 96²", "large": "over 96²"}
_PARTS = {
    "proposal_generator": "the RPN",
    "roi_heads.box_head": "the box head",
    "roi_heads.box_predictor": "the box predictor",
    "roi_heads.mask_head": "the mask head",
}


def sentence(figures: Figures, facts: Facts, causes: list[Cause]) -> str:
    """The first cause, what it costs, and what to try."""
    if not figures.objects:
        return "There is nothing to find: the ground truth holds no object, so AP is undefined."
    if not causes:
        return f"Nothing to repair: AP is {figures.ap:.1f}."
    cause = causes[0]
    special = _of_condition(cause, figures, facts)
    if special:
        return special
    share = min(100, round(100 * cause.gain / (100 - figures.ap)))
    text = f"{share} % of the loss is {_what(cause, figures)}: {_remedy(cause, facts)}."
    return f"Masks are fine, {text}" if _masks_are_fine(figures, cause) else text


def _of_condition(cause: Cause, figures: Figures, facts: Facts) -> str:
    threshold = figures.scores[0] if facts.score_threshold is None else facts.score_threshold
    if cause.name == "untrained":
        parts = [_PARTS.get(part, part) for part in facts.untrained]
        return (
            f"The weights of {_listed(parts)} were never trained, or did not load: look at "
            "MODEL.WEIGHTS and at transfer_plan.json, and train."
        )
    if cause.name == "chance":
        return (
            "The detections have next to nothing to do with the objects, as of random weights: "
            "look whether MODEL.WEIGHTS loaded and whether the loss fell, and train longer."
        )
    if cause.name == "nothing found":
        return (
            "Nothing at all is detected, as by random weights: look whether MODEL.WEIGHTS loaded "
            "and whether the loss fell, and train longer."
        )
    if cause.name == "classes":
        pairs = [f"{seen!r} is {meant!r}" for seen, meant in list(figures.renaming.items())[:3]]
        more = ", ..." if len(figures.renaming) > 3 else ""
        return (
            f"Class ids are permuted ({', '.join(pairs)}{more}): with the classes matched best "
            f"AP50 is {figures.ap50 + figures.renaming_gain:.1f} instead of {figures.ap50:.1f}; "
            "give the classes in the order that the weights were trained with."
        )
    if cause.name == "score threshold":
        return (
            f"The score threshold is too high: nothing under {threshold:.3g} counts, and "
            f"{figures.lost:.0%} of the objects are not found; AP needs low scores, too: set "
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST to 0.05."
        ).replace("%", " %")
    if cause.name == "mask" and worse_than_boxes(figures):
        return (
            f"Boxes reach AP {figures.box_ap:.1f}, masks only {figures.ap:.1f}: masks are far "
            f"worse than their boxes: {_remedy(cause, facts)}."
        )
    if cause.name == "proposals":
        size = f" {cause.size}" if cause.size else ""
        return (
            f"The RPN misses{size} objects: {facts.missing_proposals():.0%} have no proposal, so "
            "no head can find them: fit MODEL.ANCHOR_GENERATOR.SIZES to the objects, or train the "
            "RPN, too."
        ).replace("%", " %")
    return ""


def _what(cause: Cause, figures: Figures) -> str:
    size = f"{cause.size} " if cause.size else ""
    of = f" of {cause.size} objects" if cause.size else ""
    found_loose = figures.repairs.get(cause.name) is not None and (
        figures.repairs[cause.name].gain < cause.gain / 2
    )
    return {
        "missed": f"missed {size}objects",
        "classification": f"objects{of and of.removesuffix(' objects')} taken for another class"
        if not cause.size
        else f"{cause.size} objects taken for another class",
        "localisation": f"boxes{of} that are too loose"
        if found_loose
        else f"boxes{of} in the wrong place",
        "mask": f"masks{of} that are worse than their boxes",
        "duplicate": f"{size}objects found more than once",
        "background": f"{size}detections where there is no object",
        "both": f"detections near {size}objects of another class",
    }[cause.name]


def _remedy(cause: Cause, facts: Facts) -> str:
    side = f" (now {facts.min_size_test})" if facts.min_size_test else ""
    nms = f" (now {facts.nms_threshold:g})" if facts.nms_threshold is not None else ""
    if cause.name == "missed":
        return {
            "small": f"try a larger INPUT.MIN_SIZE_TEST{side}, in training, too",
            "large": "try larger MODEL.ANCHOR_GENERATOR.SIZES",
        }.get(cause.size, "train longer, or on more images; look for objects without annotation")
    return {
        "classification": "look for wrong labels and for classes that look alike; train "
        "longer, or on more images of those classes",
        "localisation": "look whether annotated boxes are exact and at the image's own size; train "
        "longer",
        "mask": "look whether polygons are exact; keep the mask head's weights "
        "(MODEL.TRANSFER.KEEP), and train it longer",
        "duplicate": f"try a lower MODEL.ROI_HEADS.NMS_THRESH_TEST{nms}",
        "background": "look for objects without annotation; train with images that have no object "
        "(DATALOADER.FILTER_EMPTY_ANNOTATIONS False)",
        "both": "train longer, or on more images",
    }[cause.name]


def _masks_are_fine(figures: Figures, cause: Cause) -> bool:
    right = figures.task == "segm" and cause.name != "mask" and figures.ap50 >= 5
    return right and weights(figures)["mask"] < max(NEGLIGIBLE, 0.05 * (100 - figures.ap))


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def notes(figures: Figures, facts: Facts) -> Iterator[str]:
    """COCO's "-1" and "nan" in words, and what else the figures do not say by themselves."""
    if not figures.objects:
        return
    for size, group in figures.sizes.items():
        if not group.objects:
            yield (
                f"No object is {size} ({SIZE_WORDS[size]} pixels): COCO's AP{size[0]} is -1, or "
                "nan, and means nothing."
            )
    without = [name for name, group in figures.classes.items() if not group.objects]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        yield f"No object of class {', '.join(without[:5])}{more}: it has no AP, and counts not."
    if not figures.detections:
        yield "Without any detection COCO computes nothing: nan stands for AP 0."
    limit = facts.detections_per_image
    if limit is not None and figures.most_objects > limit:
        yield (
            f"An image has {figures.most_objects} objects, but no more than {limit} detections: "
            "raise TEST.DETECTIONS_PER_IMAGE."
        )
    recall = {
        proposals: facts.recall.get(proposals, {}).get("all") for proposals in ("100", "1000")
    }
    if None not in recall.values():
        yield (
            "RPN: with 100 proposals {:.0%} of the objects have one that fits (IoU 0.5), with 1000 "
            "{:.0%}.".format(*recall.values()).replace("%", " %")
        )
    if figures.scores[0] == figures.scores[1] and figures.detections > 1:
        yield "All scores are equal: AP depends on the order of the images."
    if figures.renaming_gain >= NEGLIGIBLE:
        yield f"With the classes matched best AP50 would be {figures.renaming_gain:.1f} higher."
