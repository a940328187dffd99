"""All that an explanation says: of codes and figures, a sentence, notes, and a terminal's table."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from transfer_maskrcnn.evaluation.explain.causes import (
    HALF,
    Blame,
    Facts,
    Figures,
)
from transfer_maskrcnn.evaluation.explain.images import SURE
from transfer_maskrcnn.evaluation.explain.tide import SIZES, Cause, Record
from transfer_maskrcnn.files import common_folder
from transfer_maskrcnn.text import few, listed, plural, shorten, wrapped

SURE_WORDS = f"missed objects, and wrong detections of score {SURE:g} or more"

#: kind of mistake -> what it is
KIND_WORDS = {
    Cause.MISSED: "an object that no detection is about",
    Cause.CLASSIFICATION: "the box fits an object of another class",
    Cause.LOCALISATION: "the class is right, the box overlaps by less than half (IoU 0.1 to 0.5)",
    Cause.MASK: "class and box are right, the mask overlaps by less than half",
    Cause.DUPLICATE: "the object was found already, by a detection of a higher score",
    Cause.BACKGROUND: "there is no object (IoU under 0.1)",
    Cause.BOTH: "the box overlaps by less than half (IoU 0.1 to 0.5) an object of another class",
}
_SIZE_WORDS = {"small": "under 32²", "medium": "32² to 96²", "large": "over 96²"}
_PARTS = {
    "proposal_generator": "the RPN",
    "roi_heads.box_head": "the box head",
    "roi_heads.box_predictor": "the box predictor",
    "roi_heads.mask_head": "the mask head",
}
# What to look at or to set, and how to train: in this order, but for a run that was short.
_ON_WEIGHTS = ("look whether MODEL.WEIGHTS loaded and whether the loss fell", "train longer")
_ON_BOXES = ("look whether annotated boxes are exact and at the image's own size", "train longer")
_KEEP_HEAD = "keep the mask head's weights (MODEL.TRANSFER.KEEP)"
_ON_MASKS = (f"look whether polygons are exact; {_KEEP_HEAD}", "train longer")
#: condition -> its sentence without a full stop
_CONDITIONS = {
    Cause.UNTRAINED: "The weights of {parts} were never trained, or did not load: look at "
    "MODEL.WEIGHTS and at transfer_plan.json, and train",
    Cause.CHANCE: "The detections have next to nothing to do with the objects, as of random "
    "weights: {on_weights}",
    Cause.NOTHING_FOUND: "{nothing}, as by random weights: {on_weights}",
    Cause.CLASSES: "Class ids are permuted ({pairs}): give the classes in the order that the "
    "weights were trained with",
    Cause.SCORE_THRESHOLD: "The score threshold is too high: nothing under "
    "{facts.score_threshold:g} counts, and {figures.lost:.0%} of the objects are not found; AP "
    "needs low scores, too: set MODEL.ROI_HEADS.SCORE_THRESH_TEST to 0.05",
    Cause.ALL_UNDER_THRESHOLD: "{nothing}: either the score threshold is too high "
    "(MODEL.ROI_HEADS.SCORE_THRESH_TEST {facts.score_threshold:g}: nothing under "
    "{facts.score_threshold:g} counts; AP needs low scores, too: set it to 0.05), or the weights "
    "are as good as random ({on_weights})",
    Cause.INPUT_SIZE: "INPUT.MIN_SIZE_TEST is {facts.min_size_test}, far from the sizes that the "
    "model was trained with (INPUT.MIN_SIZE_TRAIN {trained}), and {figures.lost:.0%} of the "
    "objects are not found: evaluate at a size of training",
    Cause.DETECTIONS_PER_IMAGE: "TEST.DETECTIONS_PER_IMAGE {facts.detections_per_image} is too "
    "low: images with more objects reach it, which leaves no detection for "
    "{figures.beyond:,} of {objects}: raise it well above {figures.most_objects:,}, the "
    "most objects in an image",
    Cause.SUPPRESSION: "MODEL.ROI_HEADS.NMS_THRESH_TEST {facts.nms_threshold:g} is too low: "
    "{figures.suppressed:,} of {objects} are not found, and overlap a found one of their "
    "class by more than that; set it to 0.5",
    Cause.PROPOSALS: "The RPN misses {size}objects: {missing}: {rpn_remedy}",
    Cause.MASKS_BEHIND: "Boxes reach AP {figures.box_ap:.1f}, masks only {figures.ap:.1f}: masks "
    "are far worse than their boxes: {on_masks}",
}
#: kind of mistake -> the share of the loss that is ... (the kind's name is in it)
_WHAT = {
    Cause.MISSED: "missed {size}objects",
    Cause.CLASSIFICATION: "classification ({size}objects taken for another class)",
    Cause.LOCALISATION: "localisation (boxes{of_size} in the wrong place)",
    Cause.MASK: "masks{of_size} that are worse than their boxes",
    Cause.DUPLICATE: "duplicates ({size}objects found more than once)",
    Cause.BACKGROUND: "background ({size}detections where there is no object)",
    Cause.BOTH: "both class and localisation (detections near {size}objects of another class)",
    Cause.INEXACT_BOXES: "boxes that are not exact",
    Cause.INEXACT_MASKS: "masks that are not exact",
}
_REMEDIES = {
    Cause.MISSED: ("look for objects without annotation", "train longer, or on more images"),
    Cause.CLASSIFICATION: (
        "look for wrong labels, classes in another order than the weights', and classes that look "
        "alike",
        "train longer, or on more images of those classes",
    ),
    Cause.LOCALISATION: _ON_BOXES,
    Cause.MASK: _ON_MASKS,
    Cause.DUPLICATE: ("try a lower MODEL.ROI_HEADS.NMS_THRESH_TEST{nms}", ""),
    Cause.BACKGROUND: (
        "look for objects without annotation; train with images that have no object "
        "(DATALOADER.FILTER_EMPTY_ANNOTATIONS False)",
        "",
    ),
    Cause.BOTH: ("", "train longer, or on more images"),
    Cause.INEXACT_BOXES: _ON_BOXES,
    Cause.INEXACT_MASKS: _ON_MASKS,
}
_REMEDIES_OF_SIZE = {
    (Cause.MISSED, "small"): ("try a larger INPUT.MIN_SIZE_TEST{side}, in training, too", ""),
    (Cause.MISSED, "large"): ("try larger MODEL.ANCHOR_GENERATOR.SIZES", ""),
}
#: iterations below which training longer is the first thing to try, whatever is wrong
_FEW_ITERATIONS = 500
#: AP50 at which nearly everything is found; and the share of it that stricter thresholds cost most
#: models, good ones among them
_HIGH_AP50, _NOT_UNUSUAL = 90.0, 0.5
# With these, the detections say nothing of how exact a model is.
_SILENT = (
    Cause.UNTRAINED,
    Cause.NOTHING_FOUND,
    Cause.ALL_UNDER_THRESHOLD,
    Cause.CHANCE,
    Cause.INPUT_SIZE,
)
#: proposals an image below which their number is the reason (detectron2's own limit is 1000); the
#: recall that those after the first 100 must bring for more of them to be advised
_FEW_PROPOSALS, _CLIMBING = 50, 0.05

# 80 columns: a kind's name goes over two lines
_TITLES = {Cause.CLASSIFICATION: "classi-\nfication", Cause.LOCALISATION: "locali-\nsation",
           Cause.DUPLICATE: "dupli-\ncate", Cause.BACKGROUND: "back-\nground"}  # fmt: skip
_MOST_CLASSES, _WIDEST_NAME, _MOST_IMAGES, _WIDEST_FILE = 20, 16, 5, 30


def sentence(figures: Figures, facts: Facts, causes: Sequence[Blame]) -> str:
    """The first cause, what it costs, and what to try; and inexact outlines, if they cost more."""
    if not figures.objects:
        return "There is nothing to find: the ground truth holds no object, so AP is undefined."
    if not causes:
        return f"Nothing to repair: AP is {figures.ap:.1f}."
    first, loss = causes[0], 100 - figures.ap
    boxes, masks = figures.loose_boxes, figures.loose_masks
    outlines = (
        "boxes" if boxes >= 2 * masks else "masks" if masks >= 2 * boxes else "boxes and masks"
    )
    points = {"boxes": boxes, "masks": masks}.get(outlines, boxes + masks)
    usual = ", as with most models" if figures.loose <= _NOT_UNUSUAL * figures.ap50 else ""
    inexact = (
        f"{_share(points, loss)} of the loss is {outlines} that are found but not exact{usual}"
    )
    beside = f"; {inexact}" if points > HALF * loss and first.name not in _SILENT else ""
    if first.name in _CONDITIONS:
        return f"{_filled(_CONDITIONS[first.name], first, figures, facts)}{beside}."
    what = _filled(_WHAT[first.name], first, figures, facts)
    remedies = _REMEDIES_OF_SIZE.get((first.name, first.size), _REMEDIES[first.name])
    remedy = _filled(_remedy(remedies, facts), first, figures, facts)
    found = "Nearly everything is found; " if figures.ap50 >= _HIGH_AP50 else ""
    whole = {Cause.INEXACT_BOXES: boxes, Cause.INEXACT_MASKS: masks}.get(first.name)
    if whole is not None:
        return f"{found}{_share(whole, loss)} of the loss is {what}: {remedy}."
    share = _share(first.gain, loss)
    if points > first.gain:
        return f"{found}{inexact}; {share} is {what}: {remedy}."
    of_masks = figures.repairs[Cause.MASK].gain + masks
    fine = figures.task == "segm" and figures.ap50 >= 5 and of_masks < 0.05 * loss and not beside
    return f"{'Masks are fine, ' if fine else ''}{share} of the loss is {what}: {remedy}{beside}."


def _share(points: float, loss: float) -> str:
    return f"{min(100, round(100 * points / loss))} %"


def _remedy(remedies: tuple[str, str], facts: Facts) -> str:
    look, train = remedies
    if (facts.iterations or _FEW_ITERATIONS) >= _FEW_ITERATIONS:
        return "; ".join(filter(None, (look, train)))
    first = f"train longer first ({plural(facts.iterations or 0, 'iteration')} so far)"
    return f"{first}; then {look}" if look else first


def _filled(template: str, blame: Blame, figures: Figures, facts: Facts) -> str:
    objects = plural(figures.objects, "object")
    pairs = [f"{seen!r} is {meant!r}" for seen, meant in figures.renaming.items()]
    size = f"{blame.size} " if blame.size else ""
    proposals = blame.name == Cause.PROPOSALS
    return template.format(
        figures=figures,
        facts=facts,
        nothing=f"With {plural(figures.detections, 'detection')} {figures.found:,} of {objects} "
        "are found",
        objects=objects,
        parts=listed(_PARTS.get(part, part) for part in facts.untrained),
        pairs=few(pairs, 3),
        trained=" to ".join(map(str, dict.fromkeys(sorted(facts.min_size_train)))),
        size=size,
        of_size=f" of {size}objects" if size else "",
        side=f" (now {facts.min_size_test})" if facts.min_size_test else "",
        nms="" if facts.nms_threshold is None else f" (now {facts.nms_threshold:g})",
        missing=_missing(facts) if proposals else "",
        rpn_remedy=_remedy((_rpn_remedy(facts), ""), facts) if proposals else "",
        on_weights=_remedy(_ON_WEIGHTS, facts),
        on_masks=_remedy(_ON_MASKS, facts),
    ).replace("%", " %")


def _missing(facts: Facts) -> str:
    """How many objects have no proposal, of all and of each size that there is."""
    recall, objects = facts.recall["1000"], facts.proposed_objects
    counts = {s: f"{round(n * (1 - (recall[s] or 0.0)))} of {n}" for s, n in objects.items() if n}
    whole = f"{counts['all']} objects" if counts else f"{1 - (recall['all'] or 0.0):.0%}"
    sizes = ", ".join(f"{counts[size]} {size}" for size in SIZES if size in counts)
    return f"{whole} have no proposal that fits (IoU 0.5){f' ({sizes})' if sizes else ''}"


def _rpn_remedy(facts: Facts) -> str:
    usual = "fit MODEL.ANCHOR_GENERATOR.SIZES to the objects, or train the RPN, too"
    median = facts.proposals.get("median", math.nan)  # compares as False
    pre, post, nms = facts.rpn_pre_nms_topk, facts.rpn_post_nms_topk, facts.rpn_nms_threshold
    if median < _FEW_PROPOSALS and pre and pre * (facts.rpn_levels or 1) < 2 * _FEW_PROPOSALS:
        return f"raise MODEL.RPN.PRE_NMS_TOPK_TEST (now {pre}, for each feature map)"
    if post and median >= post:
        raised = f"raise MODEL.RPN.POST_NMS_TOPK_TEST (now {post}, which most images reach)"
        climbs = (facts.recall_of(1000) or 0.0) - (facts.recall_of(100) or 1.0) >= _CLIMBING
        return raised if median < _FEW_PROPOSALS else f"{raised}, {usual}" if climbs else usual
    if median >= 0 and nms is not None and nms < 0.5:
        return f"raise MODEL.RPN.NMS_THRESH (now {nms:g}; detectron2's own is 0.7)"
    return usual


def notes(figures: Figures, facts: Facts) -> Iterator[str]:
    """COCO's "-1" and "nan" in words, and settings that are worth a look."""
    if not figures.objects:
        return
    for size, group in figures.sizes.items():
        if not group.objects:
            yield (
                f"No object is {size} ({_SIZE_WORDS[size]} pixels), so there is no AP{size[0]}: "
                "COCO's own code prints -1 for it, detectron2 nan."
            )
    without = [name for name, group in figures.classes.items() if not group.objects]
    if without:
        yield f"No object of class {few(without, 5)}: no AP, and nothing that counts."
    if not figures.detections:
        yield "Without any detection COCO computes nothing: nan stands for AP 0."
    limit, threshold = facts.detections_per_image, facts.score_threshold
    if limit is not None and figures.most_objects > limit:
        yield (
            f"An image has {figures.most_objects} objects, but no more than {limit} detections: "
            "raise TEST.DETECTIONS_PER_IMAGE."
        )
    if threshold is not None and threshold > 0.05:
        yield (
            f"Detections of scores under {threshold:g} do not count, which costs AP: detectron2's "
            "own MODEL.ROI_HEADS.SCORE_THRESH_TEST is 0.05."
        )
    at_100, every = facts.recall_of(100), facts.recall_of(1000)
    if at_100 is not None and every is not None:
        most = f"{facts.proposals.get('most', 1000):.0f}"
        yield (
            f"RPN: with 100 proposals {at_100:.0%}, with all (at most {most} an image) {every:.0%} "
            "of the objects have one that fits (IoU 0.5)."
        ).replace("%", " %")


