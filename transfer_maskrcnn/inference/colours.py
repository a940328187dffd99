"""A colour for each class: the same in every image and run, and unlike its neighbours'."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

Colour = tuple[int, int, int]  # BGR
# In CIELAB: light enough for black text and to stand out from a black edge, and not white or grey.
_LIGHTEST, _DARKEST, _LEAST_CHROMA = 88, 62, 38
_FIRST = (0, 165, 255)  # orange; the others are those farthest from all before
_STEP = 17  # between candidates, in each channel


def class_colour(index: int) -> Colour:
    """The colour of class ``index``; it does not depend on how many classes there are."""
    palette = _palette()
    return palette[index % len(palette)]


@lru_cache(maxsize=1)
def _palette(size: int = 96) -> tuple[Colour, ...]:
    levels = np.arange(0, 256, _STEP)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    fits = (lightness > _DARKEST) & (lightness < _LIGHTEST) & (chroma > _LEAST_CHROMA)
    candidates, lab = candidates[fits], lab[fits]
    chosen = [_FIRST]
    distance = np.linalg.norm(lab - _lab(np.array([_FIRST])), axis=1)
    while len(chosen) < size:
        farthest = int(distance.argmax())
        blue, green, red = (int(v) for v in candidates[farthest])
        chosen.append((blue, green, red))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    return tuple(chosen)


def _lab(bgr: np.ndarray) -> np.ndarray:
    """(N, 3) BGR, 0 to 255 -> (N, 3) CIELAB, in which distances are about as people see them."""
    pixels = (bgr.reshape(1, -1, 3) / 255).astype(np.float32)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB)[0]
