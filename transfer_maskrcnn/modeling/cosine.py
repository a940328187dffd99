"""A classifier that looks at the direction of features alone, as TFA has for few shots.

Wang et al., Frustratingly Simple Few-Shot Object Detection, https://arxiv.org/abs/2003.06957: rows
of rare classes, which are shorter than those of frequent ones, are no longer at a disadvantage.
"""

from __future__ import annotations

import math

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.load import SourceWeights

KEY = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
_SHORTEST = 1e-5  # what is shorter, a feature of zeros say, is divided by this


class CosineClassifier(nn.Module):
    """``scale * cosine(feature, row)``, computed in float32 under autocast, too.

    Attributes:
        weight: (K + 1, C), a row a class and the background's last; their lengths do not count.
        scale: the score of a feature that points as a row does.
    """

    def __init__(self, weight: nn.Parameter, scale: float):
        super().__init__()
        self.weight = weight
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(N, C), N from 0 on -> (N, K + 1) scores from ``-scale`` to ``scale``; 0 for zeros."""
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.float(), eps=_SHORTEST)
            rows = F.normalize(self.weight.float(), eps=_SHORTEST)
            return self.scale * F.linear(directions, rows)


def use_cosine(cfg: CfgNode, model: nn.Module) -> None:
    """Put a :class:`CosineClassifier` in the place of each ``cls_score``; in place.

    It takes over the linear layer's rows, which detectron2 has drawn with a deviation of 0.01, and
    their tensor's name; there is no bias. With CascadeROIHeads, each stage gets its own. Call it
    before the optimizer sees the model.

    Args:
        cfg: ``MODEL.ROI_BOX_HEAD.COSINE_SCALE`` is the scale; at 0 nothing is changed.
        model: as detectron2 builds it.

    Raises:
        ConfigError: a scale that is no number from 0 on, or no FastRCNNOutputLayers in the model.
    """
    scale = cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE
    if not 0 <= scale < math.inf:
        raise ConfigError(
            f"{KEY} is {scale}; expected 0.0 (a linear layer) or a number above it, such as 20.0"
        )
    if scale == 0:
        return
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    if not predictors:
        raise ConfigError(
            f"{KEY} {scale} replaces the classifier of FastRCNNOutputLayers, which "
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} does not have; set {KEY} 0.0, or use "
            "StandardROIHeads"
        )
    for predictor in predictors:
        linear = predictor.cls_score
        assert isinstance(linear, nn.Linear)
        predictor.cls_score = CosineClassifier(nn.Parameter(linear.weight.detach()), scale)


def check_same_classifier(model: nn.Module, source: SourceWeights) -> None:
    """Compare the classifier of a trained file with that of ``model``.

    Raises:
        ConfigError: one is linear and the other not, or their scales differ.
    """
    config = (source.metadata or {}).get("config") or {}
    for name, module in model.named_modules():
        if not isinstance(module, FastRCNNOutputLayers):
            continue
        classifier = f"{name}.cls_score"
        if f"{classifier}.weight" not in source.tensors:
            continue
        mine = float(getattr(module.cls_score, "scale", 0.0))
        linear = f"{classifier}.bias" in source.tensors
        theirs = 0.0 if linear else config.get(KEY, mine or None)
        if theirs != mine:
            was = f"{KEY} {float(theirs)}" if theirs is not None else f"a {KEY} above 0"
            kind = "a linear classifier" if linear else "a cosine classifier"
            raise ConfigError(
                f"{source.path} was trained with {kind} ({was}), and the config says {KEY} "
                f"{mine}: its scores would mean nothing. Use the config that it was trained "
                f"with ({was}); or train from it, without --eval-only and --resume"
            )
