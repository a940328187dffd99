from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.read import write_weights

METADATA = {
    "thing_classes": ["cat", "traffic light"],
    "plan": {"keep": "backbone", "loaded_fraction": 0.5},
}


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_read_back(name: str, tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    tensors = {
        "a": shared,
        "b": shared[1:],
        "c": nn.Parameter(torch.ones(2, 3)).t(),
        "n": torch.tensor(3),
    }
    write_weights(tmp_path / name, tensors, METADATA)
    source = load_weights(tmp_path / name)
    assert source.metadata == METADATA
    assert source.classes == ("cat", "traffic light")
    assert set(source.tensors) == set(tensors)
    assert all(torch.equal(source.tensors[k], v) for k, v in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_stock_checkpointer_loads_it_by_exact_names(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    write_weights(tmp_path / "out.pth", model.state_dict(), METADATA)
    rest = DetectionCheckpointer(other).load(str(tmp_path / "out.pth"))
    assert torch.equal(model.weight, other.weight)
    assert rest == {"transfer_maskrcnn": METADATA}


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match=r"written as .pth or .safetensors"):
        write_weights(tmp_path / "out.pkl", {}, METADATA)
    with pytest.raises(TypeError):  # nothing that a safe reader would refuse
        write_weights(tmp_path / "out.pth", {}, {**METADATA, "t": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.pth"
    write_weights(path, {"w": torch.ones(1)}, METADATA)

    def half(content: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        write_weights(path, {"w": torch.zeros(1)}, METADATA)
    assert [p.name for p in tmp_path.iterdir()] == ["out.pth"]
    assert load_weights(path).tensors["w"].item() == 1
