"""Thumbnails: an image, or a part of it, with the outlines of what lies in it.

Coordinates are pixels of the upright image, x before y; (0, 0) is the corner of its first pixel, as
in COCO's polygons and boxes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import contourpy
import matplotlib
import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from PIL import Image, ImageDraw, ImageFont, ImageOps

Line = npt.NDArray[np.float64]  # (N, 2), from point to point
Window = tuple[int, int, int, int]  # left, top, right, bottom

SIDE = 312  # pixels of a tile's longer side
_FINE = 3  # lines are drawn so many times larger and shrunk: Pillow's own have hard edges
_EDGE = 1.5  # pixels of white on both sides of a line, which is then seen on any background
_TEXT = 13  # pixels
_LEAST_SIDE = 48  # pixels of the image; less shows nothing of what is around
_MARGIN = 0.7  # of the longer side, on each side
_NEARLY_WHOLE = 0.8  # of the image's longer side
_FAR = 1e5  # pixels of a tile; Pillow counts in 32 bits


@dataclass(frozen=True)
class Drawn:
    """One instance on a tile. ``width``: of its lines, in pixels of the tile; ``label``: above."""

    lines: Sequence[Line]
    colour: str
    width: float
    label: str = ""


def open_upright(path: str | Path, width: int, height: int) -> Image.Image | None:
    """The image as it is looked at: RGB, turned as its Exif tag says.

    None where it cannot be read, or is not ``width`` x ``height`` pixels large (any more).
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode[0] in "IF":  # more than 8 bits; convert() would cut, not scale
                values = np.asarray(image, dtype=np.float64)
                values = 255 * (values - values.min()) / max(float(np.ptp(values)), 1.0)
                image = Image.fromarray(values.astype(np.uint8))
            image = image.convert("RGB")  # the model, too, sees what transparent pixels hide
    except Exception:  # decoders raise nearly every type of exception
        return None
    return image if image.size == (width, height) else None


def outline(instance: Mapping[str, Any], height: int, width: int) -> list[Line]:
    """The outline of an instance's mask, or of its box where it has no mask; every line is closed.

    Args:
        instance: an annotation or a result in COCO's form. Polygons are taken point by point, so
            that tiny and crossed ones show.
        height, width: of its image.
    """
    mask = instance.get("segmentation")
    if mask is None:
        x, y, w, h = instance["bbox"]
        mask = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if isinstance(mask, list):
        rings = (np.reshape(np.asarray(polygon, dtype=float), (-1, 2)) for polygon in mask)
        return [np.vstack([ring, ring[:1]]) for ring in rings]
    if isinstance(mask["counts"], list):
        mask = mask_util.frPyObjects(mask, height, width)
    x, y, w, h = (int(v) for v in mask_util.toBbox(mask))
    inside = np.pad(mask_util.decode(mask)[y : y + h, x : x + w], 1)
    lines = contourpy.contour_generator(z=inside.astype(float)).lines(0.5)
    return [line + np.array((x - 0.5, y - 0.5)) for line in lines]  # the border, pixels' middles


def window_around(lines: Sequence[Line], width: int, height: int) -> Window:
    """A square around all lines, within the image; all of it where they nearly fill it."""
    points = np.vstack([np.empty((0, 2)), *lines])
    whole = (0, 0, width, height)
    if not len(points):
        return whole
    low, high = points.min(axis=0), points.max(axis=0)
    side = round(max((high - low).max() * (1 + 2 * _MARGIN), _LEAST_SIDE))
    if side >= _NEARLY_WHOLE * max(width, height):
        return whole
    middle = (low + high) / 2
    left, top = (
        max(0, min(round(m - side / 2), size - side))
        for m, size in zip(middle, (width, height), strict=True)
    )
    return left, top, min(left + side, width), min(top + side, height)


def draw_tile(image: Image.Image, drawn: Sequence[Drawn], window: Window | None = None) -> bytes:
    """A JPEG of the image within ``window`` (None: of all of it), the first of ``drawn`` below."""
    left, top, right, bottom = window or (0, 0, *image.size)
    scale = SIDE / max(right - left, bottom - top)
    size = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
    how = Image.Resampling.BOX if scale > 3 else Image.Resampling.LANCZOS  # large pixels stay such
    tile = image.resize(size, how, box=(left, top, right, bottom))
    layer = Image.new("RGBA", (size[0] * _FINE, size[1] * _FINE))
    pen = ImageDraw.Draw(layer)
    for edge in (_EDGE, 0.0):
        for one in drawn:
            width = round((one.width + 2 * edge) * _FINE)
            for line in one.lines:
                points = np.nan_to_num((line - (left, top)) * scale * _FINE).clip(-_FAR, _FAR)
                pen.line(points.ravel().tolist(), "white" if edge else one.colour, width, "curve")
    layer = layer.resize(size, Image.Resampling.BOX)
    tile.paste(layer, mask=layer)
    for one in drawn:
        if one.label and one.lines:
            _write(tile, (np.vstack(one.lines) - (left, top)) * scale, one.label)
    buffer = io.BytesIO()
    tile.save(buffer, "jpeg", quality=82, subsampling=0)  # thin coloured lines stay clear
    return buffer.getvalue()


def _write(tile: Image.Image, points: Line, text: str) -> None:
    """``text`` above the points, and within the tile."""
    pen, (width, height) = ImageDraw.Draw(tile), tile.size
    half = pen.textlength(text, _font()) / 2
    (low, top), (high, _) = points.min(axis=0), points.max(axis=0)
    x = max(min((low + high) / 2, width - half), half)
    where = (float(x), float(np.clip(top - 2, _TEXT, height)))
    pen.text(where, text, "white", _font(), "mb", stroke_width=1, stroke_fill="black")


@cache
def _font() -> ImageFont.FreeTypeFont:
    """That of the plots; Pillow's own knows fewer letters."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _TEXT)
