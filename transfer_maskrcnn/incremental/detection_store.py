"""Detections by image in a file that grows image by image, so that a killed run loses one at most.

A line is the image's digest, a checksum and the detections as JSON. What is not whole, because a
process was killed while it wrote it or the disk was full, is as if it were not there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal: a copy, or another name, has the same."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class DetectionStore:
    """Detections of one model, by digest of the image file.

    Several processes may write at a time; each sees what was there when it opened the file.
    """

    def __init__(self, path: Path):
        """Args: path: of the file, which need not exist; its folder is made."""
        self._path = path
        self._places: dict[str, int] = {}  # where in the file the JSON of an image begins
        self._reader = self._writer = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read_places()

    def _read_places(self) -> None:
        with self._path.open("rb") as file:
            start = 0
            for line in file:
                digest, _, rest = line.partition(b" ")
                checksum, _, payload = rest.partition(b" ")
                if checksum == _checksum(payload.removesuffix(b"\n")) and line.endswith(b"\n"):
                    self._places[digest.decode()] = start + len(line) - len(payload)
                start += len(line)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, digest: str) -> list[dict[str, Any]]:
        """The detections of an image.

        Raises:
            TransferError: there are none, or the file was changed since it was opened.
        """
        if digest in self._places:
            with self._path.open("rb") as file:
                file.seek(self._places[digest])
                line = file.readline()
            try:
                found: list[dict[str, Any]] = json.loads(line)
                return found
            except ValueError:
                pass
        raise TransferError(
            f"{self._path}: no detections of the image with digest {digest[:12]}; was the file "
            "changed or removed meanwhile? Start again, and what is missing is computed"
        )

    def add(self, digest: str, detections: Sequence[dict[str, Any]]) -> None:
        """Append an image's detections; they are on disk, or an OSError is raised."""
        payload = json.dumps(list(detections), separators=(",", ":")).encode()
        line = digest.encode() + b" " + _checksum(payload) + b" " + payload + b"\n"
        # O_APPEND: a line of another process may stand between two of ours, but not within one.
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            end = os.lseek(handle, 0, os.SEEK_END)
            if end and os.pread(handle, 1, end - 1) != b"\n":  # a killed writer's half line
                line = b"\n" + line
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            end = os.lseek(handle, 0, os.SEEK_CUR)
        except OSError as error:
            error.filename = str(self._path)  # os.write knows a number only
            raise
        finally:
            os.close(handle)
        self._places[digest] = end - len(payload) - 1


def _checksum(payload: bytes) -> bytes:
    return b"%08x" % zlib.crc32(payload)
