"""What is wrong with a file is said clearly; which image files there are, and which can be read."""

from __future__ import annotations

import errno
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats import files as images
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.files import (
    list_images,
    natural_key,
    need,
    number,
    probe_image,
    probe_images,
    read_json,
)
from transfer_maskrcnn.errors import DatasetError


@pytest.mark.parametrize("name", FORMATS)
def test_annotations_missing(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such"
    with pytest.raises(DatasetError, match=re.escape(str(missing))):
        FORMATS[name](missing, tmp_path)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"yolo"}))  # which takes both
def test_annotations_of_the_wrong_sort(name: str, tmp_path: Path) -> None:
    is_file = name in ("coco", "via")
    path = tmp_path if is_file else tmp_path / "a.json"
    if not is_file:
        path.write_text("{}")
    with pytest.raises(DatasetError, match="expected a " + ("file" if is_file else "folder")):
        FORMATS[name](path, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_image_root_missing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("names: [cat]\ntrain: images")
    annotations = tmp_path if name in ("labelme", "png_masks") else path
    with pytest.raises(DatasetError, match=r"image_root .*nowhere does not exist"):
        FORMATS[name](annotations, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["coco", "via", "labelme"])
def test_broken_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [],\n "annotations": [1 2],\n "x": 1}')
    message = r"a\.json is not valid json: line 2, column 20: .*'\"annotations\": \[1 2\],'"
    with pytest.raises(DatasetError, match=message):
        FORMATS[name](tmp_path if name == "labelme" else path, tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "line 1, column 1"),
        (b"   ", "line 1, column 4"),
        (b'{"a": [1, 2', "line 1, column 12"),  # an interrupted download
        (b"\xff\xfe{\x00}\x00", "not UTF-8 text"),
        (b"[" * 100_000, "usable json|valid json"),
        (b"[" + b"9" * 5000 + b"]", "usable json"),
        (b"<html>", "looks like XML or a web page"),
    ],
)
def test_unusable_json(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_json(path)


def test_a_long_line_is_clipped_around_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "1, " * 5000 + "here oops" + ", 1" * 5000 + "]")
    with pytest.raises(DatasetError, match="here oops") as error:
        read_json(path)
    assert len(str(error.value)) < 400 + len(str(path))


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    "value, kind, expected",
    [(3, int, 3), (3.0, int, 3), (True, int, None), (3.5, int, None), (float("inf"), int, None)],
)
def test_need(value: Any, kind: type, expected: Any) -> None:
    if expected is not None:
        assert need({"a": value}, "a", kind, "f.json", "x[2]") == expected
        return
    with pytest.raises(DatasetError, match=r"f\.json: x\[2\]\.a is .*; expected a whole number"):
        need({"a": value}, "a", kind, "f.json", "x[2]")


@pytest.mark.parametrize("value", ["x", "1e400", None, True, [1], 10**400])
def test_no_number(value: Any) -> None:
    assert number(value) != number(value)  # NaN


