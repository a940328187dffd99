"""Every decision about a config for a dataset, each a line with its reason."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from transfer_maskrcnn.autoconfig.lines import Line
from transfer_maskrcnn.data.loader import imbalance
from transfer_maskrcnn.doctor.anchors import (
    IMBALANCE,
    Measures,
    Settings,
    Suggestion,
    suggest_ratios,
    suggest_sizes,
)
from transfer_maskrcnn.text import first_of, percent, plural

# Two cells of the finest feature map, of stride 4: what is smaller is hardly seen.
TINY = 8
TINY_SHARE = 0.1
# COCO's limit of "small" objects, which detectors find much less often.
SMALL = 32
# An image that is enlarged further only repeats its pixels.
MOST_ENLARGED = 2
SIDE_STEP = 32
# Of the most objects an image: room for wrong detections, and for images with still more.
ROOM = 1.25
DETECTIONS_STEP = 50
PROPOSALS_A_DETECTION = 1.5
EPOCHS = 12  # as the 1x schedule of COCO
FEWEST_ITERATIONS = 300
MOST_IMAGES = 90_000 * 16  # that COCO's 1x schedule sees
LARGEST_GROWTH = 4
BATCHES_AN_EPOCH = 10  # a batch grows no further than leaves so many
STEP_AT = 0.75
CHECKPOINTS = 5
EVALUATIONS = 10


def fit_input(measures: Measures, base: Settings) -> tuple[Settings, list[Line]]:
    """Input sizes for a dataset.

    The base's short side, but not more than the images' own (of the median image), or so much more
    that half of the objects become 32 pixels across, at most twice. Where more than a tenth of the
    objects would then be below 8 pixels: as much larger as mends that, up to twice the images' own
    size and to as many pixels as the base's largest image has (``min_size_test`` times
    ``max_size_test``).

    Returns:
        ``base`` with the new sizes, and the lines that state them.
    """
    if base.min_size_test == 0:  # images as they are: the base's explicit wish
        return base, [Line("INPUT.MIN_SIZE_TEST", 0, "The base's: images keep their own size.")]
    own_side, own_long = _own_sides(measures)
    across = np.median(measures.across_at(np.ones(measures.images)))
    enlarge = float(np.clip(SMALL / max(across, 1.0), 1, MOST_ENLARGED))
    start = min(base.min_size_test, _up(own_side * enlarge))
    affords = (base.min_size_test * base.max_size_test * own_side / own_long) ** 0.5
    limit = min(_up(own_side * MOST_ENLARGED), int(affords) // SIDE_STEP * SIDE_STEP)
    sides = [start, *range(_up(start + 1), limit + 1, SIDE_STEP)]
    fitted = [_resized(base, side) for side in sides]
    chosen = next((s for s in fitted if tiny_share(measures, s) <= TINY_SHARE), fitted[-1])
    return chosen, _size_lines(measures, base, chosen)


def _own_sides(measures: Measures) -> tuple[float, float]:
    """The medians of the images' short and long sides, in pixels."""
    short, long = np.median(np.sort(measures.images_hw, axis=1), axis=0)
    return float(short), float(long)


def _up(side: float) -> int:
    return int(np.ceil(side / SIDE_STEP)) * SIDE_STEP


def tiny_share(measures: Measures, settings: Settings) -> float:
    """The share of objects below 8 pixels at the test size."""
    across = measures.across_at(settings.test_scales(measures.images_hw))
    return float((across < TINY).mean())


