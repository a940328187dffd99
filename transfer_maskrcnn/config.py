"""The configuration keys this project adds to detectron2's."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

FOLLOW_DATASET = -1


def add_transfer_config(cfg: CfgNode) -> None:
    """Add this project's keys, and the defaults it changes, to a detectron2 ``cfg`` in place."""
    # A YAML file that declares more datasets (its form: transfer_maskrcnn/data/catalog.yaml); paths
    # in it are relative to it. "": built-in names only.
    cfg.DATASETS.CATALOG = ""

    cfg.MODEL.TRANSFER = CfgNode()
    # False: MODEL.WEIGHTS is loaded as stock detectron2 does, by name and shape.
    cfg.MODEL.TRANSFER.ENABLED = True
    # What is taken from MODEL.WEIGHTS, from least to most: structure | backbone | backbone_fpn |
    # backbone_fpn_rpn | all_but_predictors | class_rows; or module prefixes, comma-separated.
    cfg.MODEL.TRANSFER.KEEP = "all_but_predictors"
    # True: a transfer that would not do what the config says is an error; False: a warning.
    cfg.MODEL.TRANSFER.STRICT = True
    # Class names of MODEL.WEIGHTS where the file does not carry them: names, or one dataset's name.
    cfg.MODEL.TRANSFER.SOURCE_CLASSES = []
    # [source class, target class] pairs that class_rows matches beside equal names.
    cfg.MODEL.TRANSFER.CLASS_MAP = []
    # Rows of classes that no source class matches: "default" (as detectron2 initialises),
    # "mean" (of all source rows), or the name of a source class.
    cfg.MODEL.TRANSFER.NEW_CLASS_INIT = "default"
    # True: unpickle MODEL.WEIGHTS without restriction. It can run any code: for files you made.
    cfg.MODEL.TRANSFER.TRUST_PICKLE = False

    cfg.MODEL.ROI_HEADS.NUM_CLASSES = FOLLOW_DATASET
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
