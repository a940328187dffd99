"""Checkpoints: whole or not at all, checked when read, and readable by stock detectron2."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from torch import nn

from transfer_maskrcnn.engine import checkpoint
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer, load_trained_model
from transfer_maskrcnn.errors import (
    CheckpointError,
    ConfigError,
    TrainingDivergedError,
    WeightFileError,
)
from transfer_maskrcnn.surgery.load import SourceWeights

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


OTHER_CLASSES = [
    # an ordinary run, and one that extends its source
    ({}, "Use the dataset it was trained on"),
    ({"config": {"MODEL.TRANSFER.EXTEND": True}}, "set MODEL.TRANSFER.KEEP class_rows and"),
]


@pytest.mark.parametrize(("metadata", "remedy"), OTHER_CLASSES)
def test_other_classes(metadata: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"\['a', 'b'\]\n.*\['b'\]\n.*{remedy}"):
        checkpoint.check_classes(
            SourceWeights({}, "model.pth", ("a", "b"), metadata=metadata), ["b"]
        )


@pytest.fixture
def resumable(tmp_path: Path) -> TransferCheckpointer:
    """Its folder holds a checkpoint for cats and dogs."""
    saved(tmp_path, 3.0, "model_0000001")
    return TransferCheckpointer(nn.Linear(2, 2), str(tmp_path), {})


def resume(checkpointer: TransferCheckpointer, classes: list[str], lr: float = 0.1) -> Any:
    model = checkpointer.model
    return checkpointer.resume(classes, torch.optim.SGD(model.parameters(), lr, momentum=0.9))


def test_resuming_with_other_classes_is_an_error(resumable: TransferCheckpointer) -> None:
    with pytest.raises(ConfigError, match=r"\['cat', 'dog'\]\n.*\['dog', 'cat'\]"):
        resume(resumable, ["dog", "cat"])


def test_resuming_another_architecture_is_an_error(resumable: TransferCheckpointer) -> None:
    resumable.model = nn.Linear(2, 3)
    with pytest.raises(ConfigError, match="2 of 2 tensors are missing or have another shape"):
        resume(resumable, ["cat", "dog"])


def test_resuming_from_a_checkpoint_that_is_gone(
    resumable: TransferCheckpointer, tmp_path: Path
) -> None:
    (tmp_path / "model_0000001.pth").unlink()
    with pytest.raises(ConfigError, match=r"last_checkpoint names .*model_0000001\.pth, which is"):
        resume(resumable, ["cat", "dog"])


class Command:
    """Unpickling one runs a command."""

    def __init__(self, target: Path):
        self._target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self._target}'",)


# what last_checkpoint says beside a file that runs code; fvcore takes a "?" for a query
NAMES = ["evil.pkl?a=.pth", "evil.pkl?matching_heuristics=True", "../out/evil.pkl", "evil.pkl"]


@pytest.mark.parametrize("name", NAMES)
def test_resuming_runs_no_code(name: str, tmp_path: Path) -> None:
    """The safe file under the name that is written there does not vouch for another."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = saved(folder, 3.0, "model_0000001")
    path.rename(folder / Path(name).name) if "?" in name else None
    (folder / "evil.pkl").write_bytes(
        pickle.dumps({"model": {"weight": np.ones((2, 2))}, "x": Command(tmp_path / "ran")})
    )
    (folder / "last_checkpoint").write_text(name)
    checkpointer = TransferCheckpointer(nn.Linear(2, 2), str(folder), {})
    before = checkpointer.model.weight.clone()
    with pytest.raises(WeightFileError):
        resume(checkpointer, ["cat", "dog"])
    assert torch.equal(checkpointer.model.weight, before)
    with pytest.raises(WeightFileError):  # as a stock trainer would ask for it
        checkpointer.resume_or_load("", resume=True)
    assert not (tmp_path / "ran").exists()


def test_loading_weights_runs_no_code(tmp_path: Path) -> None:
    """MODEL.WEIGHTS of a run without surgery (ENABLED False)."""
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Command(tmp_path / "ran")}))
    checkpointer = TransferCheckpointer(nn.Linear(2, 2), str(tmp_path), {})
    with pytest.raises(WeightFileError, match=r"posix\.system"):
        checkpointer.load(str(tmp_path / "evil.pkl"), checkpointables=[])
    assert not (tmp_path / "ran").exists()


def test_a_run_with_another_optimizer_is_not_resumed(tmp_path: Path) -> None:
    """torch takes the learning rate from the state that it loads: a stock run's, for one."""
    stock = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(stock.parameters(), 0.02, momentum=0.9)
    trainer = Checkpointable({"iteration": 4, "_trainer": {"optimizer": optimizer.state_dict()}})
    DetectionCheckpointer(stock, str(tmp_path), trainer=trainer).save("model_0000004", iteration=4)
    went_on = Checkpointable({})
    checkpointer = TransferCheckpointer(nn.Linear(2, 2), str(tmp_path), {}, trainer=went_on)
    with pytest.raises(ConfigError, match=r"learning rate: 0\.02 before, 0\.001 now"):
        resume(checkpointer, ["cat", "dog"], lr=0.001)
    assert not torch.equal(checkpointer.model.weight, stock.weight) and not went_on.state
    assert resume(checkpointer, ["cat", "dog"], lr=0.02) is not None
    assert torch.equal(checkpointer.model.weight, stock.weight)
    assert went_on.state["iteration"] == 4


class Checkpointable:
    def __init__(self, state: dict[str, Any]):
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_zoo_files_are_evaluated_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their address says what their classes are, as it does when they are a source."""
    model = nn.ModuleDict({"cls_score": nn.Linear(2, 81)})
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in model.state_dict().items()}}))
    fetched: dict[str, str] = {f"detectron2://{name}": str(path)}
    monkeypatch.setattr("transfer_maskrcnn.surgery.fetch.fetch", lambda p: Path(fetched[p]))
    coco = list(MetadataCatalog.get("coco_2017_val").thing_classes)
    for address in (f"detectron2://{name}", f"{path}?matching_heuristics=True"):
        other = nn.ModuleDict({"cls_score": nn.Linear(2, 81)})
        with pytest.raises(ConfigError, match="trained on other classes"):
            load_trained_model(other, address, coco[::-1])
        load_trained_model(other, address, coco)
        assert torch.equal(other["cls_score"].weight, model["cls_score"].weight)


def test_a_trusted_pickle_is_evaluated(tmp_path: Path) -> None:
    content = {"model": nn.Linear(2, 2).state_dict(), "x": Command(tmp_path / "ran")}
    torch.save(content, tmp_path / "mine.pth")
    model = nn.Linear(2, 2)
    with pytest.raises(WeightFileError, match="TRUST_PICKLE"):
        load_trained_model(model, str(tmp_path / "mine.pth"), ["cat", "dog"])
    load_trained_model(model, str(tmp_path / "mine.pth"), ["cat", "dog"], trust_pickle=True)
    assert (tmp_path / "ran").exists()