def _resized(base: Settings, side: int) -> Settings:
    """``base`` for another short side in evaluation; a long side is never allowed less for it."""
    if side == base.min_size_test:
        return base
    ratio = side / base.min_size_test
    long_ratio = min(ratio, 1.0)
    sizes = {max(SIDE_STEP // 2, round(size * ratio / 16) * 16) for size in base.min_size_train}
    return replace(
        base,
        min_size_test=side,
        max_size_test=max(side, round(base.max_size_test * long_ratio)),
        min_size_train=tuple(sorted(sizes)),
        max_size_train=max(max(sizes), round(base.max_size_train * long_ratio)),
    )


def _size_lines(measures: Measures, base: Settings, chosen: Settings) -> list[Line]:
    lines = [Line("INPUT.MIN_SIZE_TEST", chosen.min_size_test, _why(measures, base, chosen))]
    if chosen == base:
        return lines
    as_base = "In proportion to the short side, as in the base"
    train = chosen.min_size_train
    if chosen.size_sampling == "range" and len(train) == 1:
        train *= 2
    return [
        *lines,
        Line("INPUT.MAX_SIZE_TEST", chosen.max_size_test, f"{as_base} ({base.max_size_test})."),
        Line(
            "INPUT.MIN_SIZE_TRAIN",
            list(train),
            f"{as_base} ({', '.join(map(str, base.min_size_train))}).",
        ),
        Line("INPUT.MAX_SIZE_TRAIN", chosen.max_size_train, f"{as_base} ({base.max_size_train})."),
    ]


def _why(measures: Measures, base: Settings, chosen: Settings) -> str:
    images = "images are {:.0f} x {:.0f} pixels (medians of the sides)".format(
        *_own_sides(measures)
    )
    tiny, side, before = tiny_share(measures, chosen), chosen.min_size_test, base.min_size_test
    enlarged = float(np.median(chosen.test_scales(measures.images_hw)))
    sentences = (
        (side == before, f"As in the base; {images}."),
        (side < before, f"Below the base's {before}: {images}; more would only repeat pixels."),
        (
            side < before and enlarged > 1.2,
            f"Enlarged {enlarged:.1f} times, because half of the objects are small.",
        ),
        (
            side > before,
            f"Above the base's {before}, where {percent(tiny_share(measures, base))} "
            f"of the objects are below {TINY} pixels, two cells of the finest feature map; here "
            f"{percent(tiny)}. The {images}: no more than the base's largest image has.",
        ),
        (True, _extent(measures, chosen)),
        (
            tiny > TINY_SHARE,
            f"{percent(tiny)} of the objects are below {TINY} pixels, and hardly seen: a base "
            "with a larger input, or images cut into tiles, would show more of them.",
        ),
    )
    return " ".join(sentence for holds, sentence in sentences if holds)


def _extent(measures: Measures, settings: Settings) -> str:
    across = measures.across_at(settings.test_scales(measures.images_hw))
    low, high = np.quantile(across, [0.05, 0.95])
    return (
        f"At this size 90 % of the objects are {low:.0f} to {high:.0f} pixels across (square root "
        "of the box area)."
    )


def anchor_lines(measures: Measures, settings: Settings) -> list[Line]:
    """Sizes always; aspect ratios where others reach clearly more.

    Args:
        measures: of the training images.
        settings: with the fitted input size and the base's anchors.
    """
    boxes = measures.boxes_at(settings.test_scales(measures.images_hw))
    before, ratios, strides = settings.anchor_sizes, settings.aspect_ratios, settings.strides
    sizes = suggest_sizes(boxes, before, ratios, strides)
    lines = [
        Line("MODEL.ANCHOR_GENERATOR.SIZES", _plain(sizes.values), _why_sizes(sizes, before)),
    ]
    shapes = suggest_ratios(boxes, sizes.values, ratios, strides)
    if shapes.values != ratios:
        reason = (
            f"Height / width. The base's reach {percent(shapes.share_before)} of the objects "
            f"with these sizes, these {percent(shapes.share)}. As many a cell as before: the RPN's "
            "weights still fit."
        )
        lines.append(Line("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", _plain(shapes.values), reason))
    return lines


def _why_sizes(found: Suggestion, before: tuple[tuple[float, ...], ...]) -> str:
    reached = "of the objects (an IoU of at least 0.5 with some anchor)"
    if found.values == before:
        return (
            f"The base's, which pretrained RPN weights know. They reach "
            f"{percent(found.share)} {reached}; multiples of them at most "
            f"{percent(found.best_share)}."
        )
    factor = found.values[0][0] / before[0][0]
    return (
        f"The base's times {factor:g}. Its sizes, from {before[0][0]:g}, reach "
        f"{percent(found.share_before)} {reached}, these {percent(found.share)}."
    )


def _plain(rows: tuple[tuple[float, ...], ...]) -> list[list[Any]]:
    """One row where all are equal: detectron2 broadcasts it."""
    rows = rows[:1] if len(set(rows)) == 1 else rows
    return [[int(v) if v == int(v) else round(v, 4) for v in row] for row in rows]


def count_lines(most: int, cfg: CfgNode) -> list[Line]:
    """Detections and proposals for images with up to ``most`` objects.

    Proposals before NMS are counted a level, and the objects of one image are mostly of one size:
    each of them gets a proposal on its level only if one level has room for all.
    """
    base, rpn = cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.RPN
    wanted = math.ceil(most * ROOM / DETECTIONS_STEP) * DETECTIONS_STEP
    if wanted <= base:
        reason = f"As in the base: no image has more than {plural(most, 'object')}."
        return [Line("TEST.DETECTIONS_PER_IMAGE", base, reason)]
    lines = [
        Line(
            "TEST.DETECTIONS_PER_IMAGE",
            wanted,
            f"An image has up to {plural(most, 'object')}; a quarter more leaves room for false "
            f"ones. COCO AP is then at {wanted} detections, not {base}.",
        )
    ]
    proposals = math.ceil(wanted * PROPOSALS_A_DETECTION)
    if proposals > rpn.POST_NMS_TOPK_TEST:
        reason = f"{PROPOSALS_A_DETECTION} proposals a detection; the base's are too few for that."
        lines.append(Line("MODEL.RPN.POST_NMS_TOPK_TEST", proposals, reason))
    if 2 * proposals > rpn.PRE_NMS_TOPK_TEST:
        reason = "A level: objects of one size are all on one, each found by several anchors."
        lines.append(Line("MODEL.RPN.PRE_NMS_TOPK_TEST", 2 * proposals, reason))
    return lines


def image_lines(train: Measures, names: list[str], cfg: CfgNode) -> list[Line]:
    """Images without objects, rare classes, flips."""
    lines = []
    if train.empty_images:
        keep = 2 * train.empty_images <= train.images
        then = (
            "They are used, and teach what is background. True if they only lack annotations."
            if keep
            else "They are left out: most batches would show nothing to learn."
        )
        share = percent(train.empty_images / train.images)
        reason = f"{train.empty_images:,} of {train.images:,} images ({share}) hold no object."
        lines.append(Line("DATALOADER.FILTER_EMPTY_ANNOTATIONS", not keep, f"{reason} {then}"))
    if len(names) > 1:
        lines.append(_balance_line(train, names, cfg.DATALOADER.REPEAT_IMBALANCE or IMBALANCE))
    reason = (
        "As in the base; pixels do not tell whether a mirrored image is still a right one. "
        '"vertical" suits pictures without an upside; "none" those where left is not right.'
    )
    return [*lines, Line("INPUT.RANDOM_FLIP", cfg.INPUT.RANDOM_FLIP, reason)]


def _balance_line(train: Measures, names: list[str], limit: float) -> Line:
    counts = [int(count) for count in train.class_counts]
    most = max(range(len(counts)), key=lambda i: counts[i])
    least = min((i for i, count in enumerate(counts) if count), key=lambda i: counts[i])
    ratio = imbalance(counts)
    instances = plural(counts[most], "instance")
    rarer = f"{names[least]!r} {counts[least]:,}: {ratio:.1f} times fewer."
    reason = first_of(
        (counts[most] == counts[least], f"All classes have {instances}."),
        (True, f"Class {names[most]!r} has {instances}, {rarer}"),
    )
    then = first_of(
        (ratio > limit, f"Beyond {limit:g} times, images of rare classes are drawn more often."),
        (True, f"Up to {limit:g} times, all images are drawn alike."),
    )
    return Line("DATALOADER.REPEAT_IMBALANCE", float(limit), f"{reason} {then}")


def batch_lines(images: int, pixel_ratio: float, cfg: CfgNode) -> list[Line]:
    """Batch and learning rate.

    Args:
        images: that are trained on.
        pixel_ratio: pixels of an image at the base's input size divided by those at the fitted one.
        cfg: the base.
    """
    base, rate = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR
    growth = min(pixel_ratio, LARGEST_GROWTH, images / BATCHES_AN_EPOCH / base)
    batch = min(images, base * 2 ** int(math.log2(growth)) if growth >= 2 else base)
    more = (
        f"The base's {base} times {batch // base}: images have {pixel_ratio:.1f} times fewer "
        "pixels than the base makes them."
    )
    less = f"There {'is' if images == 1 else 'are'} only {plural(images, 'image')}."
    why = first_of((batch == base, "As in the base."), (batch > base, more), (True, less))
    rule = "it follows the batch in proportion (https://arxiv.org/abs/1706.02677)"
    return [
        Line("SOLVER.IMS_PER_BATCH", batch, why),
        Line(
            "SOLVER.BASE_LR",
            float(f"{rate * batch / base:.4g}"),
            f"The base's {rate:g} for {base} images a batch; {rule}.",
        ),
    ]


def evaluation_lines(length: int, evaluations: int, masks: bool) -> list[Line]:
    """When to evaluate, and what is best, of a run of ``length`` iterations."""
    task, times = "segm" if masks else "bbox", plural(evaluations, "evaluation")
    why = f"{times} a run: a curve that tells whether longer, or shorter, would do."
    best = "The weights of its best evaluation become the final model; the last stay beside them."
    return [
        Line("TEST.EVAL_PERIOD", math.ceil(length / evaluations), why),
        Line("TEST.BEST_METRIC", f"{task}/AP", best),
    ]


def schedule_lines(
    images: int, batch: int, warmup: int, iterations: int | None = None
) -> list[Line]:
    """Length, step, warm-up and checkpoints.

    Args:
        images: that are trained on.
        batch: images an iteration.
        warmup: the base's.
        iterations: the budget; None chooses it.
    """
    longest = MOST_IMAGES // batch
    epochs = math.ceil(EPOCHS * images / batch / 10) * 10
    length = iterations or min(max(epochs, FEWEST_ITERATIONS), longest)
    passes = f"{length * batch / images:.3g} passes over {plural(images, 'image')}"
    least = f"new heads need {FEWEST_ITERATIONS} iterations, even on few images"
    why = first_of(
        (iterations, f"As asked for: {passes}."),
        (length == FEWEST_ITERATIONS > epochs, f"{passes}: {least}."),
        (
            length < epochs,
            f"{passes}: not more images than COCO's 1x schedule sees, {MOST_IMAGES:,}.",
        ),
        (True, f"{passes}, as many as in COCO's 1x schedule."),
    )
    return [
        Line("SOLVER.MAX_ITER", length, why),
        Line(
            "SOLVER.STEPS",
            [max(1, int(length * STEP_AT))] if length > 1 else [],
            f"The learning rate drops after {percent(STEP_AT)} of them.",
        ),
        Line(
            "SOLVER.WARMUP_ITERS",
            min(warmup, length // 4),
            f"As in the base ({warmup}), at most a quarter of them.",
        ),
        Line(
            "SOLVER.CHECKPOINT_PERIOD",
            math.ceil(length / CHECKPOINTS),
            "A run that is cut off loses at most a fifth.",
        ),
    ]
