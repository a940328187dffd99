"""The doctor's page says what was found, shows it, and survives what is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from transfer_maskrcnn.report.doctor_page import (
    CLOSE_COLOURS,
    aspects_picture,
    centres_picture,
    close_tile,
    sides_picture,
    whole_tile,
    write_doctor_page,
)
from transfer_maskrcnn.report.page import Picture


def pixels_of(picture: Picture | None) -> npt.NDArray[np.uint8]:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"))


def near(pixels: npt.NDArray[np.uint8], colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels.astype(int) - wanted).max(axis=-1) < 60).sum())


@pytest.fixture
def grey(tmp_path: Path) -> dict[str, Any]:
    """A picture of 800 x 600 grey pixels with a square of 10."""
    file = tmp_path / "grey.png"
    Image.new("RGB", (800, 600), (90, 90, 90)).save(file)
    square = [[700, 500, 710, 500, 710, 510, 700, 510]]
    shapes = [{"label": "a", "segmentation": square}]
    return {"file": str(file), "height": 600, "width": 800, "shapes": shapes}


def test_a_tiny_object_is_cut_out_and_seen(grey: dict[str, Any]) -> None:
    tile = close_tile(grey, "here")
    assert tile is not None and tile.caption == "here (cut out: 48 × 48 of 800 × 600 pixels)"
    pixels = pixels_of(tile)
    assert near(pixels, CLOSE_COLOURS[0]) > 200
    rows = np.nonzero(np.abs(pixels.astype(int) - 90).max(axis=(1, 2)) > 60)[0]
    assert rows.max() - rows.min() > len(pixels) / 6  # a sixth of the tile, not a dot


def test_of_two_shapes_both_are_seen(grey: dict[str, Any]) -> None:
    grey["shapes"] *= 2
    pixels = pixels_of(close_tile(grey, ""))
    assert all(near(pixels, colour) > 100 for colour in CLOSE_COLOURS)


def test_a_polygon_of_less_than_a_pixel_is_seen(grey: dict[str, Any]) -> None:
    grey["shapes"][0]["segmentation"] = [[400.2, 300.2, 400.6, 300.2, 400.6, 300.6]]
    assert near(pixels_of(close_tile(grey, "")), CLOSE_COLOURS[0]) > 20


def test_rle_and_polygon_are_drawn_in_the_same_place(grey: dict[str, Any]) -> None:
    polygon = pixels_of(whole_tile(grey, {"a": "#ff0000"}, "")).astype(int)
    before = 700 * 600 + 500  # by columns
    counts = [before, *([10, 590] * 9), 10, 800 * 600 - before - 10 * 10 - 9 * 590]
    grey["shapes"][0]["segmentation"] = {"size": [600, 800], "counts": counts}
    rle = pixels_of(whole_tile(grey, {"a": "#ff0000"}, "")).astype(int)
    assert np.abs(polygon - rle).mean() < 0.5
    assert near(rle.astype(np.uint8), "#ff0000") > 0


@pytest.mark.parametrize("kind", ["missing", "damaged", "other size", "no shapes"])
def test_images_that_cannot_be_drawn(grey: dict[str, Any], kind: str) -> None:
    if kind == "missing":
        Path(grey["file"]).unlink()
    elif kind == "damaged":
        Path(grey["file"]).write_bytes(b"\x89PNG\r\n\x1a\n no")
    elif kind == "other size":
        grey["width"] = 400
    else:
        grey["shapes"] = []
    assert (close_tile(grey, "") is None) == (kind != "no shapes")
    assert (whole_tile(grey, {"a": "#ff0000"}, "") is None) == (kind != "no shapes")


def test_an_image_that_was_left_out_is_shown(
    doctor_content: dict[str, Any], grey: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever its size is, as with a wrong EXIF orientation; where it is no image, nothing."""
    left_out = {**grey, "height": None, "width": None, "shapes": []}
    gone = {**left_out, "file": str(tmp_path / "gone.png")}
    assert pixels_of(whole_tile(left_out, {}, "")).shape[:2] == (234, 312)
    doctor_content["findings"][0]["pictures"] = [(0, left_out), (1, gone)]
    html = write_doctor_page(doctor_content, tmp_path / "x.html").read_text(encoding="utf-8")
    assert html.count("<figcaption>annotations[0]: IoU 1.000</figcaption>") == 1
    assert "could not be drawn" not in html


def test_everything_is_on_the_page(doctor_content: dict[str, Any], tmp_path: Path) -> None:
    page = write_doctor_page(json.loads(json.dumps(doctor_content)), tmp_path / "x.html")
    html = page.read_text(encoding="utf-8")
    assert page == tmp_path / "x.html"
    assert html.index("1 error<") < html.index("1 warning<") < html.index("1 note<")
    assert "AP is capped" in html and "Delete one" in html
    assert html.count("<li>annotations[") == 20 and "and 5 more, which --json lists" in html
    assert "1 more could not be drawn" in html  # the file is not there
    assert "2 instances, 6 crowd regions" in html and "800 × 600 (1)" in html
    assert (
        html.count("<i style") == 2
        and '<td class="num">2</td><td><i style="width: 100.0%">' in html
    )


def test_many_classes_are_there_behind_a_click(
    doctor_content: dict[str, Any], tmp_path: Path
) -> None:
    doctor_content["datasets"][0]["classes"] = {f"class{k}": k for k in range(90)}
    html = write_doctor_page(doctor_content, tmp_path / "x.html").read_text(encoding="utf-8")
    assert html.count("<i style") == 90 and "66 more classes" in html


def test_hostile_names_are_text(doctor_content: dict[str, Any], tmp_path: Path) -> None:
    html = write_doctor_page(doctor_content, tmp_path / "x.html").read_text(encoding="utf-8")
    assert "<script" not in html and "<img src=x" not in html
    assert "&lt;script&gt;" in html


def test_nothing_found_and_nothing_loaded(tmp_path: Path) -> None:
    page = write_doctor_page(
        {"findings": [], "datasets": [], "verdict": "Nothing found."}, tmp_path / "x.html"
    )
    assert "Nothing found." in page.read_text(encoding="utf-8")


def test_an_empty_dataset(doctor_content: dict[str, Any], tmp_path: Path) -> None:
    empty = {"images": 0, "instances": 0, "classes": {"a": 0, "b": 0}}
    empty |= {"image_sizes": [], "sides": [], "aspects": [], "centres": [[0]], "pictures": []}
    doctor_content["datasets"][0] |= empty
    assert "Labels overview" in write_doctor_page(doctor_content, tmp_path / "x.html").read_text()


@pytest.mark.parametrize(
    "picture",
    [
        sides_picture([0.0, 12.5, 4000.0]),  # a logarithm of 0
        sides_picture([32.0]),
        aspects_picture([0.001, 1.0, 900.0]),
        centres_picture([[0, 9, 0], [1, 90, 3], [0, 0, 0]]),
    ],
)
def test_plots_are_drawn(picture: Picture | None) -> None:
    pixels = pixels_of(picture).astype(int)
    assert (pixels[..., 2] - pixels[..., 0] > 60).sum() > 500  # blue
    assert picture is not None and picture.alt.endswith(".")