def test_no_format_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    load: Callable[..., Any]
    for load in FORMATS.values():
        with pytest.raises(DatasetError):
            load(tmp_path, tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_what_detectron2_reads(
    make_image: Callable[..., Path], orientation: int, suffix: str
) -> None:
    path = make_image(f"a.{suffix}", 20, 30, orientation)
    probe = probe_image(str(path))
    assert probe.problem is None
    assert probe.size == read_image(str(path), "BGR").shape[:2]
    assert probe.stored_size == (20, 30)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_tiff_is_no_good(make_image: Callable[..., Path], orientation: int) -> None:
    # Pillow applies the orientation of a TIFF when decoding, and detectron2 does so again. Where
    # this fails, one of them has changed, and the exception for TIFF can go.
    upright, turned = (
        make_image("a.png", 20, 30, orientation),
        make_image("a.tiff", 20, 30, orientation),
    )
    seen, expected = read_image(str(turned), "BGR"), read_image(str(upright), "BGR")
    assert seen.shape != expected.shape or (seen != expected).any()
    assert probe_image(str(turned)).problem == Reason.IMAGE_TURNED_TIFF
    assert probe_image(str(make_image("b.tiff", 20, 30))).size == (20, 30)


@pytest.mark.parametrize(
    "suffix, dtype",
    [
        ("png", "uint16"),
        ("tiff", "uint16"),
        ("tiff", ">u2"),
        ("tiff", "int32"),
        ("tiff", "float32"),
    ],
)
def test_deep_pixels_are_no_good(tmp_path: Path, suffix: str, dtype: str) -> None:
    # Where this fails, detectron2 or Pillow scales them, and the exception can go.
    path = tmp_path / f"a.{suffix}"
    ramp = np.linspace(300, 60000, 600).reshape(20, 30).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.fromarray(ramp).save(path)
    assert (read_image(str(path), "BGR") == 255).all()
    assert probe_image(str(path)).problem == Reason.IMAGE_DEEP


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_shallow_pixels_are_fine(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new(mode, (30, 20)).save(path)
    assert probe_image(str(path)).problem is None


def test_png_orientation_behind_the_pixels(make_image: Callable[..., Path]) -> None:
    # A PNG may carry its eXIf chunk after the pixel data; PIL finds it there only by decoding.
    path = make_image("a.png", 20, 30, 6)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    chunk, end = data[start : start + length], data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[start + length : end] + chunk + data[end:])
    assert read_image(str(path), "BGR").shape[:2] == (30, 20)
    assert probe_image(str(path)).size == (30, 20)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_cut_short(make_image: Callable[..., Path], suffix: str, share: float) -> None:
    path = make_image(f"a.{suffix}", 60, 80)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    problem = Reason.IMAGE_TRUNCATED if share else Reason.IMAGE_EMPTY
    assert probe_image(str(path)).problem == problem


def test_damaged_png_with_a_whole_end(make_image: Callable[..., Path]) -> None:
    # Pillow up to 12 hands detectron2's read_image the decoded half of it without an error.
    path = make_image("a.png", 60, 80)
    data = bytearray(path.read_bytes())
    pixels = data.index(b"IDAT") + 4
    data[pixels + 8 : pixels + 16] = bytes(8)
    path.write_bytes(data)
    assert probe_image(str(path)).problem == Reason.IMAGE_TRUNCATED


def test_thumbnail_does_not_pass_for_the_end_of_a_jpeg(make_image: Callable[..., Path]) -> None:
    path = make_image("a.jpg", 60, 80)
    data = path.read_bytes()
    thumbnail = make_image("thumbnail.jpg", 8, 8).read_bytes()
    header = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail  # an APP5 segment
    path.write_bytes(data[:2] + header + data[2:])
    assert probe_image(str(path)).problem is None
    path.write_bytes(data[:2] + header + data[2 : len(data) // 2])
    assert probe_image(str(path)).problem == Reason.IMAGE_TRUNCATED


def test_bytes_behind_the_end_are_no_fault(make_image: Callable[..., Path]) -> None:
    path = make_image("a.jpg")
    path.write_bytes(path.read_bytes() + b"\xff\xda maker's trailer" * 10)
    assert probe_image(str(path)).problem is None


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", Reason.IMAGE_EMPTY),
        (b"<html>404</html>", Reason.IMAGE_NO_IMAGE),  # a download that failed
        (None, Reason.IMAGE_MISSING),
    ],
)
def test_no_image(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    assert probe_image(str(path)).problem == problem


def tiff(bands: int, bits: int) -> bytes:
    """A TIFF of 2 x 2 pixels, not compressed."""
    values = {256: 2, 257: 2, 259: 1, 262: 1, 273: 200, 277: bands, 278: 2, 279: 4 * bands}
    tags = {**{tag: (1, value) for tag, value in values.items()}, 258: (bands, 150)}
    entries = [struct.pack("<HHII", k, 3, *tags[k]) for k in sorted(tags)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    return head.ljust(150, b"\0") + struct.pack("<H", bits) * bands + bytes(400)


@pytest.mark.parametrize(
    "content, problem, note",
    [
        (bytes(128) + b"DICM", Reason.IMAGE_FORMAT, "DICOM"),
        (b"\x93NUMPY\x01\0v\0{'descr'", Reason.IMAGE_FORMAT, "NumPy"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", Reason.IMAGE_FORMAT, "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", Reason.IMAGE_FORMAT, "video"),
        (b"%PDF-1.4", Reason.IMAGE_FORMAT, "drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", Reason.IMAGE_FORMAT, "git lfs pull"),
        (tiff(5, 8), Reason.IMAGE_BANDS, "5 bands of 8 bits"),
        (tiff(7, 16), Reason.IMAGE_BANDS, "7 bands of 16 bits"),
        (b"II*\0\xff\xff\xff\xff", Reason.IMAGE_NO_IMAGE, "begins with"),
    ],
)
def test_one_cause_one_remedy(tmp_path: Path, content: bytes, problem: Reason, note: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    probe = probe_image(str(path))
    assert probe.problem is problem and note in probe.note


def test_more_pixels_than_pillow_opens(
    make_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_image("a.jpg", 20, 30)  # a sound file
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    assert probe_image(str(path)).problem is Reason.IMAGE_TOO_LARGE


def test_no_right_to_read(make_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = make_image("a.jpg")
    monkeypatch.setattr("builtins.open", refuse)  # who tests as root may read everything
    probe = probe_image(str(path))
    assert (probe.problem, probe.note) == (Reason.IMAGE_UNREADABLE, "Permission denied")


@pytest.mark.parametrize("name", ["", "a\0b.jpg", "x" * 5000, "."])
def test_impossible_paths_are_missing(tmp_path: Path, name: str) -> None:
    assert probe_image(f"{tmp_path}/{name}").problem == Reason.IMAGE_MISSING


def test_good_images_are_not_decoded(
    make_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(make_image(name)) for name in ("a.jpg", "b.png")]

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    assert [p.problem for p in probe_images(paths)] == [None, None]


def test_order_is_kept(make_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "THREADS", 3)
    paths = [str(make_image(f"{k}.png", 4 + k, 5)) for k in range(20)]
    assert [p.size for p in probe_images(paths)] == [(4 + k, 5) for k in range(20)]


def test_natural_order(make_image: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a10.png", "a9.JPG", "a09.png", "b.txt", "sub/c.png"):
        make_image(name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    assert [p.name for p in list_images(tmp_path)] == ["a9.JPG", "a09.png", "a10.png"]
    assert [p.name for p in list_images(tmp_path, recursive=True)][-1] == "c.png"
    assert natural_key("x" + "9" * 5000) < natural_key("x" + "9" * 5001)  # no limit on digits
