"""The one cache: what was computed once, found again by a digest of all that it depends on.

An entry is a ``.safetensors`` file: tensors, and a value that JSON can hold. It appears whole or
not at all; one that is damaged is removed, as if it had never been there. Nothing here can end a
run: where the disk is full or read-only, entries are not kept, and one warning says so.

::

    cache = user_cache("source_matches")
    key = digest_of([__version__, ...])          # all that the result depends on
    entry = cache.get(key)
    if entry is None:
        cache.put(key, {"scores": scores}, {"iou_type": "bbox"})

What grows image by image is a cache of its own, ``user_cache("teacher", key)``, with an entry an
image: a killed run loses only what it was computing.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from transfer_maskrcnn.files import atomic_path

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_HEADER = "crc32 value"  # one key, since safetensors writes several in any order
_MAX_BYTES = 2_000_000_000  # of all entries in the user's folder
_SWEEP_BYTES = 64_000_000  # written between two looks at how many there are
_RESERVE = 2**30  # bytes of the disk that stay free for checkpoints


class Entry(NamedTuple):
    """``tensors`` lie in a memory map of the file: reading them costs nothing until they are used,
    and processes that are forked share them. ``value`` is what JSON makes of the value written:
    tuples have become lists."""

    tensors: dict[str, Tensor]
    value: Any


def user_folder() -> Path | None:
    """The absolute path of the user's cache, which need not exist; None where there is to be none.

    ``$TRANSFER_CACHE``, else ``$XDG_CACHE_HOME/transfer_maskrcnn``, else
    ``~/.cache/transfer_maskrcnn``. An empty ``TRANSFER_CACHE`` switches the cache off.
    """
    own = os.environ.get("TRANSFER_CACHE")
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if own is not None:
            return Path(own).expanduser().absolute() if own else None
        # The XDG standard has a relative path ignored.
        home = shared if shared.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # the user has no home
        return None
    return home / "transfer_maskrcnn"


def user_cache(kind: str, *parts: str) -> Cache:
    """The entries of a kind in the user's cache; without such a cache, none, and none are kept."""
    root = user_folder()
    return Cache(None if root is None else root.joinpath(kind, *parts), bounded=root)


def digest_of(content: Any) -> str:
    """A key for what depends on ``content``, which JSON can hold: 32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


class Cache:
    """Entries in a folder, by key.

    Attributes:
        folder: of its files, which need not exist; None: nothing is kept.
        full: something could not be written, and nothing more is.
    """

    def __init__(self, folder: Path | None, bounded: Path | None = None):
        """
        Args:
            folder: of the entries; None for a cache that keeps nothing.
            bounded: a folder above, in which the entries that were not used for longest are removed
                when all together are too large; None: all stay.
        """
        self.folder = folder
        self.full = folder is None
        self._bounded = bounded
        self._unswept = _SWEEP_BYTES
        self._checked: set[str] = set()

    def path(self, key: str) -> Path:
        """Where the entry of ``key`` is, or would be."""
        if self.folder is None:
            raise ValueError("a cache that is switched off has no files")
        return self.folder / f"{key}{_SUFFIX}"

    def keys(self) -> set[str]:
        """All that there are; whether each can be read, :meth:`get` finds out."""
        found = () if self.folder is None else self.folder.glob(f"[!.]*{_SUFFIX}")
        return {path.name.removesuffix(_SUFFIX) for path in found}

    def get(self, key: str) -> Entry | None:
        """The entry of ``key``; None where there is none, or a damaged one, which is removed.

        Its checksum is verified the first time. It becomes the last to be removed for want of room.
        """
        if self.folder is None:
            return None
        path = self.path(key)
        try:
            stored, checksum = _read(path)
            if key not in self._checked and checksum != _checksum(key, stored):
                raise ValueError("its checksum differs")
            entry = Entry(stored.tensors, json.loads(stored.value))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # a file that was made to do harm can lead to anything
            logger.warning("%s is damaged (%s): computed afresh", path, error)
            self.remove(key)
            return None
        self._checked.add(key)
        if self._bounded is not None:
            with suppress(OSError):  # the folder may be read-only
                os.utime(path)
        return entry

    def put(self, key: str, tensors: Mapping[str, Any] | None = None, value: Any = None) -> bool:
        """Keep an entry, unless there is no room for it.

        Args:
            key: a file name without suffix, such as :func:`digest_of` gives.
            tensors: name -> tensor on the CPU, or numpy array.
            value: anything that JSON can hold.

        Returns:
            whether it is kept now.
        """
        if self.full:
            return False
        whole = {name: torch.as_tensor(t).contiguous() for name, t in (tensors or {}).items()}
        entry = Entry(whole, json.dumps(value))
        header = {_HEADER: f"{_checksum(key, entry)} {entry.value}"}
        size = entry_bytes(whole) + len(entry.value)
        if self._bounded is not None and size > _MAX_BYTES:
            return False
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < size + _RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_path(path) as unfinished:
                save_file(whole, unfinished, metadata=header)
        except (OSError, SafetensorError) as error:  # safetensors wraps what the disk says
            self.full = True
            _warn_once(self.folder, str(error))
            return False
        self._unswept += size
        if self._unswept >= _SWEEP_BYTES:
            self._unswept = 0
            make_room(self._bounded or path.parent, _MAX_BYTES if self._bounded else math.inf)
        return True

    def remove(self, key: str) -> None:
        """Remove the entry of ``key``, if there is one."""
        with suppress(OSError):
            self.path(key).unlink()


def entry_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of an entry's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _read(path: Path) -> tuple[Entry, int]:
    """The entry, its value still JSON, and the checksum that was written with it."""
    os.stat(path)  # safetensors' own error is not one that says "not found"
    with safe_open(path, framework="pt") as file:
        checksum, _, value = file.metadata()[_HEADER].partition(" ")
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    return Entry(tensors, value), int(checksum)


def _checksum(key: str, entry: Entry) -> int:
    value = zlib.crc32(f"{key} {entry.value}".encode())
    for name, tensor in sorted(entry.tensors.items()):
        described = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(content, zlib.crc32(described, value))
    return value


@functools.cache
def _warn_once(folder: Path | None, why: str) -> None:
    logger.warning("%s takes no more (%s): what is missing is computed anew", folder, why)


def make_room(folder: Path, most: float) -> None:
    """Remove the entries anywhere in ``folder`` that were not used for longest until the others
    have at most ``most`` bytes."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process may have removed it
            status = path.lstat()
            if path.name.endswith(_SUFFIX):
                found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
