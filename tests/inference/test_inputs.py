"""What a user names -> files, names for what is written, pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.inference.inputs import find_inputs, output_names, read_bgr


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files: only names matter here."""
    names = ("a/1.jpg", "a/2.png", "a/10.JPG", "a/notes.txt", "a/deep/1.jpg", "b/1.jpg")
    for name in (
        *names,
        "clip.mp4",
        "odd.data",
        "a[1].png",
        "empty/notes.txt",
        "found/overlays/1.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


INPUTS: list[tuple[list[str], list[str]]] = [
    # a folder: the images directly in it, in natural order
    (["a"], ["a/1.jpg", "a/2.png", "a/10.JPG"]),
    # files in the order given, each once
    (["b/1.jpg", "a/1.jpg", "b/../b/1.jpg"], ["b/1.jpg", "a/1.jpg"]),
    # a glob takes images alone
    (["a/*"], ["a/1.jpg", "a/10.JPG", "a/2.png"]),
    # at any depth, but for what an earlier run has written
    (["**/1.jpg"], ["a/1.jpg", "a/deep/1.jpg", "b/1.jpg"]),
    # a folder and a file of it
    (["a/2.png", "a"], ["a/2.png", "a/1.jpg", "a/10.JPG"]),
    # brackets in a name are no glob where the file is there
    (["a[1].png"], ["a[1].png"]),
    # a file that is named is tried, whatever its suffix
    (["odd.data"], ["odd.data"]),
    (["clip.mp4"], ["clip.mp4"]),
]


@pytest.mark.parametrize(("given", "expected"), INPUTS)
@pytest.mark.usefixtures("tree")
def test_inputs(given: list[str], expected: list[str]) -> None:
    assert [path.as_posix() for path in find_inputs(given, Path("found"))] == expected


@pytest.mark.usefixtures("tree")
def test_an_output_among_the_images() -> None:
    assert find_inputs(["a/*.jpg"], Path("a")) == [Path("a/1.jpg")]


WRONG_INPUTS = [
    (["empty"], r"--input empty: the folder holds no image file.*'empty/\*\*/\*\.jpg'"),
    (["a/*.tif"], r"--input a/\*\.tif: no image file matches"),
    (["gone.jpg"], r"gone\.jpg: there is no such file or folder; check"),
    (["b/1.jpg", "MODEL.DEVICE", "cpu"], r"KEY VALUE pair must not follow --input's paths"),
    (["a", "clip.mp4"], r"clip\.mp4: a video is taken alone, and 3 more files are named"),
]


@pytest.mark.parametrize(("given", "message"), WRONG_INPUTS)
@pytest.mark.usefixtures("tree")
def test_inputs_that_name_nothing(given: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        find_inputs(given, Path("found"))


NAMES: list[tuple[list[str], list[str]]] = [
    # unlike anyway
    (["/p/x/1.jpg", "/p/x/2.jpg"], ["1", "2"]),
    # alike in two folders; the third is not touched
    (["/p/x/1.jpg", "/p/y/1.jpg", "/p/x/2.jpg"], ["x-1", "y-1", "2"]),
    # alike two folders up
    (["/p/x/i/1.jpg", "/p/y/i/1.jpg"], ["x-i-1", "y-i-1"]),
    # by suffix alone
    (["/p/x/1.jpg", "/p/x/1.png"], ["1-jpg", "1-png"]),
    # on file systems that do not know case
    (["/p/x/A.jpg", "/p/y/a.jpg"], ["x-A", "y-a"]),
    # a name that another got
    (["/p/x/1.jpg", "/p/y/1.jpg", "/p/z/x-1.jpg"], ["p-x-1", "y-1", "p-z-x-1"]),
]


@pytest.mark.parametrize(("paths", "names"), NAMES)
def test_names_are_never_shared(paths: list[str], names: list[str]) -> None:
    found = output_names([Path(path) for path in paths])
    assert found == names
    assert len({name.casefold() for name in found}) == len(paths)


def test_exif_turns_the_image(tmp_path: Path) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:10, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    pixels = read_bgr(tmp_path / "turned.png")
    assert pixels.shape == (30, 20, 3)
    assert pixels[0, -1].min() == 255
    assert pixels[0, 0].max() == 0


KINDS: list[tuple[str, tuple[int, ...], object, list[int]]] = [
    # PIL's mode, colour there, colour read: BGR
    ("L", (), 77, [77, 77, 77]),
    ("RGBA", (4,), [10, 20, 30, 0], [30, 20, 10]),
    ("RGB", (3,), [10, 20, 30], [30, 20, 10]),
]


@pytest.mark.parametrize(("mode", "last", "colour", "expected"), KINDS)
def test_every_kind_of_image_is_bgr(
    mode: str, last: tuple[int, ...], colour: object, expected: list[int], tmp_path: Path
) -> None:
    pixels = np.full((8, 9, *last), colour, np.uint8)
    Image.fromarray(pixels, mode).save(tmp_path / "image.png")
    read = read_bgr(tmp_path / "image.png")
    assert read.shape == (8, 9, 3)
    assert read[4, 4].tolist() == expected


def test_deep_images_are_refused_as_in_training(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((8, 8), 40000, np.uint16))
    with pytest.raises(DatasetError, match=r"deep\.png: of 16-bit .*: save as 8 bit"):
        read_bgr(tmp_path / "deep.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_half_an_image_is_no_image(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"half{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=f"half{suffix}: "):
        read_bgr(path)
