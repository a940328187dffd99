"""The engine of all thumbnails: upright images, and outlines where the objects are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from transfer_maskrcnn.report.tiles import (
    SIDE,
    Drawn,
    Line,
    draw_tile,
    open_upright,
    outline,
    window_around,
)

SQUARE = [[10, 20, 40, 20, 40, 50, 10, 50]]
GREY = Image.new("RGB", (60, 60), (128, 128, 128))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_that_was_stored_turned_is_upright(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # one bright corner shows every turn and every mirror
    pixels[8:, :8] = 120
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photograph.jpg"
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)
    expected = read_image(str(path), "RGB")
    height, width = expected.shape[:2]
    seen = open_upright(path, width, height)
    assert seen is not None and np.abs(np.asarray(seen).astype(int) - expected).max() < 20
    assert (open_upright(path, height, width) is None) == (height != width)


MODES = [
    # pixels as they are stored, the red, green and blue of the first two pixels
    (np.array([[0, 200]], np.uint8), [(0,) * 3, (200,) * 3]),
    (np.array([[1000, 5000]], np.uint16), [(0,) * 3, (255,) * 3]),
    (np.array([[[9, 8, 7, 0], [1, 2, 3, 255]]], np.uint8), [(9, 8, 7), (1, 2, 3)]),  # transparent
]


@pytest.mark.parametrize(("pixels", "seen"), MODES)
def test_every_kind_of_pixel(pixels: npt.NDArray[Any], seen: list[Any], tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = open_upright(tmp_path / "a.png", 2, 1)
    assert image is not None and [image.getpixel((x, 0)) for x in (0, 1)] == seen


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    assert open_upright(tmp_path / "a.png", 1, 1) is None
    assert open_upright(tmp_path / "gone.png", 1, 1) is None


def bounds(lines: list[Line]) -> list[float]:
    points = np.vstack(lines)
    return [*points.min(axis=0), *points.max(axis=0)]


INSTANCES = [
    # instance, left, top, right, bottom in pixels, how exactly
    ({"segmentation": SQUARE}, [10, 20, 40, 50], 0.0),
    ({"bbox": [10, 20, 30, 30]}, [10, 20, 40, 50], 0.0),
    # run lengths as numbers, columns of 60 pixels: the line runs between pixels inside and outside
    ({"segmentation": {"size": [60, 60], "counts": [620, 30, 2950]}}, [10, 20, 11, 50], 1e-6),
    # the whole image
    ({"segmentation": {"size": [60, 60], "counts": [0, 3600]}}, [0, 0, 60, 60], 1e-6),
]


@pytest.mark.parametrize(("instance", "expected", "off"), INSTANCES)
def test_outlines_are_closed_and_in_place(
    instance: dict[str, Any], expected: list[float], off: float
) -> None:
    lines = outline(instance, 60, 60)
    assert bounds(lines) == pytest.approx(expected, abs=off)
    assert all((line[0] == line[-1]).all() for line in lines)


def test_a_hole_has_an_outline_and_an_empty_mask_none() -> None:
    mask = np.ones((9, 9), int)
    mask[3:6, 3:6] = 0
    changes = np.flatnonzero(np.diff(mask.ravel())) + 1
    counts = [0, *(len(run) for run in np.split(mask.ravel(), changes))]
    assert len(outline({"segmentation": {"size": [9, 9], "counts": counts}}, 9, 9)) == 2
    assert outline({"segmentation": {"size": [9, 9], "counts": [81]}}, 9, 9) == []


WINDOWS = [
    # points, width, height, window
    ([], 800, 600, (0, 0, 800, 600)),
    # a tiny one: the least window, in the middle and at the corner
    ([(400, 300), (410, 310)], 800, 600, (381, 281, 429, 329)),
    ([(799, 599)], 800, 600, (752, 552, 800, 600)),
    # 100 pixels, and 70 on each side
    ([(100, 300), (200, 310)], 800, 600, (30, 185, 270, 425)),
    # it nearly fills the image
    ([(0, 0), (400, 300)], 800, 600, (0, 0, 800, 600)),
    # a strip is lower than the window is high
    ([(400, 10)], 800, 20, (376, 0, 424, 20)),
]


@pytest.mark.parametrize(("points", "width", "height", "window"), WINDOWS)
def test_windows(points: list[Any], width: int, height: int, window: Any) -> None:
    lines = [np.array(points, float)] if points else []
    assert window_around(lines, width, height) == window


def drawn(*lines: Line, window: Any = None, label: str = "") -> npt.NDArray[Any]:
    data = draw_tile(GREY, [Drawn(lines, "#ff0000", 3, label)], window)
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def test_lines_are_drawn_with_a_white_edge_where_they_are() -> None:
    (line,) = outline({"segmentation": SQUARE}, 60, 60)
    for window, place in ((None, (10, 20)), ((5, 15, 45, 55), (5, 5))):
        pixels = drawn(line, window=window)
        scale = SIDE / (60 if window is None else 40)
        red = (pixels[..., 0] - pixels[..., 1] > 120).nonzero()
        assert [red[1].min() / scale, red[0].min() / scale] == pytest.approx(place, abs=0.5)
        assert (pixels.min(axis=2) > 200).sum() > 200, "the edge"
        assert (np.abs(pixels - 128).max(axis=2) < 40).mean() > 0.7, "the image"


def test_lines_far_outside_and_undefined_ones_do_no_harm() -> None:
    wild = np.array([[1e12, 30], [-1e12, 30], [np.nan, np.inf]])
    assert drawn(wild).shape == (SIDE, SIDE, 3)
    assert drawn(label="nothing").shape == (SIDE, SIDE, 3)


def test_a_label_stays_within_the_tile() -> None:
    corner = np.array([[58.0, 1.0], [60.0, 3.0]])
    pixels = drawn(corner, label="a long name 0.99")
    letters = np.argwhere(pixels.max(axis=2) < 60)  # the black rim
    assert len(letters) > 100 and letters[:, 0].max() < 30
    assert np.ptp(letters[:, 1]) > 80
