"""The only place where a detector is made: to train, to teach, to plan, to predict."""

from __future__ import annotations

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.modeling.cosine import use_cosine
from transfer_maskrcnn.modeling.extended_scores import score_by_generation
from transfer_maskrcnn.modeling.freezing import freeze
from transfer_maskrcnn.modeling.ignored import leave_out_doubtful
from transfer_maskrcnn.modeling.precision import prepare_layout
from transfer_maskrcnn.modeling.roi_pooler import use_fast_pooling


def build_model(cfg: CfgNode, spec: RunSpec | None = None) -> nn.Module:
    """The detector of a config, on ``MODEL.DEVICE``, with all that this project adds to it.

    Its tensors have the names that detectron2's own model has, and stock weights load. What is
    frozen (``MODEL.TRANSFER.FREEZE``) needs no gradient; everything else, and the mode, is as
    detectron2 leaves it.

    Args:
        cfg: with ``MODEL.ROI_HEADS.NUM_CLASSES`` set; stays as it is.
        spec: of the run; says how classes are scored. None: as those of a model that was never
            extended; a file that is loaded may say otherwise.

    Raises:
        ConfigError: a key of this project's does not fit the model.
    """
    model = modeling.build_model(cfg)
    use_cosine(cfg, model)
    score_by_generation(model, spec.tasks if spec else ())
    freeze(model, cfg.MODEL.TRANSFER.FREEZE)
    if cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED:
        leave_out_doubtful(model)
    prepare_layout(cfg, model)
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        use_fast_pooling(model)
    return model
