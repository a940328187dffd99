"""Detections drawn onto their image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.inference.colours import Colour, class_colour
from transfer_maskrcnn.inference.labels import LabelPlates
from transfer_maskrcnn.inference.predictor import Detection, Pixels

_FILL = 0.35  # share of the class's colour within a mask
_LINE_SHARE = 1 / 300  # a line's width, of the image's longer side
_EDGE: Colour = (0, 0, 0)


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
        _draw_object(drawn, image, detection, class_colour(detection.class_index))
    plates = LabelPlates(drawn)
    for detection in detections:
        text = f"{classes[detection.class_index]} {detection.score:.2f}"
        plates.put(text, detection.bbox, class_colour(detection.class_index))
    return drawn


def _draw_object(drawn: Pixels, image: Pixels, detection: Detection, colour: Colour) -> None:
    line = max(1, round(_LINE_SHARE * max(image.shape[:2])))
    # Smoothed, an edge loses about a pixel on each side, and the thinnest line itself fades.
    edged, kind = (round(1.6 * line) + 2, cv2.LINE_AA) if line > 1 else (3, cv2.LINE_8)
    if detection.segmentation is None:
        outlines, corner = [_box_outline(detection)], (0, 0)
    else:
        mask, corner = _cropped_mask(detection.segmentation)
        _tint(drawn, image, mask, corner, colour)
        found = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner)
        outlines = list(found[0])
    for width, shade in ((edged, _EDGE), (line, colour)):
        cv2.drawContours(drawn, outlines, -1, shade, width, kind)


def _box_outline(detection: Detection) -> np.ndarray:
    x, y, width, height = (round(v) for v in detection.bbox)
    return np.array(
        [[[x, y]], [[x + width, y]], [[x + width, y + height]], [[x, y + height]]], dtype=np.int32
    )


def _cropped_mask(rle: dict[str, object]) -> tuple[Pixels, tuple[int, int]]:
    """The part of a mask that holds it, 0 or 1, and the x and y of its first pixel."""
    x, y, width, height = (int(v) for v in mask_util.toBbox(rle))
    mask = mask_util.decode(rle)[y : y + height, x : x + width]
    return np.ascontiguousarray(mask), (x, y)


def _tint(
    drawn: Pixels, image: Pixels, mask: Pixels, corner: tuple[int, int], colour: Colour
) -> None:
    """Tint from the image itself: what many masks cover stays as visible as what one does."""
    left, top = corner
    window = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
    inside = mask.astype(bool)
    mixed = image[window][inside] * (1 - _FILL) + np.array(colour) * _FILL
    drawn[window][inside] = np.round(mixed).astype(np.uint8)
