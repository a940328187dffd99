"""``MODEL.TRANSFER.DISTILLATION``: while a model learns new classes, it keeps the source's."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from transfer_maskrcnn.engine.classes import class_names, class_places, open_named_source
from transfer_maskrcnn.engine.distillation import OldClasses
from transfer_maskrcnn.engine.distillation_step import Distillation
from transfer_maskrcnn.engine.setup import flat_config
from transfer_maskrcnn.engine.source_model import build_source_model, source_config
from transfer_maskrcnn.errors import ConfigError
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

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: fitted, with ``MODEL.TRANSFER.DISTILLATION`` above 0.
        """
        self._cfg = cfg

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> DistillSource | None:
        """None where it is off.

        Raises:
            ConfigError: a weight below 0, or a config that it cannot work with.
        """
        weight = cfg.MODEL.TRANSFER.DISTILLATION
        if not 0 <= weight < math.inf:
            raise ConfigError(f"{KEY} is {weight}; expected 0 (off) or a number above it")
        if not weight:
            return None
        if not cfg.MODEL.TRANSFER.EXTEND:
            raise ConfigError(
                f"{KEY} {weight:g} keeps the source's classes, but MODEL.TRANSFER.EXTEND is False; "
                f"set it True, or {KEY} 0.0"
            )
        keys = dict(flat_config(cfg))
        for key, values in _NEEDS.items():
            if keys[key] not in values:
                expected = " or ".join(str(value) for value in values)
                raise ConfigError(
                    f"{KEY} {weight:g} cannot work with {key} {keys[key]}; expected {expected}, or "
                    f"set {KEY} 0.0"
                )
        return cls(cfg)

    def before_train(self) -> None:
        """
        Raises:
            ConfigError: source and model score classes in different ways.
            WeightFileError, TransferPlanError: what ``build_source_model`` raises.
        """
        cfg = self._cfg
        _check_cosine(cfg)
        teacher, names = build_source_model(cfg)
        old = OldClasses.of(class_names(cfg), names)
        model = unwrapped(self.trainer.model)
        weight = float(cfg.MODEL.TRANSFER.DISTILLATION)
        annotated = class_places(cfg, cfg.DATASETS.TRAIN[0]) or ()
        hidden = sorted(set(old.student.tolist()) - set(annotated))
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


def _check_cosine(cfg: CfgNode) -> None:
    own = cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE
    source = source_config(cfg, open_named_source(cfg)).MODEL.ROI_BOX_HEAD.COSINE_SCALE
    if own != source:
        raise ConfigError(
            f"{KEY} compares class scores, but {_COSINE} is {own:g} here and {source:g} in "
            f"MODEL.WEIGHTS; set {_COSINE} {source:g}, or {KEY} 0.0"
        )
