"""The only place where a detector is made: to train, to teach, to plan, to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.config import FOLLOW_DATASET
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.cosine import use_cosine
from transfer_maskrcnn.modeling.extended_scores import score_by_generation
from transfer_maskrcnn.modeling.freezing import freeze
from transfer_maskrcnn.modeling.ignored import leave_out_doubtful
from transfer_maskrcnn.modeling.precision import prepare_layout
from transfer_maskrcnn.modeling.roi_pooler import use_fast_pooling


class Spec(Protocol):
    """What of a run's RunSpec a model depends on beside the config."""

    @property
    def tasks(self) -> Sequence[int]:
        """How many classes the first model had, and how many each extension added."""


def build_model(cfg: CfgNode, spec: Spec | None = None) -> nn.Module:
    """The detector of a config, on ``MODEL.DEVICE``, with all that this project adds to it.

    Its tensors have the names that detectron2's own model has, and stock weights load. What is
    frozen (``MODEL.TRANSFER.FREEZE``) needs no gradient; everything else, and the mode, is as
    detectron2 leaves it.

    Args:
        cfg: with ``MODEL.ROI_HEADS.NUM_CLASSES`` set; stays as it is.
        spec: of the run; without one, ``MODEL.TRANSFER.GENERATIONS`` counts.

    Raises:
        ConfigError: a key of this project's does not fit the model.
    """
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES == FOLLOW_DATASET:
        raise ConfigError(
            "MODEL.ROI_HEADS.NUM_CLASSES is not known yet: call "
            "transfer_maskrcnn.engine.setup.fit_config(cfg) before building a model"
        )
    model = modeling.build_model(cfg)
    use_cosine(cfg, model)
    score_by_generation(model, spec.tasks if spec else cfg.MODEL.TRANSFER.GENERATIONS)
    freeze(model, cfg.MODEL.TRANSFER.FREEZE)
    if cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED:
        leave_out_doubtful(model)
    prepare_layout(cfg, model)
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        use_fast_pooling(model)
    return model
