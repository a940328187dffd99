"""The only place where a detector is made: to train, to teach, to plan, to predict.

What this project adds to detectron2 are subclasses with the same tensors: TransferRCNN, TransferRPN
(registered, and named in a copy of the config), TransferOutputLayers and FastROIPooler (put in the
places of their kind in whatever ROI heads the config names).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import nn

from transfer_maskrcnn.compat import check_detectron2
from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.freezing import freeze
from transfer_maskrcnn.modeling.heads import COSINE_KEY, TransferOutputLayers, score_by_task
from transfer_maskrcnn.modeling.precision import prepare_layout
from transfer_maskrcnn.modeling.rcnn import TransferRCNN, TransferRPN
from transfer_maskrcnn.modeling.roi_align import FastROIPooler, available


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
        TransferError: detectron2 is older than the project can work with.
    """
    check_detectron2()
    own = cfg.clone()
    own.defrost()
    if own.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        own.MODEL.META_ARCHITECTURE = TransferRCNN.__name__
    if own.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
        own.MODEL.PROPOSAL_GENERATOR.NAME = TransferRPN.__name__
    model = modeling.build_model(own)
    _set_predictors(cfg, model, spec.tasks if spec else ())
    freeze(model, cfg.MODEL.TRANSFER.FREEZE)
    _check_doubtful(cfg, model)
    prepare_layout(cfg, model)
    if torch.device(cfg.MODEL.DEVICE).type == "cpu" and available():
        replace_modules(model, ROIPooler, FastROIPooler.of)
    return model


def replace_modules(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], Any]) -> int:
    """Put ``make(module)`` in the place of every module that is a ``kind``, but no subclass.

    Returns:
        how many were replaced.
    """
    places = [
        (parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if type(module) is kind
    ]
    for parent, name, module in places:
        setattr(parent, name, make(module))
    return len(places)


def _set_predictors(cfg: CfgNode, model: nn.Module, tasks: Sequence[int]) -> None:
    scale = cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE
    if not 0 <= scale < math.inf:
        raise ConfigError(
            f"{COSINE_KEY} is {scale}; expected 0.0 (a linear layer) or a number above it, such as "
            "20.0"
        )
    found = replace_modules(
        model, FastRCNNOutputLayers, lambda stock: TransferOutputLayers.of(cfg, stock)
    )
    if scale and not found:
        raise ConfigError(
            f"{COSINE_KEY} {scale} replaces the classifier of FastRCNNOutputLayers, which "
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} does not have; set {COSINE_KEY} 0.0, "
            "or use StandardROIHeads"
        )
    score_by_task(model, tasks)


def _check_doubtful(cfg: CfgNode, model: nn.Module) -> None:
    """Raise ConfigError for ROI heads that would take doubtful objects for certain ones."""
    heads: Any = getattr(model, "roi_heads", None)
    cascade = isinstance(getattr(heads, "box_predictor", None), nn.ModuleList)
    unfit = cascade or getattr(heads, "keypoint_on", False)
    if unfit and cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED:
        raise ConfigError(
            f"MODEL.TRANSFER.PSEUDO_LABELS with {type(heads).__name__}"
            f"{'' if cascade else ' and keypoints'}: doubtful objects cannot be left out of its "
            "losses; use StandardROIHeads without keypoints, or train on what "
            "tools/pseudo_label.py writes"
        )
