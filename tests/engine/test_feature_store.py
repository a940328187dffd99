"""Entries come back as they were put, or not at all; what does not fit is refused."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from transfer_maskrcnn.feature_cache import store as feature_store
from transfer_maskrcnn.feature_cache.store import (
    DiskStore,
    Entry,
    MemoryStore,
    TieredStore,
    available_memory,
    entry_bytes,
)

KEY = "0123abc"
GIB = 2**30


def entry(number: float = 1.0, side: int = 4) -> dict[str, torch.Tensor]:
    return {
        "nchw/p2": torch.full((1, 2, side, side), float(number)),
        "nhwc/p3": torch.full((1, side, side, 2), number, dtype=torch.bfloat16),
        "proposals/boxes": torch.empty(0, 4),
    }


def same(found: Entry | None, expected: Entry) -> bool:
    return found is not None and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        for name, tensor in expected.items()
    )


SIZE = entry_bytes(entry())


def test_bytes() -> None:
    assert SIZE == 2 * 4 * 4 * 4 + 2 * 4 * 4 * 2


def test_memory_keeps_to_its_budget() -> None:
    store = MemoryStore(2 * SIZE + SIZE // 2)
    assert [store.put(str(i), entry(i)) for i in range(3)] == [True, True, False]
    assert store.full
    assert not store.put("small", {"a": torch.zeros(1)}), "full is full: no gaps are filled"
    assert same(store.get("1"), entry(1))
    assert store.get("2") is None


def test_a_file_comes_back(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "new" / "folder")
    assert store.get(KEY) is None
    assert store.put(KEY, entry())
    assert same(store.get(KEY), entry())
    assert same(DiskStore(tmp_path / "new" / "folder").get(KEY), entry())
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == [f"{KEY}.safetensors"]


def test_writing_into_what_was_read_changes_no_file(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put(KEY, entry())
    read = store.get(KEY)
    assert read is not None
    read["nchw/p2"].zero_()
    assert same(store.get(KEY), entry())


DAMAGE = [
    b"",
    b"\x08",
    b"\xff" * 200,  # a header of impossible length
    b"\x02\0\0\0\0\0\0\0{}" + b"x" * 50,  # data that no header speaks of
    None,  # truncated
]


@pytest.mark.parametrize("content", DAMAGE)
def test_what_cannot_be_read_is_none(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path)
    store.put(KEY, entry())
    path = tmp_path / f"{KEY}.safetensors"
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    assert store.get(KEY) is None
    assert f"{path} is damaged" in caplog.text
    assert not path.exists()
    caplog.clear()
    assert store.get(KEY) is None
    assert caplog.text == "", "said once"
    assert store.put(KEY, entry(2))
    assert same(store.get(KEY), entry(2))


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    DiskStore(tmp_path).put(KEY, entry())
    (tmp_path / f".{KEY}.safetensors.123.part").write_bytes(b"half")
    assert same(DiskStore(tmp_path).get(KEY), entry())
    assert [p.name for p in tmp_path.iterdir()] == [f"{KEY}.safetensors"]


def test_a_place_for_checkpoints_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = GIB + SIZE
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda _: usage(free))
    store = DiskStore(tmp_path)
    assert store.put("fits", entry())
    free -= 1
    assert not store.full
    assert not store.put("too large", entry())
    assert not store.put("any", {"a": torch.zeros(1)})
    assert store.full
    assert caplog.text.count("takes no more") == 1
    assert same(store.get("fits"), entry())


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = DiskStore(tmp_path / "file" / "folder")
    assert store.get(KEY) is None
    assert not store.put(KEY, entry())
    assert store.full


def test_the_first_that_takes_it_keeps_it(tmp_path: Path) -> None:
    memory, disk = MemoryStore(SIZE), DiskStore(tmp_path)
    store = TieredStore(memory, disk)
    assert store.put("a", entry(1))
    assert store.put("b", entry(2))
    assert not store.full, "the disk takes more"
    assert disk.get("a") is None
    assert memory.get("b") is None
    assert same(store.get("a"), entry(1))
    assert same(store.get("b"), entry(2))
    disk.full = True
    assert store.full
    assert not store.put("c", entry(3))
    assert store.get("c") is None


def test_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t.numel()) or t)
    assert MemoryStore(GIB, pinned=True).put(KEY, entry())
    assert pinned == [32, 32, 0]
    assert MemoryStore(GIB).put(KEY, entry())
    assert len(pinned) == 3


V2 = {"memory.max": "5000", "memory.current": "3000", "memory.stat": "anon 10\nfile 1000\n"}
V1 = {
    "memory/memory.limit_in_bytes": "4000",
    "memory/memory.usage_in_bytes": "3500",
    "memory/memory.stat": "cache 7\ntotal_cache 100\n",
}
MACHINES: list[tuple[dict[str, str], str, int]] = [
    # files under /sys/fs/cgroup, /proc/meminfo, bytes available
    ({}, "MemTotal: 90 kB\nMemAvailable:   7 kB\n", 7 * 1024),
    (V2, "MemAvailable: 7 kB\n", 3000),
    (V2 | {"memory.max": "max"}, "MemAvailable: 7 kB\n", 7 * 1024),
    (V2 | {"memory.current": "9000"}, "MemAvailable: 7 kB\n", 0),
    (V2, "MemAvailable: 2 kB\n", 2048),
    (V1, "MemAvailable: 7 kB\n", 600),
    ({"memory.max": "5000"}, "MemAvailable: 7 kB\n", 7 * 1024),
]


@pytest.mark.parametrize(("cgroup", "meminfo", "expected"), MACHINES)
def test_available_memory(
    cgroup: dict[str, str],
    meminfo: str,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in cgroup.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "meminfo").write_text(meminfo)

    def path(first: str, *rest: str) -> Path:
        moved = first.replace("/sys/fs/cgroup", str(tmp_path))
        return Path(moved.replace("/proc", str(tmp_path)), *rest)

    monkeypatch.setattr(feature_store, "Path", path)
    assert available_memory() == expected


def test_available_memory_of_this_machine() -> None:
    assert 2**20 < available_memory() < 2**50


def test_a_flipped_byte_is_noticed_by_the_run_that_first_reads_it(tmp_path: Path) -> None:
    entry = {"nchw/p2": torch.arange(12.0).reshape(1, 3, 2, 2), "rows": torch.ones(2, 4).bfloat16()}
    assert DiskStore(tmp_path).put("a", entry)
    (path,) = tmp_path.glob("a*")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert DiskStore(tmp_path).get("a") is None
    assert not path.exists()
    assert DiskStore(tmp_path).put("a", entry)
    found = DiskStore(tmp_path).get("a")
    assert found is not None and found.keys() == entry.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in entry.items())
