"""Image files: which there are, their size as a viewer shows it, and whether they can be read."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from .base import Reason

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
)
_EXIF_ORIENTATION = 0x0112
_TAIL_BYTES = 64 * 1024
_LATE_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_THREADS = 8


@dataclass(frozen=True)
class ImageProbe:
    """What the header of an image file says. Sizes are (height, width) in pixels.

    ``size`` is what a viewer, and detectron2's ``read_image``, shows: EXIF orientation applied.
    ``stored_size`` is the size before that. ``problem`` is why it cannot be used, or None.
    """

    size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    problem: Reason | None = None


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key that puts "cat2" before "cat10"."""
    parts = re.split(r"([0-9]+)", text)
    numbers = [part.lstrip("0") for part in parts[1::2]]  # compared by length, then by digits
    key = [(0, part) for part in parts]
    key[1::2] = [(len(number), number) for number in numbers]
    return key


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The image files in ``folder``, by suffix, in natural order of their names."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    images = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    return sorted(images, key=lambda p: natural_key(p.as_posix()))


def images_by_stem(images: Iterable[Path]) -> dict[str, Path]:
    """Name without suffix -> path; of several with one name, the first."""
    index: dict[str, Path] = {}
    for path in images:
        index.setdefault(path.stem, path)
    return index


def probe_images(paths: Sequence[str]) -> list[ImageProbe]:
    """:func:`probe_image` of every path, in threads; the order is kept."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")  # PIL's remarks on odd but readable metadata
        return list(pool.map(probe_image, paths))


def probe_image(path: str) -> ImageProbe:
    """Size and readability of one image file, without decoding it where that can be avoided.

    A PNG's checksums are verified. A JPEG whose end shows that it is complete is not decoded; one
    that seems cut short, and every other format, is.
    """
    if not os.path.isfile(path):
        return ImageProbe(problem=Reason.IMAGE_MISSING)
    try:
        return _probe_file(path)
    except Exception:  # PIL's decoders raise nearly every type of exception on damaged files
        return ImageProbe(problem=Reason.IMAGE_UNREADABLE)


def _probe_file(path: str) -> ImageProbe:
    with open(path, "rb") as file:
        tail = _tail(file)
        with Image.open(file) as image:
            width, height = image.size
            orientation = _orientation(image, tail)
            if image.format == "TIFF" and orientation in range(2, 9):
                # Pillow turns a TIFF when it decodes it, detectron2's read_image once more.
                return ImageProbe(problem=Reason.IMAGE_TURNED_TIFF)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return ImageProbe(problem=Reason.IMAGE_DEEP)
            if image.format == "PNG":
                _check_png(file)
            elif not _looks_complete(image.format, tail):
                image.load()
    turned = orientation in (5, 6, 7, 8)
    shown = (width, height) if turned else (height, width)
    return ImageProbe(size=shown, stored_size=(height, width))


def _tail(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    file.seek(0)
    return tail


def _check_png(file: BinaryIO) -> None:
    """Raise unless every chunk's checksum is right: detectron2's ``read_image`` looks for EXIF data
    first, swallows the error of a broken picture there, and trains on the half that was decoded."""
    file.seek(0)
    with Image.open(file) as image:
        image.verify()


def _looks_complete(image_format: str | None, tail: bytes) -> bool:
    if image_format in ("JPEG", "MPO"):
        # The last end-of-image marker must come after the last start of scan: a thumbnail inside
        # the header has such a marker too.
        return tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")
    return False


def _orientation(image: Image.Image, tail: bytes) -> int | None:
    """The EXIF orientation as detectron2's ``read_image`` sees it, 1 to 8."""
    try:
        if image.format == "PNG" and not any(marker in tail for marker in _LATE_EXIF):
            # PngImageFile.getexif decodes the whole image to find metadata behind the pixels.
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
    except Exception:  # detectron2 ignores broken EXIF data in the same way
        return None
    value = exif.get(_EXIF_ORIENTATION)
    return value if isinstance(value, int) else None
