"""MODEL.WEIGHTS of an extended model: what is kept of it is known by class name."""

from __future__ import annotations

from collections import Counter

from detectron2.config import CfgNode

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.classes import shown
from transfer_maskrcnn.surgery.hook import open_source
from transfer_maskrcnn.surgery.source import SourceWeights


def open_named_source(cfg: CfgNode) -> SourceWeights:
    """MODEL.WEIGHTS with its class names, which stand in the file or in the config.

    Raises:
        ConfigError: neither names them, a name stands there twice, or there are more or fewer than
            the classifier has rows.
        WeightFileError: the file cannot be read, or config and file name different classes.
    """
    weights, transfer = cfg.MODEL.WEIGHTS, cfg.MODEL.TRANSFER
    source = open_source(
        weights, source_classes=transfer.SOURCE_CLASSES, trust_pickle=transfer.TRUST_PICKLE
    )
    classes = source.classes
    if not classes:
        raise ConfigError(
            f"MODEL.TRANSFER.EXTEND needs the class names of MODEL.WEIGHTS {weights!r}, which does "
            "not carry them; set MODEL.TRANSFER.SOURCE_CLASSES to its names in order, "
            "or to a registered dataset's name (['coco_2017_val'] for COCO)"
        )
    _check_source_names(source, weights)
    return source


def _check_source_names(source: SourceWeights, weights: str) -> None:
    names = list(source.classes or ())
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    if twice:
        raise ConfigError(
            f"MODEL.WEIGHTS {weights!r} has several classes named {shown(twice)}, and classes are "
            "told apart by name; set MODEL.TRANSFER.SOURCE_CLASSES with '' for rows without a class"
        )
    score = source.tensors.get("roi_heads.box_predictor.cls_score.weight")
    if score is not None and len(score) != len(names) + 1:
        raise ConfigError(
            f"MODEL.WEIGHTS {weights!r} has a classifier of {len(score) - 1} classes, and "
            f"{len(names)} names ({shown(names, 4)}); correct MODEL.TRANSFER.SOURCE_CLASSES: one "
            "name a row, in order, '' for a row without a class"
        )
