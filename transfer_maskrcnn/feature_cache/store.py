"""Where cached tensors lie: in memory up to a budget, then in memory-mapped files."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from transfer_maskrcnn.files import atomic_path

logger = logging.getLogger(__name__)

Entry = Mapping[str, Tensor]
_CHECKSUM = "crc32"
_RESERVE = 2**30  # bytes of the disk that stay free for checkpoints


def entry_bytes(entry: Entry) -> int:
    """Bytes of an entry's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in entry.values())


def _checksum(entry: Entry) -> int:
    value = 0
    for name, tensor in sorted(entry.items()):
        pixels: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(pixels, zlib.crc32(name.encode(), value))
    return value


class MemoryStore:
    """Entries in main memory.

    Attributes:
        full: an entry did not fit any more.
    """

    def __init__(self, budget: int, pinned: bool = False):
        """
        Args:
            budget: most bytes of all entries together.
            pinned: in page-locked memory, from which a GPU copies without waiting.
        """
        self.full = False
        self._left = budget
        self._pinned = pinned
        self._entries: dict[str, Entry] = {}

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put(self, key: str, entry: Entry) -> bool:
        """Whether the entry is stored."""
        size = entry_bytes(entry)
        self.full |= size > self._left
        if self.full:
            return False
        self._left -= size
        self._entries[key] = (
            {name: tensor.pin_memory() for name, tensor in entry.items()} if self._pinned else entry
        )
        return True


class DiskStore:
    """Entries as .safetensors files in a folder of their own; read by mapping them into memory.

    A file gets its name when it is whole; one that cannot be read, or whose checksum differs when
    a run first reads it, is removed. So neither a kill, nor a full disk, nor a crash of the machine
    leaves anything that a later run could mistake for an entry.

    Attributes:
        full: the disk took no more.
    """

    def __init__(self, folder: Path):
        self.full = False
        self._folder = folder
        self._checked: set[str] = set()
        for unfinished in folder.glob(".*.part"):  # a kill leaves one
            unfinished.unlink(missing_ok=True)

    def get(self, key: str) -> Entry | None:
        path = self._path(key)
        if not path.exists():
            return None
        try:
            entry: dict[str, Tensor] = load_file(path)
            expected = int(entry.pop(_CHECKSUM))
            if key not in self._checked and _checksum(entry) != expected:
                raise OSError("its checksum differs")
            self._checked.add(key)
            return entry
        except (SafetensorError, OSError, KeyError) as error:
            logger.warning("%s is damaged (%s): computed afresh", path, error)
            with suppress(OSError):
                path.unlink()
            return None

    def put(self, key: str, entry: Entry) -> bool:
        """Whether the entry is stored."""
        if self.full:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < entry_bytes(entry) + _RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_path(self._path(key)) as unfinished:
                whole = {name: tensor.contiguous() for name, tensor in entry.items()}
                save_file({**whole, _CHECKSUM: torch.tensor(_checksum(whole))}, unfinished)
        except (OSError, SafetensorError) as error:  # safetensors wraps what the disk says
            self.full = True
            logger.warning(
                "the feature cache in %s takes no more (%s): what does not fit is computed each "
                "time",
                *(self._folder, error),
            )
            return False
        return True

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


class TieredStore:
    """The first of several stores that takes an entry, keeps it."""

    def __init__(self, *stores: MemoryStore | DiskStore):
        self._stores = stores

    @property
    def full(self) -> bool:
        """No store takes any more."""
        return all(store.full for store in self._stores)

    def get(self, key: str) -> Entry | None:
        found = (store.get(key) for store in self._stores)
        return next((entry for entry in found if entry is not None), None)

    def put(self, key: str, entry: Entry) -> bool:
        """Whether the entry is stored."""
        return any(store.put(key, entry) for store in self._stores)


def available_memory() -> int:
    """Bytes of main memory that this process could still use, within its container's limit."""
    return max(0, min([_meminfo_available(), *_cgroup_available()]))


def _cgroup_available() -> Iterator[int]:
    for folder, limit, usage, cached in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        try:
            most = int(Path(folder, limit).read_text())  # "max" is no number: no limit
            used = int(Path(folder, usage).read_text())
            lines = Path(folder, "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        # cached files count as used, but make room for whoever needs it
        yield most - used + sum(int(li.split()[1]) for li in lines if li.split()[0] == cached)


def _meminfo_available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
