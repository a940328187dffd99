"""What one image file holds: its kind of pixels, its orientation, and what it looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer_maskrcnn.errors import DatasetError

_EXIF_ORIENTATION = 0x0112
_THUMB = 32  # pixels a side


@dataclass(frozen=True)
class ImageFacts:
    """Of one image that the loader keeps.

    Attributes:
        failure: why detectron2's mapper cannot use it, or "".
        pixels: "grey", "colour" or "cmyk".
        transparent: whether any pixel is.
        orientation: of EXIF, 1 to 8; 1 where there is none.
        digest: of the file's bytes.
        thumb: 32 x 32 grey bytes, by rows; b"" where nothing could be decoded.
    """

    failure: str = ""
    pixels: str = "colour"
    transparent: bool = False
    orientation: int = 1
    digest: bytes = b""
    thumb: bytes = b""


def image_facts(record: dict[str, Any], mapper: Callable[[dict[str, Any]], Any]) -> ImageFacts:
    """Decode the image of a dataset dict, and run ``mapper`` over the dict."""
    failure = ""
    try:
        mapper(record)
    except DatasetError as error:
        failure = str(error)
    except Exception as error:  # whatever it is, it would end the training
        failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        return _decoded(record["file_name"], failure)
    except Exception as error:  # Pillow's decoders raise nearly every type of exception
        return ImageFacts(failure or f"{type(error).__name__}: {error}")


def _decoded(file: str, failure: str) -> ImageFacts:
    with open(file, "rb") as opened:
        digest = hashlib.sha256(opened.read()).digest()
    with Image.open(file) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
        bands = image.getbands()
        cmyk = image.mode == "CMYK"
        transparent = "transparency" in image.info or "A" in bands
        if transparent:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            transparent = bool((alpha < 255).any())
        image.draft("RGB", (4 * _THUMB, 4 * _THUMB))  # of a JPEG, a fraction is decoded
        rgb = np.asarray(image.convert("RGB"))
    grey = not cmyk and bool((rgb == rgb[..., :1]).all())
    known = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    pixels = "cmyk" if cmyk else "grey" if grey else "colour"
    return ImageFacts(failure, pixels, transparent, known, digest, _thumb(rgb))


def _thumb(rgb: NDArray[np.uint8]) -> bytes:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).tobytes()
