"""Epochs and processes become iterations, once, and the log says how."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from transfer_maskrcnn.config import RunSpec, flat_config, load_config
from transfer_maskrcnn.engine import setup as schedule
from transfer_maskrcnn.engine.setup import fit_schedule
from transfer_maskrcnn.errors import ConfigError


def config(**keys: Any) -> CfgNode:
    """1,000 iterations of 4 images, with everything else that is counted in iterations."""
    cfg = load_config("")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 1000, (600, 900), 100
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 250, 4, 0.02
    cfg.SOLVER.FREEZE_SCHEDULE = [[200, "backbone_fpn"], [300, "backbone"]]
    cfg.TEST.EVAL_PERIOD, cfg.TEST.EVAL_ITERS = 50, [0, 10, 1000]
    for key, value in keys.items():
        setattr(cfg.SOLVER, key, value)
    return cfg


def fit(cfg: CfgNode, images: int) -> CfgNode:
    """``cfg`` with its schedule in iterations; the rest stays."""
    schedule = fit_schedule(cfg, images)
    spec = RunSpec(("x",) * 80, (), cfg.SEED, cfg.INPUT.MASK_FORMAT, schedule)
    own = spec.resolve(cfg)
    own.defrost()
    return own


def counts(cfg: CfgNode) -> dict[str, Any]:
    """All that is counted in iterations."""
    solver, test = cfg.SOLVER, cfg.TEST
    return {
        "max": solver.MAX_ITER,
        "steps": solver.STEPS,
        "warmup": solver.WARMUP_ITERS,
        "save": solver.CHECKPOINT_PERIOD,
        "phases": [iterations for iterations, _ in solver.FREEZE_SCHEDULE],
        "eval": test.EVAL_PERIOD,
        "points": test.EVAL_ITERS,
    }


# the steps keep their shares of the run; all else is said in iterations, and stays so
HALF = {**counts(config()), "max": 500, "steps": (300, 450)}
# so few iterations that a step comes at the very end, and is left out
TINY = {**counts(config()), "max": 4, "steps": (2,), "phases": []}
# epochs, images, the schedule
EPOCHS = [
    (0.0, 100, counts(config())),
    (20.0, 100, HALF),
    (4.0, 500, HALF),
    (1.0, 1998, HALF),  # 499.5 iterations
    (0.1, 150, TINY),  # 3.75
    (1.6, 10, TINY),
]


@pytest.mark.parametrize(("epochs", "images", "expected"), EPOCHS)
def test_epochs(epochs: float, images: int, expected: dict[str, Any]) -> None:
    cfg = config(EPOCHS=epochs)
    cfg.SOLVER.FREEZE_SCHEDULE = cfg.SOLVER.FREEZE_SCHEDULE if expected["phases"] else []
    cfg = fit(cfg, images)
    assert counts(cfg) == expected


def test_phases_that_are_longer_than_the_epochs() -> None:
    with pytest.raises(
        ConfigError, match=r"FREEZE_SCHEDULE takes 500 iterations, but .*MAX_ITER is 4"
    ):
        fit_schedule(config(EPOCHS=0.1), 150)


def test_the_default_length_is_no_measure_of_anything() -> None:
    cfg = load_config("", ["SOLVER.EPOCHS", "12.0", "TEST.EVAL_PERIOD", "50"])
    cfg.SOLVER.IMS_PER_BATCH = 4
    before = counts(cfg)
    cfg = fit(cfg, 61)
    assert counts(cfg) == {**before, "max": 183, "steps": (137,)}


def test_steps_behind_the_end_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(MAX_ITER=600, FREEZE_SCHEDULE=[])
    cfg = fit(cfg, 100)
    assert cfg.SOLVER.STEPS == ()
    assert "SOLVER.STEPS [600, 900] come after SOLVER.MAX_ITER 600: left out" in caplog.text


def test_rounding_makes_no_iteration() -> None:
    cfg = config(EPOCHS=1.1, IMS_PER_BATCH=1, FREEZE_SCHEDULE=[])
    cfg = fit(cfg, 100)
    assert 1.1 * 100 > 110, "in floating point"
    assert cfg.SOLVER.MAX_ITER == 110


def test_phases_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rounded by itself would make 6 iterations of 5."""
    monkeypatch.setattr(schedule.comm, "get_world_size", lambda: 9)
    phases = [[3, ""], [3, ""], [3, ""]]
    cfg = config(
        REFERENCE_WORLD_SIZE=5, IMS_PER_BATCH=5, MAX_ITER=9, FREEZE_SCHEDULE=phases, STEPS=()
    )
    cfg = fit(cfg, 5)
    assert counts(cfg)["max"] == 5
    assert counts(cfg)["phases"] == [2, 1, 2]


def test_what_is_off_stays_off() -> None:
    cfg = config(EPOCHS=20.0, STEPS=(), WARMUP_ITERS=0, FREEZE_SCHEDULE=[])
    cfg.TEST.EVAL_PERIOD, cfg.TEST.EVAL_ITERS = 0, []
    cfg = fit(cfg, 100)
    off: dict[str, Any] = {"steps": (), "warmup": 0, "phases": [], "eval": 0, "points": []}
    assert counts(cfg) == {**HALF, **off}


