"""Losses from a teacher that join those of a model in training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.feature_cache.frozen import FrozenPart, find_frozen_part
from transfer_maskrcnn.incremental.distillation import (
    OldClasses,
    background_may_be,
    box_loss,
    class_loss,
    mask_loss,
    objectness_loss,
)
from transfer_maskrcnn.incremental.distillation_teacher import (
    Answers,
    Features,
    ask,
    box_outputs,
    calls_of,
    mask_logits,
    objectness_logits,
    of_class,
    replaced,
)


@dataclass(frozen=True)
class _Batch:
    """What a step of the student leaves behind.

    Attributes:
        images: the padded batch, as its backbone got it.
        objectness: (N, A) logits of all anchors; None where its RPN learns nothing.
        new_objects: annotated boxes of each image.
        shared: the output of the part that student and teacher have in common.
    """

    images: ImageList
    features: Features
    objectness: Tensor | None
    new_objects: list[Boxes]
    shared: Any


class Distillation:
    """Losses that join a training model's own, from a teacher that sees the same padded images.

    The student's backbone runs once a step, as ever; the teacher once, too, but for a frozen part
    that the two have in common: what it gave the student (computed, or from a feature cache) serves
    the teacher as well. The teacher is no part of the student's modules, so that parameters, state
    dict, checkpoints and exports are what they are without it. Evaluation, and losses measured
    without gradients, know nothing of it.

    Adds ``loss_distill_cls``, ``loss_distill_box``, ``loss_distill_mask`` (of a model with masks)
    and ``loss_distill_rpn`` (unless the RPN is frozen).
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        old: OldClasses,
        weight: float,
        hidden: Sequence[int] = (),
    ):
        """
        Args:
            student: a GeneralizedRCNN, not wrapped, on the device it trains on.
            teacher: likewise, of the source, in eval mode, without gradients, on that device.
            old: the classes of both.
            weight: of each loss.
            hidden: classes of the student that nobody annotated on the training images: its
                ``loss_cls`` does not tell them from background, where that is the label.
        """
        self._student: Any = student
        self._teacher: Any = teacher
        self._old = old.to(next(student.parameters()).device)
        self._weight = weight
        self._hidden = torch.tensor(hidden, dtype=torch.int64, device=self._old.student.device)
        self._compared = ""  # the frozen part that was last compared
        self._same = False

    def attach(self) -> None:
        """Have the losses join the student's."""
        self._attached = ExitStack()
        self._forward = self._student.forward
        self._attached.enter_context(replaced(self._student, "forward", self._with_distillation))
        if len(self._hidden):
            predictor = self._student.roi_heads.box_predictor
            self._box_losses = predictor.losses
            self._attached.enter_context(replaced(predictor, "losses", self._losses_of_boxes))

    def detach(self) -> None:
        """Leave the student as it was."""
        self._attached.close()

    def _is_learning(self) -> bool:
        """Neither in evaluation, nor where losses are only measured."""
        return bool(self._student.training and torch.is_grad_enabled())

    def _losses_of_boxes(self, predictions: Any, proposals: Sequence[Any]) -> dict[str, Tensor]:
        """``FastRCNNOutputLayers.losses``, but for what the label "background" means."""
        logits, deltas = predictions
        if self._is_learning() and len(logits):
            labels = torch.cat([p.gt_classes for p in proposals])
            logits = background_may_be(self._hidden, logits, labels)
        losses: dict[str, Tensor] = self._box_losses((logits, deltas), proposals)
        return losses

    def _with_distillation(self, batched_inputs: list[dict[str, Any]]) -> Any:
        if not self._is_learning():
            return self._forward(batched_inputs)
        part = self._shared_part()
        with ExitStack() as stack:
            backbone = stack.enter_context(calls_of(self._student.backbone))
            rpn = stack.enter_context(calls_of(self._student.proposal_generator.rpn_head))
            shared = stack.enter_context(calls_of(part.module)) if part else []
            losses = self._forward(batched_inputs)
        (images,), features = backbone[0]
        objectness = objectness_logits(rpn[0][1]) if rpn else None
        batch = _Batch(
            ImageList(images, [tuple(x["image"].shape[-2:]) for x in batched_inputs]),
            features,
            objectness if objectness is not None and objectness.requires_grad else None,
            [self._new_objects(x["instances"]).to(images.device) for x in batched_inputs],
            shared[0][1] if part else None,
        )
        answers = ask(
            *(self._teacher, self._old, batch.images),
            *(self._teacher_features(batch, part), batch.new_objects),
        )
        distilled = self._losses(batch, answers)
        return {**losses, **{name: self._weight * loss for name, loss in distilled.items()}}

    def _losses(self, batch: _Batch, answers: Answers) -> dict[str, Tensor]:
        heads = self._student.roi_heads
        logits, deltas = box_outputs(heads, batch.features, answers.proposals)
        classes = self._old.student[answers.classes]
        losses = {
            "loss_distill_cls": class_loss(logits, answers.class_logits, self._old),
            "loss_distill_box": box_loss(of_class(deltas[answers.sure], classes), answers.deltas),
        }
        if answers.masks is not None:
            masks = mask_logits(heads, batch.features, answers.mask_boxes)
            masks = of_class(masks, classes[answers.sure_of_masks])
            losses["loss_distill_mask"] = mask_loss(masks, answers.masks)
        if batch.objectness is not None:
            losses["loss_distill_rpn"] = objectness_loss(batch.objectness, answers.objectness)
        return losses

    def _new_objects(self, instances: Any) -> Boxes:
        classes = instances.gt_classes
        old = torch.isin(classes, self._old.student.to(classes.device))
        return instances.gt_boxes[(classes >= 0) & ~old]  # below 0: a doubtful old object

    def _teacher_features(self, batch: _Batch, part: FrozenPart | None) -> Features:
        backbone, images = self._teacher.backbone, batch.images.tensor
        with torch.no_grad():
            if part is not None:
                with replaced(
                    self._teacher.get_submodule(part.name), "forward", lambda _: batch.shared
                ):
                    features: Features = backbone(images)
            else:
                strides = {k: v.stride for k, v in self._student.backbone.output_shape().items()}
                features = backbone(_padded_as(images, batch.features, strides))
        return features

    def _shared_part(self) -> FrozenPart | None:
        """The frozen part of the student that is still as it is in the teacher.

        It is compared where a phase of training begins to freeze it, not in every step.
        """
        part = find_frozen_part(self._student)
        name = part.name if part else ""
        if name != self._compared:
            self._compared = name
            self._same = part is not None and _same_weights(
                part.module, self._teacher.get_submodule(name)
            )
        return part if self._same else None


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def _padded_as(images: Tensor, features: Features, strides: dict[str, int]) -> Tensor:
    """Zeros to the right and below, where the maps come from a feature cache's larger canvas."""
    name = min(features, key=lambda k: strides[k])
    stride, shape = strides[name], features[name].shape[-2:]
    missing = [
        wanted * stride - size if wanted > -(-size // stride) else 0
        for wanted, size in zip(shape, images.shape[-2:], strict=True)
    ]
    return F.pad(images, (0, missing[1], 0, missing[0])) if any(missing) else images
