from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from transfer_maskrcnn.data.export.base import copy_images, distinct_stems

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        # different names stay
        (["x/a.png", "x/b.png"], ["a", "b"]),
        # one name in two folders
        (["x/a.png", "y/a.png"], ["a", "y_a"]),
        # json and text files are named without the suffix
        (["x/a.png", "x/a.jpg"], ["a", "x_a"]),
        # in three folders of one name, too
        (["p/x/a.png", "q/x/a.png", "r/x/a.png", "s/x/a.png"], ["a", "x_a", "a_2", "a_3"]),
        # some file systems do not tell A from a
        (["x/a.png", "y/A.png"], ["a", "y_A"]),
        (["x/A.png", "y/a.png"], ["A", "y_a"]),
        (["x/a.png", "y/a.png", "y/A.png"], ["a", "y_a", "A_2"]),
        # a name that was made up may belong to a later file
        (["x/a.png", "y/a.png", "z/y_a.png"], ["a", "y_a", "z_y_a"]),
        # dots, spaces, no suffix
        (["x/a.b.png", "x/a c.png", "x/photo"], ["a.b", "a c", "photo"]),
    ],
)
def test_distinct_stems(files: list[str], stems: list[str]) -> None:
    assert distinct_stems(files) == stems


def test_copies_bytes(tmp_path: Path) -> None:
    source = tmp_path / "a b.JPG"
    Image.fromarray(PIXELS).save(source, "JPEG", comment=b"kept")
    copied = copy_images([str(source)], lambda stem: tmp_path / "out" / stem)
    assert copied.names == ("a b.JPG",)
    assert (tmp_path / "out" / "a b" / "a b.JPG").read_bytes() == source.read_bytes()
    assert copied.notes() == []


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_turned_by_exif(orientation: int, mode: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).convert(mode).save(source, exif=exif)
    copied = copy_images([str(source)], lambda stem: tmp_path / "out")
    assert copied.names == ("a.png",)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == ((20, 30) if orientation >= 5 else (30, 20))
        assert 0x0112 not in image.getexif()
    seen = [read_image(str(p), "RGB") for p in (source, tmp_path / "out" / "a.png")]
    assert (seen[0] == seen[1]).all()
    assert copied.notes() == ["Saved anew as PNG: 1 image turned by EXIF orientation."]


def test_a_suffix_that_tools_do_not_know(tmp_path: Path) -> None:
    source = tmp_path / "photo.jfif"
    Image.fromarray(PIXELS).save(source, "JPEG")
    copied = copy_images([str(source)], lambda stem: tmp_path / "out")
    assert copied.names == ("photo.png",)
    assert copied.notes() == ["Saved anew as PNG: 1 image with the suffix '.jfif'."]
    seen = [read_image(str(p), "RGB") for p in (source, tmp_path / "out" / "photo.png")]
    assert (seen[0] == seen[1]).all()


def test_says_what_was_renamed(tmp_path: Path) -> None:
    sources = [tmp_path / folder / "a.png" for folder in ("x", "y")]
    for k, source in enumerate(sources):
        source.parent.mkdir()
        Image.fromarray(PIXELS + k).save(source)
    copied = copy_images([str(source) for source in sources], lambda stem: tmp_path / "out")
    assert copied.names == ("a.png", "y_a.png") and copied.stems == ["a", "y_a"]
    assert copied.notes() == ["Renamed, since another had the same name: 1 image."]
