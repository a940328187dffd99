"""From a config to the RunSpec that fits its datasets and the machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.utils import comm

from transfer_maskrcnn.config import FOLLOW_DATASET, RunSpec, Schedule
from transfer_maskrcnn.data.loader import training_images
from transfer_maskrcnn.data.registry import dataset_facts, register_catalog
from transfer_maskrcnn.engine.features import check_features
from transfer_maskrcnn.engine.machine import check_device
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.incremental.classes import fit_classes
from transfer_maskrcnn.modeling.freezing import parse_phases

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
    images = training_images(own)
    if not images:
        raise ConfigError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: every instance is a crowd, and "
            "crowds are not trained on"
        )
    spec = replace(spec, schedule=fit_schedule(own, images))
    own = spec.resolve(cfg)
    _check_points(own)
    check_features(own, spec)
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


def draw_seed() -> int:
    """One that all processes of a run draw together."""
    return int(comm.shared_random_seed() % 2**31)


def fit_schedule(config: CfgNode, train_images: int) -> Schedule:
    """The schedule of ``config`` in iterations of this run, which the log tells.

    First ``SOLVER.REFERENCE_WORLD_SIZE``, see :func:`describe_scaling`; then ``SOLVER.EPOCHS``,
    which sets ``SOLVER.MAX_ITER`` and moves ``SOLVER.STEPS`` to the same shares of it; what else is
    counted in iterations (warm-up, phases, evaluations, checkpoints) stays. A config that
    ``RunSpec.resolve`` has given the outcome gives it again.

    Args:
        config: stays as it is.
        train_images: images of one epoch, at least 1.

    Raises:
        ConfigError: values that cannot be; phases that are longer than the run.
    """
    cfg = config.clone()
    cfg.defrost()
    if cfg.SOLVER.MAX_ITER < 1:
        raise ConfigError(f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; expected at least 1")
    processes = comm.get_world_size()
    logger.info(describe_scaling(cfg, processes))
    _fit_processes(cfg, processes)
    epochs, batch = cfg.SOLVER.EPOCHS, cfg.SOLVER.IMS_PER_BATCH
    if not 0 <= epochs < math.inf:
        raise ConfigError(
            f"SOLVER.EPOCHS is {epochs}; expected 0 (SOLVER.MAX_ITER counts) or a number above it"
        )
    if epochs:
        # 1.1 * 100 is 110.00000000000001: not 111 iterations.
        iterations = max(1, math.ceil(round(epochs * train_images / batch, 6)))
        logger.info(
            "SOLVER.EPOCHS %g of %d images: SOLVER.MAX_ITER %d -> %d, and SOLVER.STEPS with it; "
            "config.yaml holds the outcome, and EPOCHS 0",
            *(epochs, train_images, cfg.SOLVER.MAX_ITER, iterations),
        )
        ratio = iterations / cfg.SOLVER.MAX_ITER
        cfg.SOLVER.STEPS = tuple(max(1, round(step * ratio)) for step in cfg.SOLVER.STEPS)
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.EPOCHS = iterations, 0.0
    _drop_late_steps(cfg)
    parse_phases(cfg.SOLVER.FREEZE_SCHEDULE, cfg.SOLVER.MAX_ITER)
    logger.info(_describe_schedule(cfg, train_images))
    return Schedule.of(cfg)


def describe_scaling(cfg: CfgNode, processes: int) -> str:
    """What detectron2's rule for another number of processes makes of ``cfg``, in one line.

    With ``SOLVER.REFERENCE_WORLD_SIZE`` above 0, batch size and learning rate grow with the number
    of processes, and iterations shrink (https://arxiv.org/abs/1706.02677).

    Args:
        cfg: as configured, before the rule is applied.
        processes: over all machines.

    Raises:
        ConfigError: the batch cannot be split over the reference number of processes.
    """
    reference, before = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER
    counted = f"{processes} process{'es' if processes > 1 else ''}"
    if reference in (0, processes):
        off = "off, " if reference == 0 else ""
        return (
            f"SOLVER.REFERENCE_WORLD_SIZE {reference} ({off}{counted}): batch "
            f"{before.IMS_PER_BATCH} and learning rate {before.BASE_LR:g}, as configured"
        )
    scaled = cfg.clone()
    scaled.defrost()
    _fit_processes(scaled, processes)
    after = scaled.SOLVER
    return (
        f"SOLVER.REFERENCE_WORLD_SIZE {reference}, {counted}: batch {before.IMS_PER_BATCH} -> "
        f"{after.IMS_PER_BATCH}, learning rate {before.BASE_LR:g} -> {after.BASE_LR:g}, iterations "
        f"{before.MAX_ITER} -> {after.MAX_ITER}"
    )


def _fit_processes(cfg: CfgNode, processes: int) -> None:
    """As ``DefaultTrainer.auto_scale_workers``, which does not know the keys of this project."""
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference in (0, processes):
        return
    if reference < 0 or batch % reference:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} cannot be split over SOLVER.REFERENCE_WORLD_SIZE "
            f"{reference}; expected a multiple of it, or REFERENCE_WORLD_SIZE 0 (off)"
        )
    cfg.SOLVER.IMS_PER_BATCH = batch // reference * processes
    cfg.SOLVER.BASE_LR *= processes / reference
    _stretch(cfg, max(1, round(cfg.SOLVER.MAX_ITER * reference / processes)))
    cfg.SOLVER.REFERENCE_WORLD_SIZE = processes


def _drop_late_steps(cfg: CfgNode) -> None:
    """A step at or after the end changes nothing, and detectron2's scheduler refuses it."""
    last = cfg.SOLVER.MAX_ITER
    late = [step for step in cfg.SOLVER.STEPS if step >= last]
    if late:
        cfg.SOLVER.STEPS = tuple(step for step in cfg.SOLVER.STEPS if step < last)
        if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
            logger.warning("SOLVER.STEPS %s come after SOLVER.MAX_ITER %d: left out", late, last)


def _stretch(cfg: CfgNode, max_iter: int) -> None:
    """Set ``SOLVER.MAX_ITER``, and move everything that is counted in iterations with it."""
    solver, test = cfg.SOLVER, cfg.TEST
    ratio = max_iter / solver.MAX_ITER

    def scaled(iterations: int) -> int:
        return max(1, round(iterations * ratio)) if iterations > 0 else iterations

    solver.STEPS = tuple(map(scaled, solver.STEPS))
    solver.WARMUP_ITERS = scaled(solver.WARMUP_ITERS)
    solver.CHECKPOINT_PERIOD = scaled(solver.CHECKPOINT_PERIOD)
    test.EVAL_PERIOD = scaled(test.EVAL_PERIOD)
    test.EVAL_ITERS = sorted(set(map(scaled, test.EVAL_ITERS)))
    phases, begin, end = [], 0, 0
    for (
        iterations,
        spec,
    ) in solver.FREEZE_SCHEDULE:  # by their ends, so that their sum keeps its share
        end += iterations
        phases.append([max(1, scaled(end) - begin), spec])
        begin += phases[-1][0]
    solver.FREEZE_SCHEDULE = phases
    solver.MAX_ITER = max_iter


def _describe_schedule(cfg: CfgNode, train_images: int) -> str:
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / train_images
    rate = f"learning rate {solver.BASE_LR:g}"
    if solver.WARMUP_ITERS > 0:
        rate += f", warmed up over {solver.WARMUP_ITERS}"
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [str(step) for step in solver.STEPS if step < solver.MAX_ITER]
        rate += f", times {solver.GAMMA:g} after {', '.join(steps)}" if steps else ", constant"
    else:
        rate += f", {solver.LR_SCHEDULER_NAME}"
    return (
        f"schedule: {solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, {epochs:.3g} "
        f"epochs of {train_images}; {rate}"
    )
