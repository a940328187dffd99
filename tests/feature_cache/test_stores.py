"""Entries in memory come back as they were put, or not at all; what does not fit is refused.

(What lies on the disk is a ``data.cache.Cache``, which has tests of its own.)
"""

from __future__ import annotations

import pytest
import torch

from transfer_maskrcnn.data.cache import Entry, entry_bytes
from transfer_maskrcnn.feature_cache.cache import MemoryStore
from transfer_maskrcnn.feature_cache.hook import free_memory

KEY = "0123abc"
GIB = 2**30


def entry(number: float = 1.0, side: int = 4) -> dict[str, torch.Tensor]:
    return {
        "nchw/p2": torch.full((1, 2, side, side), float(number)),
        "nhwc/p3": torch.full((1, side, side, 2), number, dtype=torch.bfloat16),
        "proposals/boxes": torch.empty(0, 4),
    }


def same(found: Entry | None, expected: dict[str, torch.Tensor]) -> bool:
    return found is not None and all(
        torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype
        for name, tensor in expected.items()
    )


SIZE = entry_bytes(entry())


def test_memory_keeps_to_its_budget() -> None:
    store = MemoryStore(2 * SIZE + SIZE // 2)
    assert [store.put(str(i), entry(i)) for i in range(3)] == [True, True, False]
    assert store.full
    assert not store.put("small", {"a": torch.zeros(1)}), "full is full: no gaps are filled"
    assert same(store.get("1"), entry(1))
    assert store.get("2") is None


def test_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t.numel()) or t)
    assert MemoryStore(GIB, pinned=True).put(KEY, entry())
    assert pinned == [32, 32, 0]
    assert MemoryStore(GIB).put(KEY, entry())
    assert len(pinned) == 3


def test_free_memory_of_this_machine() -> None:
    assert 2**20 < free_memory() < 2**50
