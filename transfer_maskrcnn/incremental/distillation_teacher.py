"""What the source model says of a training batch: once, on its own proposals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from transfer_maskrcnn.incremental.distillation import SURE, OldClasses
from transfer_maskrcnn.modeling.rcnn import Features

PROPOSALS = 64  # an image, the best after NMS
MASKS = 8  # an image, on those proposals where the teacher is surest
NEW_OBJECT_IOU = 0.5  # from which on a proposal is on an annotated object of a new class


@dataclass(frozen=True)
class Answers:
    """The teacher's, without gradients. Boxes are in pixels of the padded batch.

    Attributes:
        proposals: of each image, its best ones that lie on no new object; R altogether.
        class_logits: (R, T + 1), background last.
        sure: (C,) those of the R where the best old class has at least ``SURE``.
        classes: (C,) which one, as a place in :class:`OldClasses`.
        deltas: (C, 4) of that class.
        sure_of_masks: (M,) those of the C where masks are compared.
        mask_boxes: of each image, theirs.
        masks: (M, H, W) logits of that class; None for a model without masks.
        objectness: (N, A) logits of all anchors of each of N images.
    """

    proposals: list[Boxes]
    class_logits: Tensor
    sure: Tensor
    classes: Tensor
    deltas: Tensor
    sure_of_masks: Tensor
    mask_boxes: list[Boxes]
    masks: Tensor | None
    objectness: Tensor


@torch.no_grad()
def ask(
    teacher: nn.Module,
    old: OldClasses,
    images: ImageList,
    features: Features,
    new_objects: Sequence[Boxes],
) -> Answers:
    """What ``teacher`` says of a batch.

    A proposal on an annotated object of a new class is passed over: the teacher, who has never seen
    the class, may take a star for a triangle.

    Args:
        teacher: a GeneralizedRCNN with an RPN, in eval mode.
        old: on the teacher's device.
        images: the padded batch.
        features: the teacher's backbone's.
        new_objects: annotated boxes of each image.
    """
    model: Any = teacher
    with calls_of(model.proposal_generator.rpn_head) as calls:
        found, _ = model.proposal_generator(images, features, None)
    pairs = zip(found, new_objects, strict=True)
    proposals = [_off_new_objects(instances, boxes) for instances, boxes in pairs]
    logits, deltas = box_outputs(model.roi_heads, features, proposals)
    probability, best = old.log_probabilities(logits)[:, :-1].exp().max(dim=1)
    sure = torch.nonzero(probability >= SURE).flatten()
    classes = best[sure]
    kept, mask_boxes = _surest(proposals, sure, probability[sure])
    masks = None
    if model.roi_heads.mask_on:
        all_masks = mask_logits(model.roi_heads, features, mask_boxes)
        masks = of_class(all_masks, old.teacher[classes[kept]])
    return Answers(
        proposals=proposals,
        class_logits=logits,
        sure=sure,
        classes=classes,
        deltas=of_class(deltas[sure], old.teacher[classes]),
        sure_of_masks=kept,
        mask_boxes=mask_boxes,
        masks=masks,
        objectness=objectness_logits(calls[0][1]),
    )


def _off_new_objects(found: Instances, new_objects: Boxes) -> Boxes:
    boxes = found.proposal_boxes
    if len(new_objects):
        overlap = pairwise_iou(boxes, new_objects).amax(dim=1)
        boxes = boxes[overlap < NEW_OBJECT_IOU]
    return boxes[:PROPOSALS]


def _surest(
    proposals: Sequence[Boxes], sure: Tensor, probability: Tensor
) -> tuple[Tensor, list[Boxes]]:
    """At most ``MASKS`` of each image's ``sure`` proposals, as places in it, and their boxes."""
    kept, boxes, first = [], [], 0
    for own in proposals:
        here = torch.nonzero((sure >= first) & (sure < first + len(own))).flatten()
        best = here[probability[here].argsort(descending=True, stable=True)[:MASKS]]
        kept.append(best)
        boxes.append(own[sure[best] - first])
        first += len(own)
    return torch.cat(kept), boxes


def box_outputs(roi_heads: Any, features: Features, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
    """Class logits (R, K + 1) and box deltas (R, K or 1, 4) of R given boxes.

    Args:
        roi_heads: StandardROIHeads or Res5ROIHeads, in any mode.
    """
    maps = [features[name] for name in roi_heads.in_features]
    if isinstance(roi_heads, Res5ROIHeads):
        pooled = roi_heads._shared_roi_transform(maps, boxes).mean(dim=[2, 3])
    else:
        pooled = roi_heads.box_head(roi_heads.box_pooler(maps, boxes))
    logits, deltas = roi_heads.box_predictor(pooled)
    return logits, deltas.unflatten(1, (-1, 4))


def mask_logits(roi_heads: Any, features: Features, boxes: list[Boxes]) -> Tensor:
    """Mask logits (M, K or 1, H, W) in M given boxes; arguments as of :func:`box_outputs`."""
    if isinstance(roi_heads, Res5ROIHeads):
        maps = [features[name] for name in roi_heads.in_features]
        pooled = roi_heads._shared_roi_transform(maps, boxes)
    else:
        maps = [features[name] for name in roi_heads.mask_in_features]
        pooled = roi_heads.mask_pooler(maps, boxes)
    logits: Tensor = roi_heads.mask_head.layers(pooled)
    return logits


def of_class(outputs: Tensor, classes: Tensor) -> Tensor:
    """Of outputs by class (R, K, ...), or for all classes (R, 1, ...), those of one class each.

    Args:
        classes: (R,) int64.
    """
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return outputs[torch.arange(len(classes), device=classes.device), classes]


def objectness_logits(head_output: Any) -> Tensor:
    """(N, A) logits of all anchors, from what an RPN head gives."""
    return torch.cat([level.flatten(1) for level in head_output[0]], dim=1)


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """The arguments and the output of each call of ``module`` within the block."""
    calls: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    try:
        yield calls
    finally:
        handle.remove()
