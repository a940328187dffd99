"""The masks of detectron2 annotations, whether polygons or RLE: run lengths, area and box.

Coordinates are pixels, x to the right and y down, the image being [0, width] x [0, height].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_maskrcnn.data.formats.bitmasks import polygons_to_rle, rle_area, rle_box
from transfer_maskrcnn.data.formats.polygons import polygons_area

Polygons = Sequence[Sequence[float]]
Segmentation = Polygons | dict[str, Any]


def as_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """The mask as compressed RLE of the whole image, whose size is in pixels."""
    if isinstance(segmentation, dict):
        return segmentation
    return polygons_to_rle(segmentation, height, width)


def segmentation_area(segmentation: Segmentation, height: int, width: int) -> float:
    """The mask's area in square pixels: what polygons enclose, or the number of pixels.

    Polygons that cross themselves or each other enclose less, or more, than they cover: theirs is
    the number of pixels, too.
    """
    pixels = float(rle_area(as_rle(segmentation, height, width)))
    if isinstance(segmentation, dict) or not encloses(segmentation, pixels):
        return pixels
    return polygons_area(segmentation)


def encloses(polygons: Polygons, pixels: float) -> bool:
    """Whether the polygons enclose what their mask of ``pixels`` covers, but for rounding.

    Pixels count by their centres, so only those along the outline make a difference.
    """
    return abs(polygons_area(polygons) - pixels) <= 1 + sum(map(_length, polygons)) / 2


def segmentation_box(segmentation: Segmentation) -> list[float]:
    """x, y, width, height in pixels of the smallest box around the mask."""
    if isinstance(segmentation, dict):
        x0, y0, x1, y1 = rle_box(segmentation)
    else:
        points = np.concatenate([np.asarray(p, dtype=float).reshape(-1, 2) for p in segmentation])
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _length(polygon: Sequence[float]) -> float:
    points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    return float(np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum())
