"""Which features take part in a run, in which order, and when they are looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from detectron2.config import CfgNode

from transfer_maskrcnn.engine.features import FEATURES
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import ConfigError

ALL = [
    *("SOLVER.FREEZE_SCHEDULE", [[2, "backbone"]], "SOLVER.EMA_DECAY", 0.9),
    *("TEST.BEST_METRIC", "segm/AP", "TEST.EVAL_PERIOD", 5, "MODEL.TRANSFER.ENABLED", True),
    *("MODEL.TRANSFER.KEEP", "random_init", "SOLVER.L2_SP", 0.1),
]
ORDER = [
    *("WeightSurgeryHook", "InitialWeights", "StepSeed", "FreezeSchedule", "CacheFeatures", "L2SP"),
    *("WeightAverage", "IterationTimer", "LRScheduler", "PeriodicCheckpointer", "EvalHistory"),
    *("PeriodicWriter", "Cost", "ProgressBar", "BestCheckpoint"),
]


def kinds(trainer: TransferTrainer) -> list[str]:
    return [type(hook).__name__ for hook in trainer._hooks]


def test_the_order_of_all_hooks(toy: Callable[..., CfgNode]) -> None:
    cfg = toy()
    cfg.defrost()
    cfg.merge_from_list([*ALL, "DATASETS.TEST", cfg.DATASETS.TRAIN])
    trainer = TransferTrainer(cfg)
    assert kinds(trainer) == ORDER
    best = trainer._hooks[-1]
    assert trainer.curve.listeners == [best.on_evaluation], "it follows the evaluations"
    average = next(hook for hook in trainer._hooks if type(hook).__name__ == "WeightAverage")
    assert trainer.evaluated_weights == average.applied  # type: ignore[attr-defined]


def test_a_plain_run_has_none_of_them(toy: Callable[..., CfgNode]) -> None:
    asked = {"FreezeSchedule", "CacheFeatures", "L2SP", "WeightAverage", "BestCheckpoint"}
    assert kinds(TransferTrainer(toy())) == [name for name in ORDER if name not in asked]


# keys, what they contradict
CONTRADICTIONS: list[tuple[list[Any], str]] = [
    (["SOLVER.EMA_DECAY", 1.0], "SOLVER.EMA_DECAY"),
    (["SOLVER.L2_SP", 0.1], "MODEL.TRANSFER.ENABLED"),
    (["TEST.EARLY_STOPPING", 2], "TEST.BEST_METRIC"),
    (["MODEL.TRANSFER.DISTILLATION", 1.0], "EXTEND"),
    (["MODEL.TRANSFER.PSEUDO_LABELS.ENABLED", True], "EXTEND"),
    (["MODEL.TRANSFER.FREEZE", "all_but_novel_rows"], "EXTEND"),
    (["MODEL.TRANSFER.CACHE_FEATURES", "tape"], "CACHE_FEATURES"),
]


@pytest.mark.parametrize(("keys", "named"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_contradictions_are_found_before_anything_is_built(
    keys: list[Any], named: str, toy: Callable[..., CfgNode]
) -> None:
    cfg = toy()
    cfg.defrost()
    cfg.merge_from_list(keys)
    with pytest.raises(ConfigError, match=named):
        fit_config(cfg)


def test_names_are_distinct() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES) >= 14


@pytest.mark.slow
def test_what_is_not_asked_for_is_not_loaded() -> None:
    script = "import sys, transfer_maskrcnn.engine.run; print(*sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", script]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    optional = (
        *("incremental.distillation", "incremental.row_freezing", "incremental.pseudo_labels"),
        *("incremental.source", "feature_cache", "inference", "evaluation", "report"),
        *("engine.hooks.weights", "engine.hooks.sample_pictures"),
    )
    assert not {f"transfer_maskrcnn.{name}" for name in optional} & set(modules)
