"""From a config to the RunSpec that fits its datasets and the machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from transfer_maskrcnn.config import FOLLOW_DATASET, RunSpec, Schedule
from transfer_maskrcnn.data.loader import training_images
from transfer_maskrcnn.data.registry import dataset_facts, register_catalogs
from transfer_maskrcnn.engine.features import check_features
from transfer_maskrcnn.engine.manifest import check_device
from transfer_maskrcnn.errors import ConfigError, nearest, refuse
from transfer_maskrcnn.incremental.classes import EXTENSION_KEY
from transfer_maskrcnn.modeling.freezing import parse_phases
from transfer_maskrcnn.text import few, quoted

logger = logging.getLogger(__name__)

_WITHOUT_ROI_HEADS = ("RetinaNet", "FCOS", "SemanticSegmentor", "ProposalNetwork")


def fit_config(cfg: CfgNode, *, eval_only: bool = False, seed: int | None = None) -> RunSpec:
    """What ``cfg`` leaves to its datasets and to this run; ``cfg`` itself stays as it is.

    Registers ``DATASETS.CATALOG``, and reads every dataset the run needs, so that what is wrong
    with the last test set is known before the first iteration.

    Args:
        seed: of a config without one; None: one is drawn, in all processes the same.

    Raises:
        ConfigError, DatasetError: what does not fit, and how to mend it.
    """
    register_catalogs(cfg.DATASETS.CATALOG)
    check_device(cfg.MODEL.DEVICE)
    names = list(cfg.DATASETS.TEST) if eval_only else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    key = "DATASETS.TEST" if eval_only else "DATASETS.TRAIN"
    refuse(
        (
            cfg.MODEL.META_ARCHITECTURE in _WITHOUT_ROI_HEADS,
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no ROI heads; expected "
            "GeneralizedRCNN, as in configs/Base-Transfer-RCNN-FPN.yaml",
        ),
        (
            not names or not (eval_only or cfg.DATASETS.TRAIN),
            f"{key} names no dataset; for example {key} \"('balloon_train',)\"",
        ),
    )
    classes, tasks = _fit_classes(cfg, eval_only)
    _check_number(cfg, classes, names[0])
    seed = cfg.SEED if cfg.SEED >= 0 else seed
    spec = RunSpec(
        classes=tuple(classes),
        tasks=tuple(tasks),
        seed=draw_seed() if seed is None else seed,
        mask_format=_mask_format(cfg, names, eval_only),
    )
    if eval_only:
        return spec
    images = training_images(spec.resolve(cfg))
    if not images:
        raise ConfigError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: every instance is a crowd, and "
            "crowds are not trained on"
        )
    spec = replace(spec, schedule=fit_schedule(cfg, images))
    own = spec.resolve(cfg)
    _check_evaluations(own)
    check_features(own, spec)
    return spec


def _fit_classes(cfg: CfgNode, eval_only: bool) -> tuple[list[str], list[int]]:
    """The model's class names for the datasets of ``cfg``, and its tasks; see ``RunSpec``."""
    names = [*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST]
    extend, base = cfg.MODEL.TRANSFER.EXTEND, cfg.DATASETS.TEST_BASE
    if base and not extend:
        raise ConfigError(
            f"DATASETS.TEST_BASE names {quoted(base)} to tell what a model "
            "forgot of its source's classes, but MODEL.TRANSFER.EXTEND is False, so it does not "
            "keep them; set EXTEND True with KEEP class_rows, or leave TEST_BASE empty"
        )
    names += base
    for name in names:
        check_dataset(name)
    if not extend:
        return common_classes(names), []
    from transfer_maskrcnn.incremental.classes import fit_extended

    return fit_extended(cfg, names, None if eval_only else common_classes(cfg.DATASETS.TRAIN))


