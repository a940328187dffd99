from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.doctor.image_facts import image_facts
from transfer_maskrcnn.errors import DatasetError

from .conftest import picture


def _save(path: Path, image: Image.Image) -> dict[str, str]:
    image.save(path)
    return {"file_name": str(path)}


PIXELS = {
    "RGB": ("colour", False),
    "L": ("grey", False),
    "1": ("grey", False),
    "P": ("colour", False),
    "RGBA": ("colour", False),  # opaque
}


@pytest.mark.parametrize("mode", PIXELS)
def test_kinds_of_pixels(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(picture(1)).convert(mode)
    facts = image_facts(_save(tmp_path / "a.png", image), lambda record: None)
    assert (facts.pixels, facts.transparent) == PIXELS[mode]
    assert facts.failure == "" and facts.orientation == 1 and len(facts.thumb) == 32 * 32


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetError("cannot use image a.png"), "cannot use image a.png"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_what_the_mapper_says(error: Exception, message: str, tmp_path: Path) -> None:
    def mapper(record: dict[str, str]) -> None:
        raise error

    record = _save(tmp_path / "a.png", Image.fromarray(picture(1)))
    assert image_facts(record, mapper).failure == message


def test_a_file_that_vanished(tmp_path: Path) -> None:
    facts = image_facts({"file_name": str(tmp_path / "a.png")}, lambda record: None)
    assert "FileNotFoundError" in facts.failure and facts.thumb == b""


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), mode="P")
    image.putpalette([k for k in range(256) for _ in range(3)])
    image.save(tmp_path / "a.png", transparency=3)
    facts = image_facts({"file_name": str(tmp_path / "a.png")}, lambda record: None)
    assert facts.transparent