def task_table(figures: Figures) -> Iterator[str]:
    """The figures of a task in lines of 80 columns, the first a title."""
    masks, (low, high) = figures.task == "segm", figures.ap_interval
    between = "" if math.isnan(low) else f" ({low:.1f} to {high:.1f} over the images)"
    yield wrapped(
        f"{'Masks' if masks else 'Boxes'}: AP {_number(figures.ap)}{between}, AP50 "
        f"{_number(figures.ap50)}; {plural(figures.objects, 'object')}, "
        f"{plural(figures.detections, 'detection')}",
        "  ",
    )
    if not figures.objects:
        return
    repairs = {k: r for k, r in figures.repairs.items() if k != Cause.MASK or masks}
    yield "\nAP50 gained without one kind of mistake"
    rows = [
        [k.value, f"{r.count:,}", _number(r.gain), *(_number(r.by_size[size]) for size in SIZES)]
        for k, r in repairs.items()
    ]
    found = [f"{group.found:,}/{group.objects:,}" for group in figures.sizes.values()]
    rows.append(["found/objects", "", f"{figures.found:,}/{figures.objects:,}", *found])
    yield _table(["mistake", "how many", "gain", *SIZES], rows)
    of_masks = f", to masks worse than their boxes {_number(figures.loose_masks)}" if masks else ""
    yield f"AP lost to inexact boxes {_number(figures.loose_boxes)}{of_masks}"
    yield "\nof each class, the worst first"
    worst = sorted(figures.class_ap50.items(), key=lambda of: of[1])
    rows = [
        [shorten(n, _WIDEST_NAME), _number(ap), *(_number(r.by_class[n]) for r in repairs.values())]
        for n, ap in worst[:_MOST_CLASSES]
    ]
    yield _table(["class", "AP50", *(_TITLES.get(kind, kind.value) for kind in repairs)], rows)
    if len(worst) > _MOST_CLASSES:
        yield f"and {len(worst) - _MOST_CLASSES} more in explanation.json"


def worst_table(images: Sequence[Record]) -> Iterator[str]:
    """The first of ``Explanation.worst_images``, in lines of 80 columns; nothing of none."""
    if not images:
        return
    files = [image["file_name"] for image in images[:_MOST_IMAGES]]
    folder = common_folder(files)
    names = [shorten(f.removeprefix(folder).lstrip(os.sep), _WIDEST_FILE) for f in files]
    widest = max(map(len, names))
    yield "\nAP gained without one image, the worst first"
    if folder:
        yield wrapped(f"in {folder}", "", whole=True)
    for name, image in zip(names, images, strict=False):
        told = f"{name:<{widest}} {image['gain']:>5.2f}  {image['words']}"
        yield wrapped(told, " " * (widest + 8))
    yield f"({SURE_WORDS})"


def image_words(image: Record) -> str:
    """ "5 objects; 2 missed, 1 background": what is wrong in one of the worst images."""
    mistakes = [f"{n} {kind}" for kind, n in sorted(image["mistakes"].items())]
    return f"{plural(image['objects'], 'object')}; {', '.join(mistakes) or 'low scores'}"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    # as headers, tabulate would give them two more columns each
    return tabulate(
        [titles, *rows],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(titles) - 1)),
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