def check_dataset(name: str) -> None:
    """Load a registered dataset.

    Raises:
        ConfigError: there is none of that name, it holds no instance, or its name is taken.
    """
    refuse(
        (
            name == EXTENSION_KEY,
            f"a dataset is named {name!r}, which in evaluation.json is the place of what extended "
            "models know of base and novel classes; give it another name",
        ),
        (
            name not in DatasetCatalog,
            f"no dataset is registered as {name!r} (one of your own is declared in the YAML "
            f"file that DATASETS.CATALOG names){nearest(name, DatasetCatalog.list())}",
        ),
    )
    refuse(
        (
            not any(record.get("annotations") for record in DatasetCatalog.get(name)),
            f"dataset {name!r} holds no instance: nothing to learn or to score",
        ),
        (
            not MetadataCatalog.get(name).get("thing_classes"),
            f"dataset {name!r} has no thing_classes in its metadata",
        ),
    )


def common_classes(names: Sequence[str]) -> list[str]:
    """The class names all of ``names`` share, in their order."""
    first = list(MetadataCatalog.get(names[0]).thing_classes)
    for name in names:
        classes = list(MetadataCatalog.get(name).thing_classes)
        if classes != first:
            raise ConfigError(
                f"datasets {names[0]!r} and {name!r} name different classes:\n"
                f"  {names[0]}: {first}\n  {name}: {classes}\n"
                "State the same `classes`, in the same order, where both are declared"
            )
    return first


def _check_number(cfg: CfgNode, classes: Sequence[str], dataset: str) -> None:
    stated = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if stated not in (FOLLOW_DATASET, len(classes)):
        whose = "the extended model" if cfg.MODEL.TRANSFER.EXTEND else f"dataset {dataset!r}"
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {stated}, but {whose} has "
            f"{len(classes)} classes ({few(classes, 8)}); leave the key out, it follows the dataset"
        )


def _mask_format(cfg: CfgNode, names: Sequence[str], eval_only: bool) -> str:
    """The mapper makes bitmasks of polygons where asked to, and not the other way round."""
    points = cfg.MODEL.ROI_MASK_HEAD.get("POINT_HEAD_ON")  # PointRend reads masks at points
    labelled = cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED and not eval_only  # as the teacher's are
    formats = {cfg.INPUT.MASK_FORMAT, *(dataset_facts(name).mask_format for name in names)}
    return "bitmask" if "bitmask" in formats or points or labelled else "polygon"


def _check_evaluations(cfg: CfgNode) -> None:
    last = cfg.SOLVER.MAX_ITER
    wrong = [repr(i) for i in cfg.TEST.EVAL_ITERS if type(i) is not int or not 0 <= i <= last]
    refuse(
        (
            wrong,
            f"TEST.EVAL_ITERS holds {few(wrong, 1)}; expected whole numbers from 0 to "
            f"SOLVER.MAX_ITER ({last})",
        ),
        (
            cfg.TEST.VAL_LOSS and not cfg.DATASETS.TEST,
            "TEST.VAL_LOSS True: DATASETS.TEST names no dataset to measure it on",
        ),
    )


def draw_seed() -> int:
    """One that all processes of a run draw together."""
    return int(comm.shared_random_seed() % 2**31)


def fit_schedule(cfg: CfgNode, train_images: int) -> Schedule:
    """The schedule of ``cfg`` in iterations of this run, which the log tells.

    First ``SOLVER.REFERENCE_WORLD_SIZE``: above 0, batch size and learning rate grow with the
    number of processes, and iterations shrink (https://arxiv.org/abs/1706.02677); then
    ``SOLVER.EPOCHS``, which sets ``SOLVER.MAX_ITER`` and moves ``SOLVER.STEPS`` to the same shares
    of it; what else is counted in iterations (warm-up, phases, evaluations, checkpoints) stays. A
    config that ``RunSpec.resolve`` has given the outcome gives it again.

    Args:
        train_images: images of one epoch, at least 1.

    Raises:
        ConfigError: values that cannot be; phases that are longer than the run.
    """
    own, epochs = Schedule.of(cfg), cfg.SOLVER.EPOCHS
    refuse(
        (own.max_iter < 1, f"SOLVER.MAX_ITER is {own.max_iter}; expected at least 1"),
        (
            not 0 <= epochs < math.inf,
            f"SOLVER.EPOCHS is {epochs}; expected 0 (SOLVER.MAX_ITER counts) or a number above it",
        ),
    )
    own = _fit_processes(own, comm.get_world_size())
    if epochs:
        # 1.1 * 100 is 110.00000000000001: not 111 iterations.
        iterations = max(1, math.ceil(round(epochs * train_images / own.ims_per_batch, 6)))
        logger.info(
            "SOLVER.EPOCHS %g of %d images: SOLVER.MAX_ITER %d -> %d, and SOLVER.STEPS with it; "
            "config.yaml holds the outcome, and EPOCHS 0",
            *(epochs, train_images, own.max_iter, iterations),
        )
        steps = tuple(max(1, round(step * (iterations / own.max_iter))) for step in own.steps)
        own = replace(own, max_iter=iterations, steps=steps)
    # a step at or after the end changes nothing, and detectron2's scheduler refuses it
    late = [step for step in own.steps if step >= own.max_iter]
    if late and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        logger.warning(
            "SOLVER.STEPS %s come after SOLVER.MAX_ITER %d: left out", late, own.max_iter
        )
    own = replace(own, steps=tuple(step for step in own.steps if step < own.max_iter))
    parse_phases(own.freeze_schedule, own.max_iter)
    logger.info(_describe_schedule(cfg, own, train_images))
    return own


