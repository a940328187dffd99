"""A photograph that a camera stored turned is seen upright, as detectron2 sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from transfer_maskrcnn.report.photographs import exif_orientation, read_pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # one bright corner shows every turn and every mirror
    pixels[8:, :8] = 120
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photograph.jpg"
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)
    seen = read_pixels(path)
    expected = read_image(str(path), "RGB")
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).max() < 20


def test_grey_png(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(path)
    assert read_pixels(path).tolist() == np.eye(4).tolist()


JPEG = b"\xff\xd8\xff\xe1\x00\x30Exif\0\0"
ENTRY = {
    "little": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
    "big": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0",
}


@pytest.mark.parametrize(
    ("header", "orientation"),
    [
        (JPEG + ENTRY["little"], 6),
        (JPEG + ENTRY["big"], 6),
        (JPEG + ENTRY["big"][:12], 1),  # cut
        (JPEG, 1),
        (b"\xff\xd8\xff\xe0", 1),  # no Exif block
        (b"\x89PNG" + b"Exif\0\0" + ENTRY["little"], 1),  # no JPEG
        (b"", 1),
    ],
)
def test_headers(header: bytes, orientation: int) -> None:
    assert exif_orientation(header) == orientation
