"""Images as they are looked at: cameras store some of them turned and note how."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]

_ORIENTATION = 0x0112
_HEADER_BYTES = 2**17  # the Exif block comes first in a JPEG and holds at most 64 KiB


def read_pixels(path: str | Path) -> Pixels:
    """The image, (height, width) or (height, width, channels), turned as its Exif tag says."""
    pixels = np.asarray(matplotlib.image.imread(path))
    with open(path, "rb") as file:
        orientation = exif_orientation(file.read(_HEADER_BYTES))
    if orientation in (5, 6, 7, 8):  # stored on its side
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def exif_orientation(header: bytes) -> int:
    """The orientation, 1 (upright) to 8, in the first bytes of a JPEG; 1 where there is none."""
    start = header.find(b"Exif\0\0")
    if not header.startswith(b"\xff\xd8") or start < 0:
        return 1
    block = header[start + 6 :]
    order = "<" if block.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", block, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # the block is cut
        pass
    return 1
