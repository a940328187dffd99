"""Overlays: pixels that a reader must be able to see."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.inference.drawing import Colour, class_colour, draw_detections, put_label
from transfer_maskrcnn.inference.results import Detection

CLASSES = [f"class {i}" for i in range(80)]


def luminance(pixels: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance, 0 to 1, of (..., 3) BGR."""
    linear = (np.asarray(pixels, float) / 255) ** 2.2
    return linear @ np.array([0.0722, 0.7152, 0.2126])


def contrast(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    high, low = (f(luminance(one), luminance(other)) for f in (np.maximum, np.minimum))
    return (high + 0.05) / (low + 0.05)


def square(side: int, *, masked: bool = True) -> Detection:
    """In the middle of an image of ``side``."""
    mask = np.zeros((side, side), np.uint8, order="F")
    mask[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = 1
    rle = mask_util.encode(mask)
    half = side / 2
    box = (side / 4, side / 4, half, half)
    return Detection(0, 0.9, box, rle if masked else None)


BACKGROUNDS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), class_colour(0), class_colour(3)]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("side", [96, 640, 1600])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_outlines_stand_out_from_any_background(
    background: Colour, side: int, masked: bool
) -> None:
    image = np.full((side, side, 3), background, np.uint8)
    detection = square(side, masked=masked)
    drawn = draw_detections(image, [detection], CLASSES)
    across = drawn[side * 5 // 8, : side // 2]  # from the rim to the middle, away from the label
    assert contrast(across, np.array(background)).max() > 3
    assert contrast(across.max(axis=0), across.min(axis=0)) > 3, "a dark edge and a light line"


@pytest.mark.parametrize(("side", "width"), [(96, 5), (640, 7), (1600, 12)])
def test_lines_grow_with_the_image(side: int, width: int) -> None:
    image = np.full((side, side, 3), 255, np.uint8)
    detection = square(side, masked=False)
    across = draw_detections(image, [detection], CLASSES)[side * 5 // 8, : side // 2]
    assert abs(int((across < 250).any(axis=1).sum()) - width) <= 2


def test_masks_are_tinted_and_nothing_else_changes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    before = image.copy()
    detection = square(400)
    drawn = draw_detections(image, [detection, detection], CLASSES)
    assert (image == before).all()
    inner, outer = np.s_[150:250, 150:250], np.s_[320:, :]
    assert (drawn[outer] == image[outer]).all()
    tinted = image[inner] * 0.65 + np.array(class_colour(0)) * 0.35
    assert np.abs(drawn[inner] - tinted).max() <= 1, "two masks tint as one does"


def test_small_objects_are_drawn_on_large_ones() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    large = square(300)
    mask = np.zeros((300, 300), np.uint8, order="F")
    mask[140:160, 140:160] = 1
    small = Detection(3, 0.95, (140, 140, 20, 20), mask_util.encode(mask))
    for order in ([small, large], [large, small]):
        drawn = draw_detections(image, order, CLASSES)
        assert (drawn[150, 150] == np.round(np.array(class_colour(3)) * 0.35)).all()


def test_an_empty_mask_is_no_error() -> None:
    empty = mask_util.encode(np.zeros((50, 60), np.uint8, order="F"))
    image = np.zeros((50, 60, 3), np.uint8)
    detection = Detection(0, 0.9, (70.0, 10.0, 5.0, 0.0), empty)
    assert draw_detections(image, [detection], CLASSES).shape == image.shape


def test_colours_differ_and_stay() -> None:
    colours = np.array([class_colour(i) for i in range(80)])
    assert len({tuple(c) for c in colours.tolist()}) == 80
    assert contrast(colours, np.zeros(3)).min() > 5, "black text on them is readable"
    few = colours[:8].astype(float)
    apart = np.linalg.norm(few[:, None] - few[None], axis=2) + 999 * np.eye(8)
    assert apart.min() > 60
    assert class_colour(0) == (0, 165, 255)
    assert class_colour(500) == class_colour(500 % 96)


WHERE: list[tuple[tuple[float, float, float, float], str]] = [
    ((80, 80, 60, 60), "in the middle"),
    ((-5, -5, 20, 20), "at the upper left"),
    ((280, 190, 40, 40), "at the lower right"),
    ((0, 0, 300, 200), "all of the image"),
]


def free(image: np.ndarray) -> np.ndarray:
    """Where plates are, while there is none."""
    return np.zeros(image.shape[:2], bool)


@pytest.mark.parametrize(("box", "case"), WHERE)
def test_plates_lie_inside_and_apart(box: tuple[float, float, float, float], case: str) -> None:
    image = np.full((200, 300, 3), 7, np.uint8)
    taken, sizes = free(image), []
    for i in range(3):
        before = image.copy()
        assert put_label(image, taken, "kiwi 0.93", box, class_colour(i)), case
        changed = (image != before).any(axis=2)
        sizes.append(int(changed.sum()))
        assert (image[changed] == class_colour(i)).all(axis=1).sum() > 100
    assert len(set(sizes)) == 1, "whole each, and none over another"


def test_a_plate_without_a_place_is_left_out() -> None:
    image = np.zeros((12, 20, 3), np.uint8)
    assert not put_label(image, free(image), "a name too long", (0, 0, 20, 12), (0, 165, 255))
    assert image.max() == 0
    image = np.zeros((20, 200, 3), np.uint8)
    taken = free(image)
    box = (20, 5, 30, 10)
    put = [put_label(image, taken, "cat 0.50", box, (0, 165, 255)) for _ in range(5)]
    assert put[0] and not put[-1]


def test_letters_of_other_alphabets_are_letters() -> None:
    images = []
    for text in ("ель", "пни", "£é"):
        images.append(np.zeros((40, 120, 3), np.uint8))
        put_label(images[-1], free(images[-1]), text, (10, 20, 20, 10), (0, 165, 255))
    assert (images[0] != images[1]).any(), "not the same boxes for letters that the font lacks"


def test_names_that_steer_a_terminal_are_drawn() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    assert draw_detections(image, [square(96)], ["two\nlines\t"]).any()
