"""Anchors, and how many proposals and detections an image may have."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode

from transfer_maskrcnn.autoconfig.lines import Line, percent
from transfer_maskrcnn.autoconfig.measures import Measures
from transfer_maskrcnn.doctor.anchors import Settings, Suggestion, suggest_ratios, suggest_sizes
from transfer_maskrcnn.text import plural

# Of the most objects an image: room for wrong detections, and for images with still more.
ROOM = 1.25
STEP = 50
PROPOSALS_A_DETECTION = 1.5


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
    wanted = math.ceil(most * ROOM / STEP) * STEP
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
