"""Bitmasks: COCO run lengths (RLE) checked, and made from polygons, arrays and patches.

An RLE is ``{"size": [height, width], "counts": ...}``; pixels are counted down the columns. What
leaves this module is compressed, its ``counts`` ASCII text: pycocotools decodes that, and json can
hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .base import Patch, Reason

Rle = dict[str, Any]


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of polygons as one compressed RLE of the whole image."""
    parts = mask_util.frPyObjects([list(p) for p in polygons], height, width)
    return _as_text(mask_util.merge(parts))


def mask_to_rle(mask: np.ndarray) -> Rle:
    """A (height, width) mask, non-zero where the instance is, as compressed RLE."""
    columns = np.zeros(mask.shape, dtype=np.uint8, order="F")
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(ys):  # only the instance's box, since turning rows into columns is what costs time
        box = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
        columns[box] = mask[box] != 0
    return _as_text(mask_util.encode(columns))


def rle_to_mask(rle: Rle) -> np.ndarray:
    """A compressed RLE as a (height, width) bool mask."""
    return np.asarray(mask_util.decode(rle), dtype=bool)


def paste(patches: Sequence[Patch], height: int, width: int) -> np.ndarray:
    """The union of patches on an empty (height, width) bool mask; what lies outside is cut off."""
    canvas = np.zeros((height, width), dtype=bool)
    for patch in patches:
        x0, y0 = max(patch.x, 0), max(patch.y, 0)
        x1 = min(patch.x + patch.mask.shape[1], width)
        y1 = min(patch.y + patch.mask.shape[0], height)
        if x0 < x1 and y0 < y1:
            inner = patch.mask[y0 - patch.y : y1 - patch.y, x0 - patch.x : x1 - patch.x]
            canvas[y0:y1, x0:x1] |= inner
    return canvas


def labels_to_rles(labels: np.ndarray) -> dict[int, Rle]:
    """Every value but 0 of an integer (height, width) array as compressed RLE, in one pass."""
    height, width = labels.shape
    flat = labels.reshape(-1, order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    rles: dict[int, Rle] = {}
    for value, runs in zip(found.tolist(), np.split(order, first[1:]), strict=True):
        if value != 0:
            edges = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)
            counts = np.diff(np.concatenate(([0], edges, [flat.size])))
            rles[value] = _compress(counts, height, width)
    return rles


def clean_rle(rle: Rle, height: int, width: int) -> tuple[Rle, Reason | None]:
    """A COCO RLE, compressed or not, as compressed RLE; and the problem, or None.

    The run lengths are checked here, since pycocotools trusts them with its memory.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width] and size != (height, width):
        return {}, Reason.MASK_OTHER_SIZE
    runs = _decode_counts(counts) if isinstance(counts, (str, bytes)) else _plain_counts(counts)
    if runs is None or (runs < 0).any() or (runs > height * width).any():
        return {}, Reason.BAD_MASK
    if runs.sum() != height * width:
        return {}, Reason.BAD_MASK
    if runs[1::2].sum() == 0:
        return {}, Reason.ZERO_AREA
    return _compress(runs, height, width), None


def rle_box(rle: Rle) -> list[float]:
    """x0, y0, x1, y1 around the pixels of a compressed RLE; x1, y1 are the far edges."""
    x, y, width, height = mask_util.toBbox(rle).tolist()
    return [x, y, x + width, y + height]


def is_empty(rle: Rle) -> bool:
    return rle_area(rle) == 0


def rle_area(rle: Rle) -> int:
    """The number of pixels of a compressed RLE."""
    return int(mask_util.area(rle))


def _plain_counts(counts: Any) -> np.ndarray | None:
    try:
        runs = np.asarray(counts)
    except (ValueError, TypeError, OverflowError):
        return None
    return runs.astype(np.int64) if runs.ndim == 1 and runs.dtype.kind in "iu" else None


def _decode_counts(counts: str | bytes) -> np.ndarray | None:
    """Run lengths, int64, of COCO's compressed counts: 5 bits a character, lowest first, bit 5 set
    where more follow, bit 4 of the last the sign; from the fourth on, differences to two before."""
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0 or (codes < 0).any() or (codes > 63).any() or codes[-1] & 0x20:
        return None
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.append(0, ends[:-1] + 1)
    length = ends - starts + 1
    if length.max() > 7:  # 35 bits: more than any image has pixels
        return None
    place = 5 * (np.arange(codes.size) - np.repeat(starts, length))
    values = np.add.reduceat((codes & 0x1F) << place, starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * length), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _compress(runs: np.ndarray, height: int, width: int) -> Rle:
    plain = {"size": [height, width], "counts": runs.tolist()}
    return _as_text(mask_util.frPyObjects(plain, height, width))


def _as_text(rle: Rle) -> Rle:
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
