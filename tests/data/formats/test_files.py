"""Errors that all formats have in common: paths and syntax."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.files import need, number, read_json
from transfer_maskrcnn.errors import DatasetError


@pytest.mark.parametrize("name", FORMATS)
def test_annotations_missing(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such"
    with pytest.raises(DatasetError, match=re.escape(str(missing)) + r".*\$DETECTRON2_DATASETS"):
        FORMATS[name](missing, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_annotations_of_the_wrong_sort(name: str, tmp_path: Path) -> None:
    is_file = name in ("coco", "via", "yolo")
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
        (b"<html>", "'<html>'"),
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


@pytest.mark.parametrize("value", ["1", None, True, [1], 10**400])
def test_no_number(value: Any) -> None:
    assert number(value) != number(value)  # NaN


def test_no_format_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    load: Callable[..., Any]
    for load in FORMATS.values():
        with pytest.raises(DatasetError):
            load(tmp_path, tmp_path)
    assert capsys.readouterr() == ("", "")
