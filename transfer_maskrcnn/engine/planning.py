"""The transfer that a config asks for, without a trainer."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.hook import open_source
from transfer_maskrcnn.surgery.plan import TransferPlan, plan_transfer
from transfer_maskrcnn.surgery.source import SourceWeights


def plan_of_config(
    cfg: CfgNode, classes: Sequence[str]
) -> tuple[SourceWeights, nn.Module, TransferPlan]:
    """``MODEL.WEIGHTS``, the model of ``cfg`` as built, and what would move from one to the other.

    Args:
        cfg: with ``MODEL.ROI_HEADS.NUM_CLASSES`` set.
        classes: the target's class names.

    Raises:
        WeightFileError: the file cannot be read.
        ConfigError: ``MODEL.TRANSFER.FREEZE`` names no module, or leaves nothing to train.
    """
    transfer = cfg.MODEL.TRANSFER
    model = build_model(cfg)
    source = open_source(
        cfg.MODEL.WEIGHTS,
        source_classes=transfer.SOURCE_CLASSES,
        trust_pickle=transfer.TRUST_PICKLE,
    )
    plan = plan_transfer(
        source,
        model,
        keep=transfer.KEEP,
        target_classes=classes,
        class_map=transfer.CLASS_MAP,
        new_class_init=transfer.NEW_CLASS_INIT or "default",
    )
    return source, model, plan
