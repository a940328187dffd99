"""From a config file and overrides to a config that fits its datasets and the machine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog

try:
    from detectron2.projects.point_rend import add_pointrend_config
except ImportError:  # not every build of detectron2 brings its projects
    add_pointrend_config = None

from transfer_maskrcnn.config import FOLLOW_DATASET, add_transfer_config, flat_config
from transfer_maskrcnn.data.builtin import register_catalog
from transfer_maskrcnn.engine.loader import training_images
from transfer_maskrcnn.engine.schedule import fit_schedule
from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.incremental.classes import fit_classes
from transfer_maskrcnn.incremental.distillation_hook import check_distillation
from transfer_maskrcnn.incremental.pseudo_labels import check_pseudo_labels
from transfer_maskrcnn.incremental.row_freezing import check_row_freezing

logger = logging.getLogger(__name__)

_WHOLE = "(<class 'float'> vs. <class 'int'>)"
_LIST = "(<class 'tuple'> vs."  # what is expected comes first
_FREE_KIND = "MODEL.TRANSFER.NEW_CLASS_INIT"
_WITHOUT_ROI_HEADS = ("RetinaNet", "FCOS", "SemanticSegmentor", "ProposalNetwork")


def quiet_third_parties() -> None:
    """Hide warnings out of detectron2 and torch that tell a user of this project nothing."""
    for message in ("torch.meshgrid", "The given NumPy array is not writable", "pkg_resources is"):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logging.raiseExceptions = (
        False  # a log.txt on a full disk is no reason for a stack trace a line
    )


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Defaults of detectron2 and this project, then ``config_file``, then ``KEY VALUE`` pairs.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with the nearest right one) or a value
            of the wrong type.
    """
    cfg = get_cfg()
    if add_pointrend_config is not None:
        add_pointrend_config(cfg)
    add_transfer_config(cfg)
    if config_file and not os.path.isfile(config_file):
        raise ConfigError(f"--config-file {config_file}: there is no such file")
    place = config_file
    try:
        if config_file:
            cfg.merge_from_file(config_file)
        place = "command line"
        if _FREE_KIND in opts:  # yacs would not put a list in place of the file's text
            cfg.MODEL.TRANSFER.NEW_CLASS_INIT = None
        if "SOLVER.MAX_ITER" in opts[::2]:  # what is typed wins over the file's EPOCHS
            cfg.SOLVER.EPOCHS = 0.0
        cfg.merge_from_list(list(opts))
    except (KeyError, AssertionError) as error:  # yacs: from a file, and from the command line
        raise ConfigError(_unknown_key(cfg, str(error.args[0]))) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{place} is not valid YAML: {error}") from None
    except (ValueError, FileNotFoundError) as error:
        hint = ". A list is written \"('my_train',)\"" if _LIST in str(error) else ""
        hint = ". Write the number with a point, as 12.0" if _WHOLE in str(error) else hint
        raise ConfigError(f"{place}: {error}{hint}") from None
    if cfg.MODEL.TRANSFER.NEW_CLASS_INIT == "default":
        cfg.MODEL.TRANSFER.NEW_CLASS_INIT = None  # said in one way only, so that runs compare equal
    return cfg


def _unknown_key(cfg: CfgNode, message: str) -> str:
    if "Non-existent" not in message:
        return message  # e.g. a key without a value
    key = message.rpartition(": ")[2]
    known = [*cfg, *(key for key, _ in flat_config(cfg))]
    prefix = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == prefix]
    return f"unknown config key {key!r}{nearest(key, siblings) or nearest(key, known)}"


def fit_config(cfg: CfgNode, *, eval_only: bool = False) -> list[str]:
    """Make ``cfg`` follow its datasets (classes, mask format, schedule) and check it, in place.

    Registers ``DATASETS.CATALOG``, and reads every dataset the run needs, so that what is wrong
    with the last test set is known before the first iteration.

    Returns the model's class names in order: those that its datasets share, or, with
    ``MODEL.TRANSFER.EXTEND``, the source's and then the new ones.

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
    classes = fit_classes(cfg, eval_only=eval_only)
    stated = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if stated not in (FOLLOW_DATASET, len(classes)):
        shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        whose = "the extended model" if cfg.MODEL.TRANSFER.EXTEND else f"dataset {names[0]!r}"
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {stated}, but {whose} has "
            f"{len(classes)} classes ({shown}); leave the key out, it follows the dataset"
        )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    if "POINT_HEAD_ON" in cfg.MODEL.ROI_MASK_HEAD and cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON:
        cfg.INPUT.MASK_FORMAT = "bitmask"  # PointRend reads masks at points, not polygons
    formats = {getattr(MetadataCatalog.get(n), "mask_format", "polygon") for n in names}
    if cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED and not eval_only:
        check_pseudo_labels(cfg)
        formats.add("bitmask")  # as the teacher's masks are
    formats.add(cfg.INPUT.MASK_FORMAT)  # the mapper makes bitmasks of polygons where asked to
    cfg.INPUT.MASK_FORMAT = "bitmask" if "bitmask" in formats else "polygon"
    if "POINT_HEAD" in cfg.MODEL:
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = len(classes)
    if not eval_only:
        _fit_training(cfg)
    return classes


def _fit_training(cfg: CfgNode) -> None:
    check_distillation(cfg)
    images = training_images(cfg)
    if not images:
        raise ConfigError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: every instance is a crowd, and "
            "crowds are not trained on"
        )
    fit_schedule(cfg, images, logger)
    check_row_freezing(cfg)
    _check_points(cfg)


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
