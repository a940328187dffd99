"""Thumbnails with the shapes that a dataset's annotations draw, whole or cut out around them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from transfer_maskrcnn.report.outlines import Segments, outline
from transfer_maskrcnn.report.photographs import Pixels, read_pixels
from transfer_maskrcnn.report.plots import Picture

#: of the shape that a finding is about, and of the one that it is compared with
CLOSE_COLOURS = ("#E69F00", "#0072B2")
# In points. Where two shapes lie on each other, both are seen.
_ONE_WIDTH, _TWO_WIDTHS = (2.6,), (6.0, 2.2)
_FEW, _WIDTH, _THIN_WIDTH = 40, 1.4, 0.9  # above that many shapes, thin lines hide less
_TILE_INCHES, _TILE_DPI = 2.2, 130
_LONGEST_SIDE = 800  # pixels; what is larger is drawn from every second, third ... pixel
_LEAST_SIDE = 48  # pixels of the image; less shows nothing of what is around
_MARGIN = 0.8  # of the longer side, on each side
_NEARLY_WHOLE = 0.8  # of the image's longer side

Window = tuple[int, int, int, int]  # left, top, right, bottom; pixels


def close_tile(picture: Mapping[str, Any], caption: str) -> Picture | None:
    """What is around the shapes of a picture; the first one's line is the widest.

    Args:
        picture: of ``doctor.page_data``: ``file``, ``height``, ``width`` and ``shapes``.
        caption: what is said beneath it.

    Returns:
        None where the image cannot be read, or has another size by now.
    """
    shapes = [_segments(shape, picture) for shape in picture["shapes"]]
    window = _window(shapes, picture)
    size = " × ".join(str(end - start) for start, end in ((window[0], window[2]),
                                                          (window[1], window[3])))  # fmt: skip
    whole = f"{picture['width']} × {picture['height']}"
    part = "" if size == whole else f" (cut out: {size} of {whole} pixels)"
    widths = _ONE_WIDTH if len(shapes) < 2 else _TWO_WIDTHS
    lines = [
        (segments, CLOSE_COLOURS[min(i, 1)], widths[min(i, 1)]) for i, segments in enumerate(shapes)
    ]
    return _tile(picture, window, lines, f"{caption}{part}")


def whole_tile(
    picture: Mapping[str, Any], colours: Mapping[str, str], caption: str
) -> Picture | None:
    """A whole image with all its shapes, in the colours of their labels; else as close_tile."""
    window = (0, 0, picture["width"], picture["height"])
    width = _WIDTH if len(picture["shapes"]) <= _FEW else _THIN_WIDTH
    lines = [(_segments(s, picture), colours[s["label"]], width) for s in picture["shapes"]]
    return _tile(picture, window, lines, caption)


def _tile(
    picture: Mapping[str, Any],
    window: Window,
    lines: Sequence[tuple[Segments, str, float]],
    caption: str,
) -> Picture | None:
    try:
        pixels = read_pixels(picture["file"])
    except Exception:  # decoders raise nearly every type of exception
        return None
    if pixels.shape[:2] != (picture["height"], picture["width"]):
        return None
    left, top, right, bottom = window
    inches = _TILE_INCHES / max(right - left, bottom - top)
    figure = Figure(figsize=((right - left) * inches, (bottom - top) * inches))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    _show(axes, pixels, window)
    _stroke(axes, lines)
    axes.set_axis_off()
    axes.set_xlim(left - 0.5, right - 0.5)
    axes.set_ylim(bottom - 0.5, top - 0.5)
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="jpeg", dpi=_TILE_DPI, pil_kwargs={"quality": 80, "subsampling": 0}
    )
    return Picture(buffer.getvalue(), "jpeg", caption, caption)


def _show(axes: Axes, pixels: Pixels, window: Window) -> None:
    left, top, right, bottom = window
    step = -(-max(right - left, bottom - top) // _LONGEST_SIDE)
    part = pixels[top:bottom:step, left:right:step]
    axes.imshow(
        part[..., :3] if part.ndim == 3 else part,  # the model sees what transparent pixels hide
        cmap="gray" if part.ndim == 2 else None,
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        aspect="auto",
    )


def _stroke(axes: Axes, lines: Sequence[tuple[Segments, str, float]]) -> None:
    """A white edge around all of the lines, so that they are seen on any background."""
    for edge in (0.8, 0.0):
        for segments, colour, width in lines:
            gapped = np.concatenate([segments, np.full((len(segments), 1, 2), np.nan)], axis=1)
            axes.plot(
                *gapped.reshape(-1, 2).T,
                color="white" if edge else colour,
                linewidth=width + edge * min(width, 2),
                solid_capstyle="round",
            )


def _segments(shape: Mapping[str, Any], picture: Mapping[str, Any]) -> Segments:
    """As :func:`outline`; polygons line by line: tiny ones, too, and where they cross."""
    segmentation = shape["segmentation"]
    if not isinstance(segmentation, list):
        return outline(dict(shape), picture["height"], picture["width"], 1)
    polygons = [np.reshape(polygon, (-1, 2)) - 0.5 for polygon in segmentation]
    return np.concatenate([np.stack([p, np.roll(p, -1, axis=0)], axis=1) for p in polygons])


def _window(shapes: Sequence[Segments], picture: Mapping[str, Any]) -> Window:
    """A square around all shapes, within the image; all of it where they nearly fill it."""
    width, height = picture["width"], picture["height"]
    points = np.concatenate([np.empty((0, 2)), *(shape.reshape(-1, 2) for shape in shapes)])
    if not len(points):
        return 0, 0, width, height
    low, high = points.min(axis=0), points.max(axis=0)
    side = round(max((high - low).max() * (1 + 2 * _MARGIN), _LEAST_SIDE))
    if side >= _NEARLY_WHOLE * max(width, height):
        return 0, 0, width, height
    (left, right), (top, bottom) = (
        _span(middle, side, whole)
        for middle, whole in zip((low + high) / 2, (width, height), strict=True)
    )
    return left, top, right, bottom


def _span(middle: float, side: int, whole: int) -> tuple[int, int]:
    start = max(0, min(round(middle - side / 2), whole - side))
    return start, min(start + side, whole)
