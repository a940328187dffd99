"""Class and score as small plates on an image: readable, inside it, and not over one another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transfer_maskrcnn.inference.colours import Colour
from transfer_maskrcnn.inference.predictor import Pixels

_SMALLEST_FONT, _FONT_SHARE = 10, 0.02  # pixels; of the image's longer side


class _Place(NamedTuple):
    """Of a plate, in pixels; ends are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: _Place) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


class LabelPlates:
    """Puts plates onto one image. Where there is no free place beside its object, one is left out.

    Call :meth:`put` for the most important first.
    """

    def __init__(self, image: Pixels):
        """
        Args:
            image: (height, width, 3), BGR; drawn on in place.
        """
        self._image = image
        self._taken: list[_Place] = []
        self._font_size = max(_SMALLEST_FONT, round(_FONT_SHARE * max(image.shape[:2])))

    def put(self, text: str, box: tuple[float, float, float, float], colour: Colour) -> bool:
        """
        Args:
            box: the object's x, y, width and height in pixels.
            colour: of the plate, BGR, light: the text is black.

        Returns:
            whether there was a place.
        """
        plate = _plate(text, self._font_size, colour)
        height, width = plate.shape[:2]
        if height > self._image.shape[0] or width > self._image.shape[1]:
            return False
        for left, top in self._corners(box, width, height):
            place = _Place(left, top, left + width, top + height)
            if not any(place.overlaps(other) for other in self._taken):
                self._image[top : place.bottom, left : place.right] = plate
                self._taken.append(place)
                return True
        return False

    def _corners(
        self, box: tuple[float, float, float, float], width: int, height: int
    ) -> Iterator[tuple[int, int]]:
        """Above the box, below it, row by row in it, then further away; left, then right."""
        x, y, box_width, box_height = (round(v) for v in box)
        lowest, rightmost = self._image.shape[0] - height, self._image.shape[1] - width
        foot = y + box_height
        inside = range(y, max(y, foot - height) + 1, height)
        further = (y - 2 * height, foot + height, y - 3 * height, foot + 2 * height)
        for top in (y - height, foot, *inside, *further):
            for left in (x, x + box_width - width):
                yield min(max(left, 0), rightmost), min(max(top, 0), lowest)


def _plate(text: str, size: int, colour: Colour) -> Pixels:
    """Black ``text`` on ``colour``, with a black edge: (height, width, 3), BGR."""
    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    ascent, descent = font.getmetrics()
    margin, edge = max(2, size // 5), max(1, size // 16)
    frame = margin + edge
    shape = (int(right - left) + 2 * frame, ascent + descent + 2 * edge)
    plate = Image.new("RGB", shape, (0, 0, 0))
    draw = ImageDraw.Draw(plate)
    draw.rectangle([edge, edge, shape[0] - 1 - edge, shape[1] - 1 - edge], fill=colour[::-1])
    draw.text((frame - left, edge), text, fill=(0, 0, 0), font=font)
    return np.asarray(plate)[:, :, ::-1]


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The one that matplotlib brings along has the letters of most alphabets, unlike OpenCV's.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)
