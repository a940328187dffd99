"""The configuration keys this project adds to detectron2's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode

FOLLOW_DATASET = -1


def add_transfer_config(cfg: CfgNode) -> None:
    """Add this project's keys, and the defaults it changes, to a detectron2 ``cfg`` in place."""
    # A YAML file that declares more datasets (its form: transfer_maskrcnn/data/catalog.yaml); paths
    # in it are relative to it. "": built-in names only.
    cfg.DATASETS.CATALOG = ""

    # Sets of the source's classes, beside DATASETS.TEST, with MODEL.TRANSFER.EXTEND: the source
    # model is evaluated on them once, and how much the run has forgotten is told.
    cfg.DATASETS.TEST_SOURCE = ()

    cfg.MODEL.TRANSFER = _transfer_keys()
    # Above 0: classes are scored by the cosine between features and their rows, times this (TFA,
    # https://arxiv.org/abs/2003.06957, has 20); 0: detectron2's linear layer.
    cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE = 0.0

    # Share of the training images that is used, above 0 to 1: a subset that keeps the classes'
    # proportions, drawn from SEED; of one seed, a smaller one lies within a larger one.
    cfg.DATASETS.TRAIN_FRACTION = 1.0
    # How many times more instances the most frequent class may have than the rarest before images
    # of rare classes are drawn more often (with SAMPLER_TRAIN TrainingSampler); 0: never.
    cfg.DATALOADER.REPEAT_IMBALANCE = 10.0

    # [iterations, FREEZE] pairs to begin with: what is frozen for so many iterations, beside
    # MODEL.TRANSFER.FREEZE; e.g. [[200, "all_but_predictors"], [200, "backbone"]].
    cfg.SOLVER.FREEZE_SCHEDULE = []
    # [part or module prefix, factor] pairs: SOLVER.BASE_LR times factor, the last that fits wins.
    cfg.SOLVER.LR_MULTIPLIERS = []
    # L2-SP (https://arxiv.org/abs/1802.01483): above 0, transferred weights are pulled with this
    # strength towards where they started, in place of WEIGHT_DECAY towards zero.
    cfg.SOLVER.L2_SP = 0.0
    # Above 0: evaluation and the exported model use an exponential moving average of the weights.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Above 0: MAX_ITER becomes so many passes over the training images, and STEPS the same shares
    # of it; all else that is counted in iterations stays. A MAX_ITER on the command line wins.
    cfg.SOLVER.EPOCHS = 0.0

    # Iterations after which to evaluate, beside EVAL_PERIOD's; 0 evaluates the starting point.
    cfg.TEST.EVAL_ITERS = []
    # True: every evaluation also measures the training losses on DATASETS.TEST.
    cfg.TEST.VAL_LOSS = False
    # The figure of an evaluation ("segm/AP", "bbox/AP50", "val_loss" ...) whose best checkpoint is
    # kept as model_best.pth, and which EARLY_STOPPING follows; "" keeps none.
    cfg.TEST.BEST_METRIC = ""
    # Above 0: training ends after so many evaluations in a row without a better BEST_METRIC.
    cfg.TEST.EARLY_STOPPING = 0

    cfg.MODEL.ROI_HEADS.NUM_CLASSES = FOLLOW_DATASET
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def flat_config(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config in its dotted form, with its value."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _transfer_keys() -> CfgNode:
    """``MODEL.TRANSFER``: what is taken from MODEL.WEIGHTS, and what becomes of it."""
    keys = CfgNode()
    # False: MODEL.WEIGHTS is loaded as stock detectron2 does, by name and shape.
    keys.ENABLED = True
    # What is taken from MODEL.WEIGHTS, from least to most: random_init | backbone | backbone_fpn |
    # backbone_fpn_rpn | all_but_predictors | class_rows; or module prefixes, comma-separated.
    keys.KEEP = "all_but_predictors"
    # True: a transfer that would not do what the config says is an error; False: a warning.
    keys.STRICT = True
    # Class names of MODEL.WEIGHTS where the file does not carry them: names, or one dataset's name.
    keys.SOURCE_CLASSES = []
    # [source class, target class] pairs that class_rows matches beside equal names. One source may
    # serve several targets (a class that was split); a target of several sources (classes that
    # were merged) gets the mean of their rows.
    keys.CLASS_MAP = []
    # Rows of classes that no source class matches: None or "default" (as detectron2 initialises),
    # "mean" (of all source rows), or the name of a source class; or [new class, one of these]
    # pairs. A pair wins over CLASS_MAP: it names one parent of a merged class.
    keys.NEW_CLASS_INIT = None
    # True, with KEEP class_rows: the model's classes are the source's and then the new ones of
    # DATASETS.TRAIN, matched by name; every row of the source is kept.
    keys.EXTEND = False
    # The class names that EXTEND has led to; filled in by fit_config, whatever stands here.
    keys.CLASSES = []
    # How many of CLASSES the first model had, and how many each extension added; filled in, too. A
    # class is scored among those that were there before it, or came with it.
    keys.GENERATIONS = []
    # True: unpickle MODEL.WEIGHTS without restriction. It can run any code: for files you made.
    keys.TRUST_PICKLE = False

    # Parts that keep their weights for the whole run, as in KEEP's presets ("backbone_fpn" ...), or
    # module prefixes, comma-separated; "" freezes nothing beside MODEL.BACKBONE.FREEZE_AT. With
    # EXTEND, "all_but_new_rows" leaves only the rows of new classes to train.
    keys.FREEZE = ""

    keys.PSEUDO_LABELS = _pseudo_label_keys()
    # Above 0, with EXTEND: a loss of this weight keeps what the model says of the source's classes
    # close to what the source says.
    keys.DISTILLATION = 0.0

    # Whether what frozen layers make of an image is kept and not computed again: "auto" where it
    # pays (in memory, what does not fit in files under OUTPUT_DIR), "memory", "disk" or "off".
    keys.CACHE_FEATURES = "auto"
    return keys


def _pseudo_label_keys() -> CfgNode:
    """``MODEL.TRANSFER.PSEUDO_LABELS``: old objects in new images that nobody annotated."""
    keys = CfgNode()
    # True, with EXTEND: MODEL.WEIGHTS labels its classes on the training images, before training;
    # classes that DATASETS.TRAIN annotates are left to its annotations.
    keys.ENABLED = False
    # A detection of at least this score becomes ground truth; where CALIBRATION_SET is named, each class
    # has a score of its own, and this is that of classes of which the set says too little.
    keys.SCORE = 0.7
    # Below that, and of at least this score, it is doubtful: no loss depends on whether it is real.
    keys.IGNORE_SCORE = 0.1
    # A dataset in which source classes are annotated (neither trained nor tested on): the score of
    # each class is the lowest that is right in this share of its detections there.
    keys.CALIBRATION_SET = ""
    keys.TARGET_PRECISION = 0.8
    return keys
