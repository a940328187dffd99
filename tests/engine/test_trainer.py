"""What TransferTrainer adds to DefaultTrainer, and what tools/train_net.py does around it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.config import CfgNode

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.engine.hooks.record import ProgressBar
from transfer_maskrcnn.engine.run import check_start, set_aside
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import ConfigError, TrainingDivergedError


def test_a_bar_that_never_began_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    # a surgery error ends a run before the bar's before_train: its after_train comes all the same
    ProgressBar().after_train()
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_a_line_every_half_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 12))  # seconds an iteration
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    hook = ProgressBar()
    hook.trainer = SimpleNamespace(max_iter=40, iter=0)
    hook.before_train()
    for hook.trainer.iter in range(7):
        hook.after_step()
    hook.after_train()
    assert capsys.readouterr().err == "training: 3 of 40\ntraining: 6 of 40\n"


def test_an_earlier_run_is_set_aside_whole(tmp_path: Path) -> None:
    names = ["config.yaml", "evaluation.json", "last_checkpoint", "log.txt", "log.txt.rank1"]
    names += ["metrics.json", "model_final.pth", "run.json"]
    for name in [*names, "my_notes.txt"]:
        (tmp_path / name).write_text(name)
    set_aside(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("earlier_run_1", "my_notes.txt"),
    ]
    assert sorted(p.name for p in (tmp_path / "earlier_run_1").iterdir()) == names
    set_aside(str(tmp_path))
    assert not (tmp_path / "earlier_run_2").exists(), "there is nothing left to set aside"


@pytest.mark.parametrize("name", ["model_final.pth", "inference/own.pth", "link.pth"])
def test_weights_of_the_run_that_is_there_are_not_set_aside(tmp_path: Path, name: str) -> None:
    (tmp_path / "inference").mkdir()
    for file in ("model_final.pth", "inference/own.pth", "last_checkpoint"):
        (tmp_path / file).write_text(file)
    (tmp_path / "link.pth").symlink_to("model_final.pth")
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(tmp_path / name)])
    with pytest.raises(ConfigError, match=r"is of the earlier run.*choose another OUTPUT_DIR"):
        check_start(cfg, RunSpec(()))


@pytest.mark.parametrize("distillation", [0.0, 2.0])
def test_a_divergence_is_told_once(
    toy: Callable[..., CfgNode], distillation: float, caplog: pytest.LogCaptureFixture
) -> None:
    runs = TransferTrainer(toy("SOLVER.MAX_ITER", 3))
    runs.cfg.defrost()
    runs.cfg.MODEL.TRANSFER.DISTILLATION = distillation
    forward = runs.model.forward

    def failing(batch: Any) -> Any:
        losses = forward(batch)
        return losses if runs.iter < 2 else {k: v * float("inf") for k, v in losses.items()}

    runs.model.forward = failing
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addHandler(caplog.handler)
    try:
        with pytest.raises(TrainingDivergedError) as error:
            runs.train()
    finally:
        loop.removeHandler(caplog.handler)
    message = str(error.value)
    assert "diverged at iteration 2" in message and "np.float" not in message
    assert ("MODEL.TRANSFER.DISTILLATION" in message) == bool(distillation)
    assert not [record for record in caplog.records if record.exc_info], "no stack"
