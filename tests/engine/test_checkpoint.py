"""Checkpoints: whole or not at all, checked when read, and readable by stock detectron2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from transfer_maskrcnn.engine import checkpoint
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer, load_trained_model
from transfer_maskrcnn.errors import (
    CheckpointError,
    ConfigError,
    TrainingDivergedError,
    WeightFileError,
)

METADATA = {"thing_classes": ["cat", "dog"]}


def saved(folder: Path, value: float = 1.0, name: str = "model_final") -> Path:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    TransferCheckpointer(model, str(folder), METADATA).save(name, iteration=7)
    return folder / f"{name}.pth"


def test_stock_detectron2_loads_it(tmp_path: Path) -> None:
    saved(tmp_path, 3.0)
    model = nn.Linear(2, 2)
    rest = DetectionCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert (model.weight == 3.0).all()
    assert rest["iteration"] == 7


def test_it_carries_its_classes(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    load_trained_model(model, str(saved(tmp_path, 3.0)), ["cat", "dog"])
    assert (model.weight == 3.0).all()
    with pytest.raises(ConfigError, match=r"checkpoint: \['cat', 'dog'\]\n.*\['dog', 'cat'\]"):
        load_trained_model(model, str(tmp_path / "model_final.pth"), ["dog", "cat"])


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = saved(tmp_path, 1.0)
    before = path.read_bytes()

    def half_written(data: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(checkpoint.torch, "save", half_written)
    expected = CheckpointError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        saved(tmp_path, 2.0)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    saved(tmp_path, 1.0, "model_0000001")
    with pytest.raises(TrainingDivergedError, match=r"1 weights hold NaN .*first: weight"):
        saved(tmp_path, float("nan"), "model_0000002")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_a_starting_point_is_not_a_trained_model(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(2, 2)}}, tmp_path / "backbone.pth")
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(ConfigError, match=r"not a trained model .* 1 of 2 tensors .*first: bias"):
        load_trained_model(model, str(tmp_path / "backbone.pth"), ["cat", "dog"])
    assert torch.equal(model.weight, before), "nothing is loaded by halves"


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").write_text("<html>not found</html>")
    with pytest.raises(WeightFileError, match=r"model_final\.pth"):
        load_trained_model(nn.Linear(2, 2), str(tmp_path / "model_final.pth"), ["cat", "dog"])


METADATA = [
    # an ordinary run, and one that extends its source
    ({}, "Use the dataset it was trained on"),
    ({"config": {"MODEL.TRANSFER.EXTEND": True}}, "set MODEL.TRANSFER.KEEP class_rows and"),
]


@pytest.mark.parametrize(("metadata", "remedy"), METADATA)
def test_other_classes(metadata: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"\['a', 'b'\]\n.*\['b'\]\n.*{remedy}"):
        checkpoint.check_classes({"thing_classes": ["a", "b"], **metadata}, "model.pth", ["b"])