@pytest.mark.parametrize("processes", [1, 2])
def test_the_config_of_a_run_gives_the_same_run(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule.comm, "get_world_size", lambda: processes)
    cfg = config(EPOCHS=20.0, REFERENCE_WORLD_SIZE=4)
    cfg = fit(cfg, 100)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load_config(str(tmp_path / "config.yaml"))
    again = fit(again, 100)
    for section in ("SOLVER", "TEST"):
        assert dict(flat_config(again[section])) == dict(flat_config(cfg[section]))


def test_a_run_can_be_made_longer_by_its_config(tmp_path: Path) -> None:
    cfg = config(EPOCHS=20.0)
    cfg = fit(cfg, 100)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    longer = load_config(str(tmp_path / "config.yaml"), ["SOLVER.MAX_ITER", "600"])
    longer = fit(longer, 100)
    assert counts(longer) == {**HALF, "max": 600}


# SOLVER.REFERENCE_WORLD_SIZE, processes
@pytest.mark.parametrize(("reference", "processes"), [(0, 2), (2, 2), (4, 2), (4, 1), (1, 2)])
def test_processes(reference: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As detectron2 scales its own keys; phases and evaluations go with them."""
    monkeypatch.setattr(schedule.comm, "get_world_size", lambda: processes)
    cfg = config(REFERENCE_WORLD_SIZE=reference)
    stock = DefaultTrainer.auto_scale_workers(cfg, processes)
    before = counts(cfg)
    cfg = fit(cfg, 100)
    ratio = cfg.SOLVER.MAX_ITER / before["max"]
    assert counts(cfg)["phases"] == [i * ratio for i in before["phases"]]
    assert counts(cfg)["points"] == [i * ratio for i in before["points"]]
    cfg.SOLVER.FREEZE_SCHEDULE, cfg.TEST.EVAL_ITERS = (
        stock.SOLVER.FREEZE_SCHEDULE,
        stock.TEST.EVAL_ITERS,
    )
    assert dict(flat_config(cfg)) == dict(flat_config(stock))


def test_epochs_are_counted_in_the_batches_of_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule.comm, "get_world_size", lambda: 2)
    cfg = config(REFERENCE_WORLD_SIZE=4, EPOCHS=20.0)
    cfg = fit(cfg, 100)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (2, 1000)


# SOLVER.REFERENCE_WORLD_SIZE, processes, the line
LINES = [
    (0, 1, "0 (off, 1 process): batch 4 and learning rate 0.02, as configured"),
    (2, 2, "2 (2 processes): batch 4 and learning rate 0.02, as configured"),
    (4, 1, "4, 1 process: batch 4 -> 1, learning rate 0.02 -> 0.005, iterations 1000 -> 4000"),
]


@pytest.mark.parametrize(("reference", "processes", "line"), LINES)
def test_what_is_said_of_processes(
    reference: int,
    processes: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(schedule.comm, "get_world_size", lambda: processes)
    with caplog.at_level(logging.INFO):
        fit_schedule(config(REFERENCE_WORLD_SIZE=reference), 100)
    assert f"SOLVER.REFERENCE_WORLD_SIZE {line}" in caplog.messages


# keys, the line of the schedule
SCHEDULES: list[tuple[dict[str, Any], str]] = [
    (
        {},
        "1000 iterations of 4 images, 40 epochs of 100; learning rate 0.02, warmed up over 100, "
        "times 0.1 after 600, 900",
    ),
    (
        {"EPOCHS": 0.1, "STEPS": (), "WARMUP_ITERS": 0, "FREEZE_SCHEDULE": []},
        "3 iterations of 4 images, 0.12 epochs of 100; learning rate 0.02, constant",
    ),
    (
        {"LR_SCHEDULER_NAME": "WarmupCosineLR"},
        "1000 iterations of 4 images, 40 epochs of 100; learning rate 0.02, warmed up over 100, "
        "WarmupCosineLR",
    ),
]


@pytest.mark.parametrize(("keys", "line"), SCHEDULES)
def test_what_is_said_of_the_schedule(
    keys: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fit_schedule(config(**keys), 100)
    assert f"schedule: {line}" in caplog.messages
    told = "SOLVER.EPOCHS 0.1 of 100 images: SOLVER.MAX_ITER 1000 -> 3" in caplog.text
    assert told == ("EPOCHS" in keys)


# keys, words of the error
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"EPOCHS": -1.0}, r"SOLVER\.EPOCHS is -1\.0; expected 0"),
    ({"EPOCHS": float("nan")}, r"SOLVER\.EPOCHS is nan"),
    ({"REFERENCE_WORLD_SIZE": 3}, "IMS_PER_BATCH 4 cannot be split over .* 3; expected a multiple"),
    ({"REFERENCE_WORLD_SIZE": -2}, "REFERENCE_WORLD_SIZE -2"),
    (
        {"FREEZE_SCHEDULE": [[2000, "backbone"]]},
        "takes 2000 iterations, but SOLVER.MAX_ITER is 1000",
    ),
    # two phases need two iterations
    ({"EPOCHS": 0.01}, "takes 500 iterations, but SOLVER.MAX_ITER is 1"),
]


@pytest.mark.parametrize(("keys", "words"), MISTAKES)
def test_mistakes(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_schedule(config(**keys), 100)
