"""Thumbnails with the shapes that a dataset's annotations draw, whole or cut out around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfer_maskrcnn.report.plots import Picture
from transfer_maskrcnn.report.tiles import (
    Drawn,
    Window,
    draw_tile,
    open_upright,
    outline,
    window_around,
)

#: of the shape that a finding is about, and of the one that it is compared with
CLOSE_COLOURS = ("#E69F00", "#0072B2")
# In pixels of a tile. Where two shapes lie on each other, both are seen.
_ONE_WIDTH, _TWO_WIDTHS = (4.7,), (10.8, 4.0)
_FEW, _WIDTH, _THIN_WIDTH = 40, 2.5, 1.6  # above that many shapes, thin lines hide less


def close_tile(picture: Mapping[str, Any], caption: str) -> Picture | None:
    """What is around the shapes of a picture; the first one's line is the widest.

    Args:
        picture: of ``doctor.examine.page_data``: ``file``, ``height``, ``width`` and ``shapes``.
        caption: what is said beneath it.

    Returns:
        None where the image cannot be read, or has another size by now.
    """
    widths = _ONE_WIDTH if len(picture["shapes"]) < 2 else _TWO_WIDTHS
    drawn = [
        Drawn(_lines(shape, picture), CLOSE_COLOURS[min(i, 1)], widths[min(i, 1)])
        for i, shape in enumerate(picture["shapes"])
    ]
    lines = [line for one in drawn for line in one.lines]
    left, top, right, bottom = window = window_around(lines, picture["width"], picture["height"])
    size, whole = f"{right - left} × {bottom - top}", f"{picture['width']} × {picture['height']}"
    part = "" if size == whole else f" (cut out: {size} of {whole} pixels)"
    return _tile(picture, drawn, window, f"{caption}{part}")


def whole_tile(
    picture: Mapping[str, Any], colours: Mapping[str, str], caption: str
) -> Picture | None:
    """A whole image with all its shapes, in the colours of their labels; else as close_tile."""
    width = _WIDTH if len(picture["shapes"]) <= _FEW else _THIN_WIDTH
    drawn = [Drawn(_lines(s, picture), colours[s["label"]], width) for s in picture["shapes"]]
    return _tile(picture, drawn, None, caption)


def _tile(
    picture: Mapping[str, Any], drawn: Sequence[Drawn], window: Window | None, caption: str
) -> Picture | None:
    image = open_upright(picture["file"], picture["width"], picture["height"])
    if image is None:
        return None
    return Picture(draw_tile(image, drawn, window), "jpeg", caption, caption)


def _lines(shape: Mapping[str, Any], picture: Mapping[str, Any]) -> Any:
    return outline(shape, picture["height"], picture["width"])
