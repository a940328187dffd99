"""``MODEL.TRANSFER.DISTILLATION``: while a model learns novel classes, it keeps the source's."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.config import RunSpec, flat_config
from transfer_maskrcnn.errors import ConfigError, WeightFileError, refuse
from transfer_maskrcnn.incremental.classes import annotated_classes
from transfer_maskrcnn.incremental.distillation_losses import (
    Answers,
    BaseClasses,
    ask,
    background_may_be,
    box_loss,
    box_outputs,
    class_loss,
    mask_logits,
    mask_loss,
    objectness_logits,
    objectness_loss,
    of_class,
)
from transfer_maskrcnn.incremental.source import build_source_model, source_config
from transfer_maskrcnn.modeling.build import COSINE_KEY
from transfer_maskrcnn.modeling.rcnn import Features, FrozenPart, Step
from transfer_maskrcnn.surgery.hook import load_named_source
from transfer_maskrcnn.surgery.names import unwrapped

logger = logging.getLogger(__name__)

KEY = "MODEL.TRANSFER.DISTILLATION"
_NEEDS: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "Res5ROIHeads"),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
}


class DistillSource(HookBase):
    """Adds a :class:`Distillation` of the source model to the model, for as long as it trains."""

    def __init__(self, cfg: CfgNode, spec: RunSpec):
        """
        Args:
            cfg: fitted, with ``MODEL.TRANSFER.DISTILLATION`` above 0.
        """
        self._cfg, self._spec = cfg, spec

    def before_train(self) -> None:
        """
        Raises:
            ConfigError, WeightFileError, TransferPlanError: what ``build_source_model`` raises.
        """
        cfg = self._cfg
        teacher, names = build_source_model(cfg)
        base = BaseClasses.of(self._spec.classes, names)
        weight = float(cfg.MODEL.TRANSFER.DISTILLATION)
        annotated = annotated_classes(
            cfg,
            self._spec.classes,
            # else pseudo-labels, which come first, have given the same warning
            warn=not cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED,
        )
        hidden = sorted(set(base.student.tolist()) - annotated)
        self._distillation = Distillation(
            unwrapped(self.trainer.model), teacher, base, weight, hidden
        )
        self._distillation.attach()
        logger.info(
            "%s %g: %d classes of %s are kept close to what it says",
            *(KEY, weight, len(base.student), cfg.MODEL.WEIGHTS),
        )

    def after_train(self) -> None:
        # a run that before_train stopped has none
        if "_distillation" in vars(self):
            self._distillation.detach()
            del self._distillation


def check_distillation(cfg: CfgNode, spec: RunSpec | None = None) -> None:
    """
    Args:
        cfg: asks for it, and its classes are known.

    Raises:
        ConfigError: a weight below 0, or a config that it cannot work with; source and model score
            classes in different ways.
        WeightFileError: the source, which is the teacher, cannot be read.
    """
    weight, keys = cfg.MODEL.TRANSFER.DISTILLATION, dict(flat_config(cfg))
    refuse(
        (not 0 <= weight < math.inf, f"{KEY} is {weight}; expected 0.0 (off) or a number above it"),
        (
            not cfg.MODEL.TRANSFER.EXTEND,
            f"{KEY} {weight} keeps the source's classes, but MODEL.TRANSFER.EXTEND is False; "
            f"set it True, or {KEY} 0.0",
        ),
        *(
            (
                keys[key] not in values,
                f"{KEY} {weight} cannot work with {key} {keys[key]}; expected "
                f"{' or '.join(map(str, values))}, or set {KEY} 0.0",
            )
            for key, values in _NEEDS.items()
        ),
    )
    _check_teacher(cfg)


def _check_teacher(cfg: CfgNode) -> None:
    try:
        source = load_named_source(cfg)
    except WeightFileError as error:
        raise WeightFileError(
            f"{KEY} {cfg.MODEL.TRANSFER.DISTILLATION} learns from MODEL.WEIGHTS in every "
            f"iteration, in a resumed run, too: {error}"
        ) from None
    own = float(cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE)
    theirs = source_config(cfg, source).MODEL.ROI_BOX_HEAD.COSINE_SCALE
    if own != theirs:
        raise ConfigError(
            f"{KEY} compares class scores, but {COSINE_KEY} is {own} here and {theirs} in "
            f"MODEL.WEIGHTS; set {COSINE_KEY} {theirs}, or {KEY} 0.0"
        )


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
        base: BaseClasses,
        weight: float,
        hidden: Sequence[int] = (),
    ):
        """
        Args:
            student: a GeneralizedRCNN, not wrapped, on the device it trains on.
            teacher: likewise, of the source, in eval mode, without gradients, on that device.
            base: the classes of both.
            weight: of each loss.
            hidden: classes of the student that nobody annotated on the training images: its
                ``loss_cls`` does not tell them from background, where that is the label.
        """
        self._student: Any = student
        self._teacher: Any = teacher
        self._base = base.to(next(student.parameters()).device)
        self._weight = weight
        self._hidden = torch.tensor(hidden, dtype=torch.int64, device=self._base.student.device)
        self._compared = (
            "",
            False,
        )  # the frozen part that was last compared, and whether it is equal
        self._objectness: Tensor | None = None  # the student's, of the step under way

    def attach(self) -> None:
        """Have the losses join the student's."""
        self._student.more_losses = self._more_losses
        self._handle = self._student.proposal_generator.rpn_head.register_forward_hook(
            self._keep_objectness
        )
        if len(self._hidden):
            self._student.roi_heads.box_predictor.before_loss = partial(
                background_may_be, self._hidden
            )

    def detach(self) -> None:
        """Leave the student as it was."""
        self._student.more_losses = None
        self._student.roi_heads.box_predictor.before_loss = None
        self._handle.remove()

    def _keep_objectness(self, head: nn.Module, _: Any, output: Any) -> None:
        """Of a step in which the RPN learns."""
        self._objectness = (
            objectness_logits(output) if head.training and output[0][0].requires_grad else None
        )

    def _more_losses(self, step: Step) -> dict[str, Tensor]:
        objectness, self._objectness = self._objectness, None
        novel_objects = [
            self._novel_objects(x["instances"]).to(step.images.tensor.device) for x in step.batch
        ]
        answers = ask(
            self._teacher, self._base, step.images, self._teacher_features(step), novel_objects
        )
        return {
            name: self._weight * loss
            for name, loss in self._losses(step.features, objectness, answers).items()
        }

    def _losses(
        self, features: Features, objectness: Tensor | None, answers: Answers
    ) -> dict[str, Tensor]:
        heads = self._student.roi_heads
        logits, deltas = box_outputs(heads, features, answers.proposals)
        classes = self._base.student[answers.classes]
        losses = {
            "loss_distill_cls": class_loss(logits, answers.class_logits, self._base),
            "loss_distill_box": box_loss(of_class(deltas[answers.sure], classes), answers.deltas),
        }
        if answers.masks is not None:
            masks = mask_logits(heads, features, answers.mask_boxes)
            masks = of_class(masks, classes[answers.sure_of_masks])
            losses["loss_distill_mask"] = mask_loss(masks, answers.masks)
        if objectness is not None:
            losses["loss_distill_rpn"] = objectness_loss(objectness, answers.objectness)
        return losses

    def _novel_objects(self, instances: Any) -> Boxes:
        classes = instances.gt_classes
        base = torch.isin(classes, self._base.student.to(classes.device))
        return instances.gt_boxes[(classes >= 0) & ~base]  # below 0: a doubtful base object

    def _teacher_features(self, step: Step) -> Features:
        images = step.images.tensor
        with torch.no_grad():
            if self._is_shared(step.part):
                features: Features = self._teacher.features_from(images, step.part, step.frozen)
            else:
                strides = {k: v.stride for k, v in self._student.backbone.output_shape().items()}
                features = self._teacher.backbone(_padded_as(images, step.features, strides))
        return features

    def _is_shared(self, part: FrozenPart | None) -> bool:
        """Whether the frozen part of the student is still as it is in the teacher.

        It is compared where a phase of training begins to freeze it, not in every step.
        """
        name = part.name if part else ""
        if part is None or name != self._compared[0]:
            theirs = self._teacher.get_submodule(name)
            self._compared = name, part is not None and _same_weights(part.module, theirs)
        return self._compared[1]


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
