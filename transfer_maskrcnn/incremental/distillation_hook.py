"""``MODEL.TRANSFER.DISTILLATION``: while a model learns new classes, it keeps the source's."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from transfer_maskrcnn.config import RunSpec, flat_config
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.incremental.classes import annotated_classes
from transfer_maskrcnn.incremental.distillation import OldClasses
from transfer_maskrcnn.incremental.distillation_step import Distillation
from transfer_maskrcnn.incremental.source import build_source_model, source_config
from transfer_maskrcnn.surgery.hook import load_named_source
from transfer_maskrcnn.surgery.target import unwrapped

KEY = "MODEL.TRANSFER.DISTILLATION"
_COSINE = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
_NEEDS: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "Res5ROIHeads"),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
}

logger = logging.getLogger(__name__)


class DistillSource(HookBase):
    """Adds a :class:`Distillation` of the source model to the model, for as long as it trains."""

    def __init__(self, cfg: CfgNode, spec: RunSpec):
        """
        Args:
            cfg: fitted, with ``MODEL.TRANSFER.DISTILLATION`` above 0.
        """
        self._cfg, self._spec = cfg, spec

    @classmethod
    def from_cfg(cls, cfg: CfgNode, spec: RunSpec) -> DistillSource | None:
        """None where it is off."""
        return cls(cfg, spec) if cfg.MODEL.TRANSFER.DISTILLATION else None

    def before_train(self) -> None:
        """
        Raises:
            ConfigError, WeightFileError, TransferPlanError: what ``build_source_model`` raises.
        """
        cfg = self._cfg
        teacher, names = build_source_model(cfg)
        old = OldClasses.of(self._spec.classes, names)
        model = unwrapped(self.trainer.model)
        weight = float(cfg.MODEL.TRANSFER.DISTILLATION)
        # pseudo-labels, which come first, give the same warning
        warn = not cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED
        annotated = annotated_classes(cfg, self._spec.classes, warn=warn)
        hidden = sorted(set(old.student.tolist()) - annotated)
        self._distillation = Distillation(model, teacher, old, weight, hidden)
        self._distillation.attach()
        logger.info(
            "%s %g: %d classes of %s are kept close to what it says",
            *(KEY, weight, len(old.student), cfg.MODEL.WEIGHTS),
        )

    def after_train(self) -> None:
        # a run that before_train stopped has none
        if "_distillation" in vars(self):
            self._distillation.detach()
            del self._distillation


def check_distillation(cfg: CfgNode) -> None:
    """Nothing to say where it is off.

    Args:
        cfg: its classes are known.

    Raises:
        ConfigError: a weight below 0, or a config that it cannot work with; source and model score
            classes in different ways.
        WeightFileError: the source, which is the teacher, cannot be read.
    """
    weight = cfg.MODEL.TRANSFER.DISTILLATION
    if not 0 <= weight < math.inf:
        raise ConfigError(f"{KEY} is {weight}; expected 0.0 (off) or a number above it")
    if not weight:
        return
    if not cfg.MODEL.TRANSFER.EXTEND:
        raise ConfigError(
            f"{KEY} {weight} keeps the source's classes, but MODEL.TRANSFER.EXTEND is False; "
            f"set it True, or {KEY} 0.0"
        )
    keys = dict(flat_config(cfg))
    for key, values in _NEEDS.items():
        if keys[key] not in values:
            expected = " or ".join(str(value) for value in values)
            raise ConfigError(
                f"{KEY} {weight} cannot work with {key} {keys[key]}; expected {expected}, or "
                f"set {KEY} 0.0"
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
            f"{KEY} compares class scores, but {_COSINE} is {own} here and {theirs} in "
            f"MODEL.WEIGHTS; set {_COSINE} {theirs}, or {KEY} 0.0"
        )
