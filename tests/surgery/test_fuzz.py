"""Damaged and planted weight files: success or an error of ours, and never code from the file."""

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.plan import plan_transfer

# 200 of each of the eleven files; with `make test-faults`, others beside them
SAMPLES = 2200
SEEDS = [
    7,
    pytest.param(100 + int(os.environ.get("TRANSFER_FAULT_SEED", "1")), marks=pytest.mark.faults),
]
RNG = np.random.default_rng(0)
STATE = {
    "backbone.res2.0.conv1.weight": torch.arange(1200.0).reshape(400, 3),
    "roi_heads.box_predictor.cls_score.bias": torch.ones(4),
    "iterations": torch.tensor(3),
}
ARRAYS = {k: v.numpy() for k, v in STATE.items()}
CAFFE2 = {f"{n}_{x}": RNG.random((4, 2), np.float32) for n in ("conv1", "cls_score") for x in "wb"}


class Planted:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def originals(folder: Path) -> dict[str, bytes]:
    """The four kinds of files, and some of them with a command inside."""
    torch.save({"model": STATE, "best": np.float64(1.5)}, folder / "a.pth")
    torch.save({"model": STATE, "x": Planted()}, folder / "p.pth")
    torch.save(STATE, folder / "l.pth", _use_new_zipfile_serialization=False)
    save_file(
        STATE, folder / "a.safetensors", metadata={"transfer_maskrcnn": '{"thing_classes": ["a"]}'}
    )
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for protocol in (2, 4):
        files[f"z{protocol}.pkl"] = pickle.dumps({"model": ARRAYS, "__author__": "x"}, protocol)
        files[f"p{protocol}.pkl"] = pickle.dumps({"model": ARRAYS, "x": Planted()}, protocol)
    files["c2.pkl"] = pickle.dumps({"blobs": CAFFE2}, 2)
    return files


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flips, cuts, doubles, overwrites or swaps a few stretches of bytes."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, size = chance.randrange(len(data)), chance.randint(1, 16)
        piece = data[at : at + size]
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data = data[: max(at, 1)]
            case 2:
                data[at:at] = piece
            case 3:
                data[at : at + size] = chance.randbytes(size)
            case 4:
                data[at : at + size] = b""
            case 5:
                other = chance.randrange(len(data))
                data[other : other + len(piece)] = piece
        data = data or bytearray(b"\x80")
    return bytes(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_files(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    made.mkdir()
    monkeypatch.chdir(tmp_path)
    chance = random.Random(seed)
    files = originals(made)
    outcomes = {"read": 0, "refused": 0}
    for i in range(SAMPLES):
        name = sorted(files)[i % len(files)]
        path = tmp_path / f"{i}_{name}"
        path.write_bytes(mutated(files[name], chance))
        try:
            source = load_weights(path)
            plan_transfer(source, STATE).table()
            outcomes["read"] += 1
        except TransferError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
        path.unlink()
        assert not (tmp_path / "ran").exists(), f"sample {i} ran code"
    assert min(outcomes.values()) > SAMPLES // 20, outcomes
