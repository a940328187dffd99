"""From a config to the RunSpec that fits its datasets and the machine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from detectron2.config import CfgNode

from transfer_maskrcnn.config import FOLLOW_DATASET, RunSpec
from transfer_maskrcnn.data.registry import dataset_facts, register_catalog
from transfer_maskrcnn.engine.loader import training_images
from transfer_maskrcnn.engine.rng import draw_seed
from transfer_maskrcnn.engine.schedule import fit_schedule
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.incremental.classes import fit_classes
from transfer_maskrcnn.incremental.distillation import check_distillation
from transfer_maskrcnn.incremental.pseudo_labels import check_pseudo_labels
from transfer_maskrcnn.incremental.row_freezing import check_row_freezing

logger = logging.getLogger(__name__)

_WITHOUT_ROI_HEADS = ("RetinaNet", "FCOS", "SemanticSegmentor", "ProposalNetwork")


def quiet_third_parties() -> None:
    """Hide warnings out of detectron2 and torch that tell a user of this project nothing."""
    for message in ("torch.meshgrid", "The given NumPy array is not writable", "pkg_resources is"):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logging.raiseExceptions = (
        False  # a log.txt on a full disk is no reason for a stack trace a line
    )


def fit_config(cfg: CfgNode, *, eval_only: bool = False, seed: int | None = None) -> RunSpec:
    """What ``cfg`` leaves to its datasets and to this run; ``cfg`` itself stays as it is.

    Registers ``DATASETS.CATALOG``, and reads every dataset the run needs, so that what is wrong
    with the last test set is known before the first iteration.

    Args:
        seed: of a config without one; None: one is drawn, in all processes the same.

    Raises:
        ConfigError, DatasetError: what does not fit, and how to mend it.
    """
    if cfg.MODEL.META_ARCHITECTURE in _WITHOUT_ROI_HEADS:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no ROI heads; expected "
            "GeneralizedRCNN, as in configs/Base-Transfer-RCNN-FPN.yaml"
        )
    if cfg.DATASETS.CATALOG:
        register_catalog(cfg.DATASETS.CATALOG)
    check_device(cfg.MODEL.DEVICE)
    names = list(cfg.DATASETS.TEST) if eval_only else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names or not (eval_only or cfg.DATASETS.TRAIN):
        key = "DATASETS.TEST" if eval_only else "DATASETS.TRAIN"
        raise ConfigError(f"{key} names no dataset; for example {key} \"('balloon_train',)\"")
    classes, tasks = fit_classes(cfg, eval_only=eval_only)
    _check_number(cfg, classes, names[0])
    if cfg.SEED >= 0:
        seed = cfg.SEED
    spec = RunSpec(
        classes=tuple(classes),
        tasks=tuple(tasks),
        seed=draw_seed() if seed is None else seed,
        mask_format=_mask_format(cfg, names, eval_only),
    )
    return spec if eval_only else _fit_training(cfg, spec)


def _check_number(cfg: CfgNode, classes: Sequence[str], dataset: str) -> None:
    stated = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if stated not in (FOLLOW_DATASET, len(classes)):
        shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        whose = "the extended model" if cfg.MODEL.TRANSFER.EXTEND else f"dataset {dataset!r}"
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {stated}, but {whose} has "
            f"{len(classes)} classes ({shown}); leave the key out, it follows the dataset"
        )


def _mask_format(cfg: CfgNode, names: Sequence[str], eval_only: bool) -> str:
    """The mapper makes bitmasks of polygons where asked to, and not the other way round."""
    formats: set[str] = {dataset_facts(name).mask_format for name in names}
    formats.add(cfg.INPUT.MASK_FORMAT)
    points = cfg.MODEL.ROI_MASK_HEAD.get("POINT_HEAD_ON")  # PointRend reads masks at points
    labelled = cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED and not eval_only  # as the teacher's are
    return "bitmask" if "bitmask" in formats or points or labelled else "polygon"


def _fit_training(cfg: CfgNode, spec: RunSpec) -> RunSpec:
    own = spec.resolve(cfg)
    if own.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED:
        check_pseudo_labels(own, spec)
    check_distillation(own)
    images = training_images(own)
    if not images:
        raise ConfigError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: every instance is a crowd, and "
            "crowds are not trained on"
        )
    spec = replace(spec, schedule=fit_schedule(own, images, logger))
    own = spec.resolve(cfg)
    check_row_freezing(own, spec)
    _check_points(own)
    return spec


def _check_points(cfg: CfgNode) -> None:
    last = cfg.SOLVER.MAX_ITER
    wrong = [i for i in cfg.TEST.EVAL_ITERS if type(i) is not int or not 0 <= i <= last]
    if wrong:
        raise ConfigError(
            f"TEST.EVAL_ITERS holds {wrong[0]!r}; expected whole numbers from 0 to SOLVER.MAX_ITER "
            f"({last})"
        )
    if cfg.TEST.VAL_LOSS and not cfg.DATASETS.TEST:
        raise ConfigError("TEST.VAL_LOSS True: DATASETS.TEST names no dataset to measure it on")


def check_device(device: str) -> None:
    """Say in one line where the model runs.

    Raises:
        ConfigError: CUDA is asked for where there is none.
    """
    if not device.startswith("cuda"):
        logger.info("MODEL.DEVICE %s (%d threads)", device, torch.get_num_threads())
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {device!r}, but torch {torch.__version__} sees no CUDA device; "
            "use MODEL.DEVICE cpu, or install the driver and a CUDA build of torch"
        )
    logger.info("MODEL.DEVICE %s (%s)", device, torch.cuda.get_device_name(device))
