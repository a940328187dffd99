"""The source model as it was before a run: an extended model is measured against it.

It stands apart from the trainer, so that whatever prepares training data may build one, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.config import flat_config
from transfer_maskrcnn.engine.rng import seeded
from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.incremental.named_source import open_named_source
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.extended_scores import generations_of
from transfer_maskrcnn.modeling.precision import describe_precision
from transfer_maskrcnn.surgery.apply import apply_plan
from transfer_maskrcnn.surgery.parts import part_of
from transfer_maskrcnn.surgery.plan import TransferPlan, plan_transfer
from transfer_maskrcnn.surgery.source import SourceWeights

_COSINE = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
_TEST_KEYS = (
    *("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    "TEST.DETECTIONS_PER_IMAGE",
)
# Of the extended model, of training, or, as the digest of the weights, known otherwise.
_OTHER_KEYS = (
    *("MODEL.TRANSFER.", "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.BACKBONE.FREEZE_AT"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.POINT_HEAD.NUM_CLASSES", _COSINE),
)


def build_source_model(cfg: CfgNode) -> tuple[nn.Module, list[str]]:
    """The model of ``MODEL.WEIGHTS`` with its own classes and weights, to evaluate or to teach.

    Args:
        cfg: of an extended run, fitted or not; stays as it is. Input, architecture, test settings
            and device are taken from it.

    Returns:
        the model on its device, in eval mode, no parameter of which requires a gradient; and its
        class names in the order of its rows, "" for a row without a class.

    Raises:
        ConfigError: nobody knows the class names.
        WeightFileError: the file cannot be read.
        TransferPlanError: it is not a whole model of this config.
    """
    source = open_named_source(cfg)
    names = list(source.classes or ())
    own = source_config(cfg, source)
    with seeded(0):  # what it draws is overwritten; the run's own draws stay what they are
        model = build_model(own)
    _load(model, source, strict=cfg.MODEL.TRANSFER.STRICT)
    return model.requires_grad_(False).eval(), names


def detection_settings(cfg: CfgNode) -> list[Any]:
    """All but the weights and the images that the source model's detections depend on."""
    keys = {
        key: value
        for key, value in flat_config(cfg)
        if key in _TEST_KEYS or (key.startswith("MODEL.") and not key.startswith(_OTHER_KEYS))
    }
    return [keys, describe_precision(cfg), torch.device(cfg.MODEL.DEVICE).type]


def source_config(cfg: CfgNode, source: SourceWeights) -> CfgNode:
    """A copy of ``cfg`` that is of the source model: its classes, its classifier, no transfer."""
    own = cfg.clone()
    own.defrost()
    own.MODEL.ROI_HEADS.NUM_CLASSES = len(source.classes or ())
    if "POINT_HEAD" in own.MODEL:
        own.MODEL.POINT_HEAD.NUM_CLASSES = len(source.classes or ())
    trained_with = (source.metadata or {}).get("config") or {}
    own.MODEL.ROI_BOX_HEAD.COSINE_SCALE = float(trained_with.get(_COSINE, 0.0))
    own.MODEL.TRANSFER.update(EXTEND=False, CLASSES=[], FREEZE="", DISTILLATION=0.0)
    own.MODEL.TRANSFER.GENERATIONS = generations_of(source.metadata)
    own.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED = False
    return own


def _load(model: nn.Module, source: SourceWeights, strict: bool) -> None:
    """Every tensor from the file; rows keep their places, whatever their classes are called."""
    rows = tuple(str(place) for place in range(len(source.classes or ())))
    numbered = replace(source, classes=rows)
    plan = plan_transfer(numbered, model, keep="class_rows", target_classes=rows)
    plan.check(strict)
    lacking = _lacking(plan)
    if lacking:
        raise TransferPlanError(
            f"MODEL.WEIGHTS {source.path} is not a whole model of this config with its "
            f"{len(rows)} classes: {len(lacking)} tensors would stay random (first: {lacking[0]}). "
            "EXTEND needs a trained Mask R-CNN; use the architecture keys that it was trained with"
        )
    apply_plan(plan, numbered, model)


def _lacking(plan: TransferPlan) -> list[str]:
    """The model's tensors that are learnt and stay as built."""
    return [
        tensor.target
        for tensor in plan.tensors
        if tensor.target is not None
        and tensor.fate == "initialised"
        and tensor.parameters
        and part_of(tensor.target) != "settings"
    ]
