"""The features that a run may have, in the order in which they take part in it.

Adding one is a module of its own and a line here. Its module is imported only where the config asks
for it: a plain training loads and runs nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from transfer_maskrcnn.config import RunSpec

if TYPE_CHECKING:
    from detectron2.engine import HookBase

    from transfer_maskrcnn.engine.trainer import TransferTrainer

_PACKAGE = __name__.split(".")[0]


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        name: in the docs and tests.
        asked: whether a resolved config has it.
        check: "module:function" of (config, spec), which raises ConfigError where the config
            contradicts itself; called before anything is built or moved.
        hooks: what takes part in the training of a trainer: hooks, or None where there is nothing
            to do after all.
    """

    name: str
    hooks: Callable[[TransferTrainer], Sequence[HookBase | None]]
    asked: Callable[[CfgNode], Any] = lambda cfg: True
    check: str = ""


def _get(place: str) -> Any:
    module, _, names = place.partition(":")
    return reduce(getattr, names.split("."), import_module(f"{_PACKAGE}.{module}"))


def _hook(place: str) -> Callable[[TransferTrainer], Sequence[HookBase | None]]:
    return lambda trainer: [_get(place)(trainer.cfg, trainer.spec)]


def _average(trainer: TransferTrainer) -> Sequence[HookBase]:
    hook = _get("engine.hooks.weights:WeightAverage")(trainer.cfg.SOLVER.EMA_DECAY)
    trainer.evaluated_weights = hook.applied
    return [hook]


def _best(trainer: TransferTrainer) -> Sequence[HookBase]:
    hook = _get("engine.hooks.weights:BestCheckpoint")(
        trainer.checkpointer,
        trainer.cfg.TEST.BEST_METRIC,
        patience=trainer.cfg.TEST.EARLY_STOPPING,
        evaluated=trainer.evaluated_weights,
        end_at=trainer.end_at,
    )
    trainer.curve.listeners.append(hook.on_evaluation)
    trainer.best_iteration = hook.best_iteration
    return [hook]


def _rows_are_held(cfg: CfgNode) -> bool:
    specs = (cfg.MODEL.TRANSFER.FREEZE, *(spec for _, spec in cfg.SOLVER.FREEZE_SCHEDULE))
    return "all_but_novel_rows" in specs


def _is_cached(cfg: CfgNode) -> bool:
    """Something is frozen, or CACHE_FEATURES says what cannot be without."""
    keys = cfg.MODEL.TRANSFER
    frozen = keys.FREEZE or cfg.SOLVER.FREEZE_SCHEDULE or cfg.MODEL.BACKBONE.FREEZE_AT >= 5
    return keys.CACHE_FEATURES != "off" and bool(frozen or keys.CACHE_FEATURES != "auto")


FEATURES = (
    Feature(  # labels the training images before there is a loader
        "pseudo-labels",
        lambda trainer: [],
        lambda cfg: cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED,
        "incremental.pseudo_labels:check_pseudo_labels",
    ),
    # The weights a run begins with come first: what follows looks at them.
    Feature("weight surgery", lambda trainer: [trainer.surgery]),
    Feature("initial weights", lambda trainer: [_get("engine.hooks.record:InitialWeights")()]),
    # before each iteration: what the hooks below draw belongs to it
    Feature("step seed", lambda trainer: [_get("engine.hooks.record:StepSeed")(trainer.spec.seed)]),
    # Freezing decides what is trained before anything is cached of it.
    Feature(
        "freeze schedule",
        _hook("modeling.freezing:FreezeSchedule.from_cfg"),
        lambda cfg: cfg.SOLVER.FREEZE_SCHEDULE,
    ),
    Feature(
        "row freezing",
        _hook("incremental.row_freezing:HoldRows"),
        _rows_are_held,
        "incremental.row_freezing:check_row_freezing",
    ),
    Feature(
        "feature cache",
        lambda trainer: [_get("feature_cache.hook:CacheFeatures")(trainer.cfg)],
        _is_cached,
        "feature_cache.hook:CacheFeatures.check",
    ),
    # The student shares what is frozen, and cached, with its teacher.
    Feature(
        "distillation",
        _hook("incremental.distillation:DistillSource"),
        lambda cfg: cfg.MODEL.TRANSFER.DISTILLATION,
        "incremental.distillation:check_distillation",
    ),
    Feature(
        "L2-SP",
        lambda trainer: [_get("engine.solver:L2SP")(trainer.cfg)],
        lambda cfg: cfg.SOLVER.L2_SP,
        "engine.solver:L2SP.check",
    ),
    # The average follows each step before anything saves or evaluates it.
    Feature(
        "weight average",
        _average,
        lambda cfg: cfg.SOLVER.EMA_DECAY,
        "engine.hooks.weights:WeightAverage.check",
    ),
    # detectron2's own: timer, learning rate, checkpoints, evaluation (ours in its place), writers
    Feature("detectron2's hooks", lambda trainer: trainer.stock_hooks()),
    Feature("cost", lambda trainer: [_get("engine.hooks.record:Cost")(trainer.cfg.OUTPUT_DIR)]),
    Feature(
        "progress bar",
        lambda trainer: [_get("engine.hooks.record:ProgressBar")()],
        lambda cfg: comm.is_main_process(),
    ),
    # last: it may end the training, when the others have done their part of the iteration
    Feature(
        "best checkpoint and early stopping",
        _best,
        lambda cfg: cfg.TEST.BEST_METRIC or cfg.TEST.EARLY_STOPPING,
        "engine.hooks.weights:check_best",
    ),
)


def check_features(cfg: CfgNode, spec: RunSpec) -> None:
    """
    Args:
        cfg: resolved by ``spec``.

    Raises:
        ConfigError: a feature is asked for that cannot be had, or contradicts another key.
    """
    for feature in FEATURES:
        if feature.check and feature.asked(cfg):
            _get(feature.check)(cfg, spec)


def hooks_of(trainer: TransferTrainer) -> list[HookBase | None]:
    """The hooks of all features that the trainer's config asks for, in order."""
    asked = (feature for feature in FEATURES if feature.asked(trainer.cfg))
    return [hook for feature in asked for hook in feature.hooks(trainer)]
