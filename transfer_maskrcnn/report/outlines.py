"""Outlines of masks and boxes as line segments; matplotlib's contour is slow for many of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

Segments = npt.NDArray[np.float64]

# Marching squares (Lorensen and Cline, https://doi.org/10.1145/37401.37422, in two dimensions).
# Between four neighbouring pixels, an outline joins two of the middles of the square's sides; which
# ones depends on the corners inside: 1 top left, 2 top right, 4 bottom right, 8 bottom left.
_TOP, _RIGHT, _BOTTOM, _LEFT = (0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)
_LINES = (
    (_LEFT, _TOP, (1, 5, 14)),
    (_TOP, _RIGHT, (2, 10, 13)),
    (_RIGHT, _BOTTOM, (4, 5, 11)),
    (_BOTTOM, _LEFT, (7, 8, 10)),
    (_LEFT, _RIGHT, (3, 12)),
    (_TOP, _BOTTOM, (6, 9)),
)


def outline(instance: dict[str, Any], height: int, width: int, step: int) -> Segments:
    """The outline of an instance's mask, or of its box where it has no mask.

    Args:
        instance: an annotation or a result in COCO's form.
        height, width: of its image, in pixels.
        step: look at every so many-th pixel of the mask.

    Returns:
        (N, 2, 2): N segments from point to point, x and y in pixels; the first pixel's middle is 0.
    """
    if "segmentation" not in instance:
        return _box_outline(*instance["bbox"])
    mask, left, top = _cropped_mask(instance["segmentation"], height, width)
    return mask_outline(mask[::step, ::step]) * step + (left, top)


def mask_outline(mask: npt.NDArray[Any]) -> Segments:
    """The outline of a mask (height, width), as in :func:`outline`; closed at the border, too."""
    inside = np.pad(mask.astype(bool), 1).astype(int)
    corners = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    found = []
    for start, end, cases in _LINES:
        rows, columns = np.nonzero(np.isin(corners, cases))
        squares = np.stack([columns, rows], axis=1)[:, None] - 1.0
        found.append(squares + np.array([start, end]))
    return np.concatenate(found)


def _box_outline(x: float, y: float, width: float, height: float) -> Segments:
    corners = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)]) - 0.5
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def _cropped_mask(
    segmentation: Any, height: int, width: int
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """A mask within its bounding box, and the box's left and top pixel."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    x, y, w, h = (int(v) for v in mask_util.toBbox(segmentation))
    return mask_util.decode(segmentation)[y : y + h, x : x + w], x, y
