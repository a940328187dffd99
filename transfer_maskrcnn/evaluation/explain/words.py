"""The sentence of an explanation."""

from __future__ import annotations

from transfer_maskrcnn.evaluation.explain.cause import HALF, NEGLIGIBLE, Cause
from transfer_maskrcnn.evaluation.explain.causes import is_looseness, weights
from transfer_maskrcnn.evaluation.explain.condition_words import of_condition
from transfer_maskrcnn.evaluation.explain.conditions import worse_than_boxes
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures

#: AP50 at which nearly everything is found
_HIGH_AP50 = 90.0
# A little more than USUAL_LOOSENESS, which good detectors have.
_NOT_UNUSUAL = 0.5
# With these, the detections say nothing of how exact a model is.
_SILENT = ("untrained", "nothing found", "chance", "input size")


def sentence(figures: Figures, facts: Facts, causes: list[Cause]) -> str:
    """The first cause, what it costs, and what to try; and inexact outlines, if they cost more."""
    if not figures.objects:
        return "There is nothing to find: the ground truth holds no object, so AP is undefined."
    if not causes:
        return f"Nothing to repair: AP is {figures.ap:.1f}."
    first = causes[0]
    special = of_condition(first, figures, facts) or _bad_masks(first, figures)
    if special:
        hidden = _most_is_inexact(figures) and first.name not in _SILENT
        return f"{special}{_beside(figures) if hidden else ''}."
    if is_looseness(figures, first):
        return f"{_exactness(figures, *_of_looseness(first, figures))}."
    return f"{_of_mistake(figures, facts, first)}."


def _of_mistake(figures: Figures, facts: Facts, first: Cause) -> str:
    """Sentence of a kind of mistake, and of outlines where these cost more."""
    outlines, points = _inexact(figures)
    what, remedy = _what(first), remedy_of(first, facts)
    if points > first.gain:
        second = f"{_share(figures, first.gain)} is {what}"
        if figures.ap50 < _HIGH_AP50:
            return f"{_found_but_inexact(figures, ' of the loss')}; {second}: {remedy}"
        text = f"{_exactness(figures, outlines, points)}; {second}"
        return text if remedy in text else f"{text}: {remedy}"
    text = f"{_share(figures, first.gain)} of the loss is {what}: {remedy}"
    if _most_is_inexact(figures):
        return f"{text}{_beside(figures)}"
    return f"Masks are fine, {text}" if _masks_are_fine(figures, first) else text


def _most_is_inexact(figures: Figures) -> bool:
    return _inexact(figures)[1] > HALF * (100 - figures.ap)


def _share(figures: Figures, points: float) -> str:
    return f"{min(100, round(100 * points / (100 - figures.ap)))} %"


def _inexact(figures: Figures) -> tuple[str, float]:
    """What is found, but not exact, and the AP that it costs."""
    boxes, masks = figures.loose_boxes, figures.loose_masks
    if figures.task == "bbox" or boxes >= 2 * masks:
        return "boxes", boxes
    return ("masks", masks) if masks >= 2 * boxes else ("boxes and masks", boxes + masks)


def _of_looseness(cause: Cause, figures: Figures) -> tuple[str, float]:
    if cause.name == "mask":
        return "masks", figures.loose_masks
    return "boxes", figures.loose_boxes


def _exactness(figures: Figures, outlines: str, points: float) -> str:
    found = "Nearly everything is found; " if figures.ap50 >= _HIGH_AP50 else ""
    remedy = _REMEDIES["mask" if outlines == "masks" else "localisation"]
    return (
        f"{found}{_share(figures, points)} of the loss is {outlines} that are not exact: {remedy}"
    )


def _found_but_inexact(figures: Figures, of: str = "") -> str:
    outlines, points = _inexact(figures)
    usual = figures.loose <= _NOT_UNUSUAL * figures.ap50
    tail = ", as with most models" if usual else ""
    return f"{_share(figures, points)}{of} is {outlines} that are found but not exact{tail}"


def _beside(figures: Figures) -> str:
    return f"; {_found_but_inexact(figures, ' of the loss')}"


def _bad_masks(cause: Cause, figures: Figures) -> str:
    if cause.name != "mask" or not worse_than_boxes(figures):
        return ""
    return (
        f"Boxes reach AP {figures.box_ap:.1f}, masks only {figures.ap:.1f}: masks are far "
        f"worse than their boxes: {_REMEDIES['mask']}"
    )


def _what(cause: Cause) -> str:
    size = f"{cause.size} " if cause.size else ""
    of = f" of {size}objects" if cause.size else ""
    return {
        "missed": f"missed {size}objects",
        "classification": f"{size}objects taken for another class",
        "localisation": f"boxes{of} in the wrong place",
        "mask": f"masks{of} that are worse than their boxes",
        "duplicate": f"{size}objects found more than once",
        "background": f"{size}detections where there is no object",
        "both": f"detections near {size}objects of another class",
    }[cause.name]


_REMEDIES = {
    "missed": "train longer, or on more images; look for objects without annotation",
    "classification": "look for wrong labels, classes in another order than the weights', and "
    "classes that look alike; train longer, or on more images of those classes",
    "localisation": "look whether annotated boxes are exact and at the image's own size; train "
    "longer",
    "mask": "look whether polygons are exact; keep the mask head's weights (MODEL.TRANSFER.KEEP), "
    "and train it longer",
    "background": "look for objects without annotation; train with images that have no object "
    "(DATALOADER.FILTER_EMPTY_ANNOTATIONS False)",
    "both": "train longer, or on more images",
}


def remedy_of(cause: Cause, facts: Facts) -> str:
    """What to try against a kind of mistake."""
    side = f" (now {facts.min_size_test})" if facts.min_size_test else ""
    nms = f" (now {facts.nms_threshold:g})" if facts.nms_threshold is not None else ""
    if cause.name == "duplicate":
        return f"try a lower MODEL.ROI_HEADS.NMS_THRESH_TEST{nms}"
    if cause.name == "missed" and cause.size == "small":
        return f"try a larger INPUT.MIN_SIZE_TEST{side}, in training, too"
    if cause.name == "missed" and cause.size == "large":
        return "try larger MODEL.ANCHOR_GENERATOR.SIZES"
    return _REMEDIES[cause.name]


def _masks_are_fine(figures: Figures, cause: Cause) -> bool:
    right = figures.task == "segm" and cause.name != "mask" and figures.ap50 >= 5
    return right and weights(figures)["mask"] < max(NEGLIGIBLE, 0.05 * (100 - figures.ap))
