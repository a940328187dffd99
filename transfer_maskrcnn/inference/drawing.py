"""Detections drawn onto their image: tinted masks, outlines, and plates with class and score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageDraw, ImageFont, ImageOps

from transfer_maskrcnn.inference.results import Detection, Pixels
from transfer_maskrcnn.text import printable

Colour = tuple[int, int, int]  # BGR

_FIRST: Colour = (0, 165, 255)  # orange; the others are those farthest from all before
_FILL = 0.35  # share of the class's colour within a mask
_LINE_SHARE, _FONT_SHARE = 1 / 300, 0.02  # of the image's longer side


def class_colour(index: int) -> Colour:
    """The colour of class ``index``: the same in every image and run, unlike its neighbours', and
    whatever the number of classes."""
    return _palette()[index % len(_palette())]


@lru_cache(maxsize=1)
def _palette(size: int = 96) -> list[Colour]:
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    candidates = np.vstack([_FIRST, grid])
    # distances in CIELAB are about as people see them
    lab = cv2.cvtColor((candidates[None] / 255).astype(np.float32), cv2.COLOR_BGR2LAB)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    # light enough for black text and to stand out from a black edge, and not white or grey
    fits = (lightness > 62) & (lightness < 88) & (chroma > 38)
    candidates, lab = candidates[fits], lab[fits]
    chosen: list[int] = []
    distance = np.full(len(lab), np.inf)
    for _ in range(size):
        chosen.append(int(distance.argmax()))  # at first that of _FIRST
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return [(int(blue), int(green), int(red)) for blue, green, red in candidates[chosen]]


def draw_detections(
    image: Pixels, detections: Sequence[Detection], classes: Sequence[str]
) -> Pixels:
    """A copy of ``image`` with tinted masks, outlines, and labels with class and score.

    An outline is a light line between two black ones, so that it stands out from any background;
    without a mask it is that of the box. Large objects are drawn first, labels last.

    Args:
        image: (height, width, 3), BGR.
        detections: in pixels of ``image``, best first.
        classes: names in the model's order.
    """
    drawn = image.copy()
    for detection in sorted(detections, key=lambda d: d.bbox[2] * d.bbox[3], reverse=True):
        _draw_object(drawn, image, detection)
    taken = np.zeros(image.shape[:2], dtype=bool)
    for detection in detections:
        put_label(
            drawn,
            taken,
            printable(f"{classes[detection.class_index]} {detection.score:.2f}"),
            detection.bbox,
            class_colour(detection.class_index),
        )
    return drawn


def _draw_object(drawn: Pixels, image: Pixels, detection: Detection) -> None:
    colour = class_colour(detection.class_index)
    if detection.segmentation is None:
        x, y, width, height = (round(v) for v in detection.bbox)
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        outlines: Sequence[np.ndarray] = [np.array(corners, dtype=np.int32)]
    else:
        outlines = _tint(drawn, image, detection.segmentation, colour)
    line = max(1, round(_LINE_SHARE * max(image.shape[:2])))
    # Smoothed, an edge loses about a pixel on each side, and the thinnest line itself fades.
    edged, kind = (round(1.6 * line) + 2, cv2.LINE_AA) if line > 1 else (3, cv2.LINE_8)
    cv2.drawContours(drawn, outlines, -1, (0, 0, 0), edged, kind)
    cv2.drawContours(drawn, outlines, -1, colour, line, kind)


def _tint(
    drawn: Pixels, image: Pixels, rle: dict[str, object], colour: Colour
) -> Sequence[np.ndarray]:
    """Tint a mask, and give its outlines.

    From the image itself: what many masks cover stays as visible as what one does.
    """
    left, top, width, height = (int(v) for v in mask_util.toBbox(rle))
    window = np.s_[top : top + height, left : left + width]
    mask = np.ascontiguousarray(mask_util.decode(rle)[window])
    inside = mask.astype(bool)
    mixed = image[window][inside] * (1 - _FILL) + np.array(colour) * _FILL
    drawn[window][inside] = np.round(mixed).astype(np.uint8)
    return cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))[0]


def put_label(
    image: Pixels, taken: np.ndarray, text: str, box: Sequence[float], colour: Colour
) -> bool:
    """Put a plate with ``text`` beside an object or on it: inside the image, over no other plate.

    Args:
        image: (height, width, 3), BGR; drawn on in place.
        box: x, y, width and height in pixels.
        taken: (height, width) bool, where plates are; changed in place.
        colour: of the plate, light: the text is black.

    Returns:
        whether there was a place.
    """
    plate = _plate(text, max(10, round(_FONT_SHARE * max(image.shape[:2]))), colour)
    height, width = plate.shape[:2]
    for left, top in _corners(box, plate.shape, image.shape):
        place = np.s_[top : top + height, left : left + width]
        if not taken[place].any():
            image[place] = plate
            taken[place] = True
            return True
    return False


def _corners(
    box: Sequence[float], plate: tuple[int, ...], image: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Left and top, first above the box, then below, row by row in it, and further away.

    Args:
        plate, image: their height and width.
    """
    x, y, box_width, box_height = (round(v) for v in box)
    height, width = plate[:2]
    lowest, rightmost = image[0] - height, image[1] - width
    foot = y + box_height
    inside = range(y, max(y, foot - height) + 1, height)
    further = (y - 2 * height, foot + height, y - 3 * height, foot + 2 * height)
    for top in (y - height, foot, *inside, *further):
        for left in (x, x + box_width - width):
            if lowest >= 0 and rightmost >= 0:  # a larger plate has no place
                yield min(max(left, 0), rightmost), min(max(top, 0), lowest)


@lru_cache(maxsize=256)
def _plate(text: str, size: int, colour: Colour) -> Pixels:
    """Black ``text`` on ``colour``, with a black edge: (height, width, 3), BGR."""
    # The one that matplotlib brings along has the letters of most alphabets, unlike OpenCV's.
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", size)
    left, _, right, _ = font.getbbox(text)
    margin = max(2, size // 5)
    shape = (int(right - left) + 2 * margin, sum(font.getmetrics()))
    plate = Image.new("RGB", shape, colour[::-1])
    ImageDraw.Draw(plate).text((margin - left, 0), text, fill=(0, 0, 0), font=font)
    return np.asarray(ImageOps.expand(plate, max(1, size // 16), fill=0))[:, :, ::-1]
