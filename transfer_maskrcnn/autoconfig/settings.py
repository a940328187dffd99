"""From a CfgNode to the plain values that the doctor and the fitting of configs read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from transfer_maskrcnn.doctor.anchors import Settings
from transfer_maskrcnn.errors import ConfigError


def settings_of(cfg: CfgNode) -> Settings:
    """What of ``cfg`` decides how a dataset fits it. Reads no dataset and no weights.

    Raises:
        ConfigError: RPN.IN_FEATURES that the backbone lacks; anchors for another number of levels.
    """
    strides = _strides(cfg)
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    return Settings(
        min_size_train=tuple(cfg.INPUT.MIN_SIZE_TRAIN),
        size_sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        max_size_train=cfg.INPUT.MAX_SIZE_TRAIN,
        min_size_test=cfg.INPUT.MIN_SIZE_TEST,
        max_size_test=cfg.INPUT.MAX_SIZE_TEST,
        anchor_sizes=_rows(anchors.SIZES, len(strides), "SIZES"),
        aspect_ratios=_rows(anchors.ASPECT_RATIOS, len(strides), "ASPECT_RATIOS"),
        strides=strides,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        proposals_test=cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        repeat_imbalance=cfg.DATALOADER.REPEAT_IMBALANCE,
    )


def _strides(cfg: CfgNode) -> tuple[int, ...]:
    with torch.device("meta"):  # shapes alone: no memory, no time, no random number
        shapes = build_backbone(cfg).output_shape()
    for name in cfg.MODEL.RPN.IN_FEATURES:
        if name not in shapes:
            raise ConfigError(
                f"MODEL.RPN.IN_FEATURES names {name!r}; the backbone has {', '.join(shapes)}"
            )
    return tuple(shapes[name].stride for name in cfg.MODEL.RPN.IN_FEATURES)


def _rows(
    values: Sequence[Sequence[float]], levels: int, key: str
) -> tuple[tuple[float, ...], ...]:
    """One row a level, as detectron2 broadcasts them."""
    rows = values if isinstance(values[0], Sequence) else [values]
    if len(rows) not in (1, levels):
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.{key} has {len(rows)} rows; expected 1, or {levels}: one for "
            "each of MODEL.RPN.IN_FEATURES"
        )
    rows = list(rows) * levels if len(rows) == 1 else rows
    return tuple(tuple(float(value) for value in row) for row in rows)
