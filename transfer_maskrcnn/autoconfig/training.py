"""How long, how fast and on which images to train."""

from __future__ import annotations

import math

from detectron2.config import CfgNode

from transfer_maskrcnn.autoconfig.lines import Line, percent
from transfer_maskrcnn.autoconfig.measures import Measures
from transfer_maskrcnn.data.sampling import imbalance
from transfer_maskrcnn.text import plural

EPOCHS = 12  # as the 1x schedule of COCO
FEWEST_ITERATIONS = 300
MOST_IMAGES = 90_000 * 16  # that COCO's 1x schedule sees
LARGEST_GROWTH = 4
BATCHES_AN_EPOCH = 10  # a batch grows no further than leaves so many
STEP_AT = 0.75
CHECKPOINTS = 5


def image_lines(train: Measures, names: list[str], cfg: CfgNode) -> list[Line]:
    """Images without objects, rare classes, flips."""
    lines = []
    if train.empty_images:
        share = train.empty_images / train.images
        keep = share <= 0.5
        reason = (
            f"{train.empty_images:,} of {train.images:,} images ({percent(share)}) hold no object. "
        )
        if keep:
            reason += (
                "They are used, and teach what is background. True if they only lack annotations."
            )
        else:
            reason += "They are left out: most batches would show nothing to learn."
        lines.append(Line("DATALOADER.FILTER_EMPTY_ANNOTATIONS", not keep, reason))
    if len(names) > 1:
        lines.append(_balance_line(train, names, cfg.DATALOADER.REPEAT_IMBALANCE))
    flip = cfg.INPUT.RANDOM_FLIP
    reason = (
        "As in the base; pixels do not tell whether a mirrored image is still a right one. "
        '"vertical" suits pictures without an upside; "none" those where left is not right.'
    )
    return [*lines, Line("INPUT.RANDOM_FLIP", flip, reason)]


def _balance_line(train: Measures, names: list[str], limit: float) -> Line:
    counts = [int(count) for count in train.class_counts]
    most = max(range(len(counts)), key=lambda i: counts[i])
    least = min((i for i, count in enumerate(counts) if count), key=lambda i: counts[i])
    ratio = imbalance(counts)
    if counts[most] == counts[least]:
        reason = f"All classes have {plural(counts[most], 'instance')}. "
    else:
        reason = (
            f"Class {names[most]!r} has {plural(counts[most], 'instance')}, {names[least]!r} "
            f"{counts[least]:,}: {ratio:.1f} times fewer. "
        )
    if limit == 0:
        reason += "As in the base, images are drawn alike all the same."
    elif ratio > limit:
        reason += f"Beyond {limit:g} times, images of rare classes are drawn more often."
    else:
        reason += f"Up to {limit:g} times, all images are drawn alike."
    return Line("DATALOADER.REPEAT_IMBALANCE", float(limit), reason)


def batch_lines(images: int, pixel_ratio: float, cfg: CfgNode) -> list[Line]:
    """Batch and learning rate.

    Args:
        images: that are trained on.
        pixel_ratio: pixels of an image at the base's input size divided by those at the fitted one.
        cfg: the base.
    """
    base, rate = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR
    growth = min(pixel_ratio, LARGEST_GROWTH, images / BATCHES_AN_EPOCH / base)
    batch = base * 2 ** int(math.log2(growth)) if growth >= 2 else base
    if images < batch:
        batch = images
    if batch == base:
        why = "As in the base."
    elif batch > base:
        why = (
            f"The base's {base} times {batch // base}: images have {pixel_ratio:.1f} times fewer "
            "pixels than the base makes them."
        )
    else:
        why = f"There {'is' if images == 1 else 'are'} only {plural(images, 'image')}."
    rule = "it follows the batch in proportion (https://arxiv.org/abs/1706.02677)"
    return [
        Line("SOLVER.IMS_PER_BATCH", batch, why),
        Line(
            "SOLVER.BASE_LR",
            float(f"{rate * batch / base:.4g}"),
            f"The base's {rate:g} for {base} images a batch; {rule}.",
        ),
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
    if iterations:
        why = f"As asked for: {passes}."
    elif length == FEWEST_ITERATIONS > epochs:
        why = f"{passes}: new heads need {FEWEST_ITERATIONS} iterations, even on few images."
    elif length < epochs:
        why = f"{passes}: not more images than COCO's 1x schedule sees, {MOST_IMAGES:,}."
    else:
        why = f"{passes}, as many as in COCO's 1x schedule."
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
