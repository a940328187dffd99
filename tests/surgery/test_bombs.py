"""Small files that ask for much: refused in bounded time and memory, whatever they hold."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.surgery.load import load_weights

STATE = {"backbone.res2.0.conv1.weight": torch.arange(100.0)}


def nested(times: int) -> list[Any]:
    """A few bytes a level; written out, it has 2 ** times ends."""
    lists: list[Any] = []
    for _ in range(times):
        lists = [lists, lists]
    return lists


def safetensors_of(tensors: int) -> bytes:
    spans = {
        f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(tensors)
    }
    header = json.dumps(spans).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * tensors)


def zipped(path: Path, method: int, changed: dict[str, bytes]) -> None:
    """A .pth packed again, as a tool that knows nothing of torch does, with ``changed`` entries."""
    torch.save({"model": STATE}, path)
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in content.items():
            file.writestr(name, changed.get(name.split("/", 1)[1], data))


def plain(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


BOMBS = [
    # a million steps that make one long list
    ("steps.pkl", plain(b"\x80\x02](" + b"K\x01" * 1_200_000 + b"e."), "steps"),
    # lists in lists in lists
    ("deep.pkl", plain(b"\x80\x02" + b"(" * 5_000), "nested"),
    # 300,000 names, each to be looked at
    ("many.safetensors", plain(safetensors_of(100_000)), "header"),
    ("some.safetensors", plain(safetensors_of(10_001)), "10,001 tensors"),
    # zeros, deflated to a thousandth
    (
        "large.pth",
        lambda path: zipped(path, zipfile.ZIP_DEFLATED, {"data/0": bytes(600_000_000)}),
        "unpacks to",
    ),
    # torch's own unpickler has no limit
    (
        "marks.pth",
        lambda path: zipped(path, zipfile.ZIP_STORED, {"data.pkl": b"\x80\x02" + b"(" * 3_000_000}),
        "entries",
    ),
]


@pytest.mark.parametrize(("name", "write", "words"), BOMBS, ids=[name for name, *_ in BOMBS])
def test_bombs_are_refused(
    name: str, write: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(WeightFileError, match=words):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("write", [torch.save, lambda c, p: p.write_bytes(pickle.dumps(c))])
def test_what_is_there_often_is_looked_at_once(write: Any, tmp_path: Path) -> None:
    model = STATE if write is torch.save else {k: v.numpy() for k, v in STATE.items()}
    write({"model": model, "x": nested(60)}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth").tensors.keys() == STATE.keys()


def test_a_compressed_checkpoint_is_read_and_not_mapped(tmp_path: Path) -> None:
    """A map of its bytes would pass for numbers."""
    zipped(tmp_path / "a.pth", zipfile.ZIP_DEFLATED, {})
    (loaded,) = load_weights(tmp_path / "a.pth").tensors.values()
    assert loaded.tolist() == list(range(100))
