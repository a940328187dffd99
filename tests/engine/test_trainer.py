"""What TransferTrainer adds to DefaultTrainer, and what tools/train_net.py does around it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from transfer_maskrcnn.config import FOLLOW_DATASET
from transfer_maskrcnn.engine import run, trainer
from transfer_maskrcnn.engine.checkpoint import StampedCheckpointer
from transfer_maskrcnn.engine.progress import ProgressBar
from transfer_maskrcnn.engine.setup import load_config
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import ConfigError


@pytest.fixture
def resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for a trainer whose OUTPUT_DIR holds a checkpoint for cats and dogs."""
    checkpointer = StampedCheckpointer(
        nn.Linear(2, 2), str(tmp_path), {"thing_classes": ["cat", "dog"]}
    )
    checkpointer.save("model_0000001", iteration=1)
    monkeypatch.setattr(trainer, "class_names", lambda cfg: ["dog", "cat"])
    return SimpleNamespace(checkpointer=checkpointer, cfg=SimpleNamespace(OUTPUT_DIR=str(tmp_path)))


def test_resuming_with_other_classes_is_an_error(resumed: Any) -> None:
    with pytest.raises(ConfigError, match=r"\['cat', 'dog'\]\n.*\['dog', 'cat'\]"):
        TransferTrainer.resume_or_load(resumed, resume=True)


def test_resuming_another_architecture_is_an_error(
    resumed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "class_names", lambda cfg: ["cat", "dog"])
    resumed.checkpointer.model = nn.Linear(2, 3)
    with pytest.raises(ConfigError, match="2 of 2 tensors are missing or have another shape"):
        TransferTrainer.resume_or_load(resumed, resume=True)


def test_resuming_from_a_checkpoint_that_is_gone(resumed: Any, tmp_path: Path) -> None:
    (tmp_path / "model_0000001.pth").unlink()
    with pytest.raises(ConfigError, match=r"last_checkpoint names .*model_0000001\.pth, which is"):
        TransferTrainer.resume_or_load(resumed, resume=True)


def test_a_config_that_was_not_fitted_builds_no_model() -> None:
    cfg = load_config("")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == FOLLOW_DATASET
    with pytest.raises(ConfigError, match="fit_config"):
        TransferTrainer.build_model(cfg)


def test_a_bar_that_never_began_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    # a surgery error ends a run before the bar's before_train: its after_train comes all the same
    ProgressBar().after_train()
    assert capsys.readouterr() == ("", "")


def test_an_earlier_run_is_set_aside_whole(tmp_path: Path) -> None:
    names = ["last_checkpoint", "model_final.pth", "metrics.json", "evaluation.json", "log.txt"]
    for name in [*names, "my_notes.txt"]:
        (tmp_path / name).write_text(name)
    run._set_aside_earlier_run(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("earlier_run_1", "log.txt", "my_notes.txt")
    ]
    assert sorted(p.name for p in (tmp_path / "earlier_run_1").iterdir()) == sorted(names[:-1])
    run._set_aside_earlier_run(str(tmp_path))
    assert not (tmp_path / "earlier_run_2").exists(), "there is nothing left to set aside"