def _fit_processes(own: Schedule, processes: int) -> Schedule:
    """As ``DefaultTrainer.auto_scale_workers``, which does not know the keys of this project."""
    reference, batch = own.reference_world_size, own.ims_per_batch
    counted = f"{processes} process{'es' if processes > 1 else ''}"
    if reference in (0, processes):
        logger.info(
            "SOLVER.REFERENCE_WORLD_SIZE %d (%s%s): batch %d and learning rate %g, as configured",
            *(reference, "" if reference else "off, ", counted, batch, own.base_lr),
        )
        return own
    if reference < 0 or batch % reference:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} cannot be split over SOLVER.REFERENCE_WORLD_SIZE "
            f"{reference}; expected a multiple of it, or REFERENCE_WORLD_SIZE 0 (off)"
        )
    scaled = _stretched(own, max(1, round(own.max_iter * reference / processes)))
    scaled = replace(
        scaled,
        ims_per_batch=batch // reference * processes,
        base_lr=own.base_lr * (processes / reference),
        reference_world_size=processes,
    )
    logger.info(
        "SOLVER.REFERENCE_WORLD_SIZE %d, %s: batch %d -> %d, learning rate %g -> %g, iterations "
        "%d -> %d",
        *(reference, counted, batch, scaled.ims_per_batch, own.base_lr, scaled.base_lr),
        *(own.max_iter, scaled.max_iter),
    )
    return scaled


def _stretched(own: Schedule, max_iter: int) -> Schedule:
    """With so many iterations, and everything that is counted in iterations moved with them."""
    ratio = max_iter / own.max_iter

    def scaled(iterations: int) -> int:
        return max(1, round(iterations * ratio)) if iterations > 0 else iterations

    phases, begin, end = [], 0, 0
    for iterations, spec in own.freeze_schedule:  # by their ends: their sum keeps its share
        end += iterations
        phases.append([max(1, scaled(end) - begin), spec])
        begin += phases[-1][0]
    return replace(
        own,
        max_iter=max_iter,
        steps=tuple(map(scaled, own.steps)),
        warmup_iters=scaled(own.warmup_iters),
        checkpoint_period=scaled(own.checkpoint_period),
        freeze_schedule=phases,
        eval_period=scaled(own.eval_period),
        eval_iters=sorted(set(map(scaled, own.eval_iters))),
    )


def _describe_schedule(cfg: CfgNode, own: Schedule, train_images: int) -> str:
    warmed_up = f", warmed up over {own.warmup_iters}" if own.warmup_iters > 0 else ""
    changes = f", {cfg.SOLVER.LR_SCHEDULER_NAME}"
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = ", ".join(map(str, own.steps))
        changes = f", times {cfg.SOLVER.GAMMA:g} after {steps}" if steps else ", constant"
    epochs = own.max_iter * own.ims_per_batch / train_images
    return (
        f"schedule: {own.max_iter} iterations of {own.ims_per_batch} images, {epochs:.3g} epochs "
        f"of {train_images}; learning rate {own.base_lr:g}{warmed_up}{changes}"
    )
