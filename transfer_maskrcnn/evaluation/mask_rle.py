"""Predicted masks as COCO's run lengths, without an image for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor
from torch.nn import functional as F

RLE = dict[str, Any]
#: pixels that are looked at together: what they take stays within a core's cache
BAND = 2**17
#: in probability; more than products of matrices are off, even in bf16
MARGIN = 1e-2


class EncodedMasks:
    """The masks of one image as run lengths, in place of a tensor: ``pred_masks`` of Instances.

    Item ``i`` is mask ``i``, decoded: (height, width) bool, on the CPU. So evaluators that go
    through ``pred_masks`` one by one need not know of it.
    """

    def __init__(self, rles: list[RLE]):
        """
        Args:
            rles: compressed COCO RLEs of one size.
        """
        self.rles = rles

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(mask_util.decode(self.rles[index])).bool()


@contextmanager
def _one_thread() -> Iterator[None]:
    # The pieces are so small that threads would wait for each other most of the time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@_one_thread()
def encode_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> list[RLE]:
    """Paste each mask into its box on the CPU, and encode what reaches the threshold.

    To the byte what pycocotools' ``encode`` makes of detectron2's ``paste_masks_in_image``. Where
    that fails, at a box outside of the image or with a NaN, the mask is empty.

    Args:
        masks: (N, 1, M, M) probabilities; other types than float32 are converted first.
        boxes: (N, 4) XYXY in pixels of the image.
        height, width: of the image, in pixels.
        threshold: from 0 to 1.

    Returns:
        N compressed RLEs of the whole image: ``size`` [height, width] and ``counts``, bytes.
    """
    masks = masks.to("cpu", torch.float32)
    boxes = boxes.to("cpu", torch.float32)
    x = _normalised(width, boxes[:, 0:1], boxes[:, 2:3])
    y = _normalised(height, boxes[:, 1:2], boxes[:, 3:4])
    # The part of the image that a box can cover, with a pixel to spare, where interpolation still
    # finds something; whole numbers are made last, of none but finite ones.
    starts = (boxes[:, :2].floor() - 1).clamp(min=0)
    ends = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height]))
    inside = (starts < ends).all(dim=1).tolist()  # not so with a NaN
    rles = []
    for i, window in enumerate(torch.cat([starts, ends], dim=1).tolist()):
        changes = np.zeros(0, dtype=np.int64)
        if inside[i]:
            left, top, right, bottom = map(int, window)
            bands = _covered(masks[i], x[i, left:right], y[i, top:bottom], threshold)
            rows, columns = _changes(bands, right - left)
            # An end and a start at one position cancel out: the run goes on in the next column.
            changes, times = np.unique((columns + left) * height + rows + top, return_counts=True)
            changes = changes[times == 1]
        rles.append(_compressed(changes, height, width))
    return rles


def _normalised(size: int, low: Tensor, high: Tensor) -> Tensor:
    """(N, size): the centres of a line of pixels; -1 and 1 are the edges of the boxes."""
    return (torch.arange(size, dtype=torch.float32) + 0.5 - low) / (high - low) * 2 - 1


def _covered(mask: Tensor, x: Tensor, y: Tensor, threshold: float) -> Iterator[np.ndarray]:
    """Bands of the window from top to bottom, (rows, columns) bool.

    Two products of matrices interpolate several times faster than ``grid_sample``, but round
    otherwise; it decides where that could matter, and where a NaN or an infinity is about.
    """
    tall, wide = _weights(y, mask), mask[0] @ _weights(x, mask).T
    rows = max(1, BAND // len(x))
    for start in range(0, len(y), rows):
        estimate = (tall[start : start + rows] @ wide).float().numpy()
        covered = estimate >= threshold
        unsure = np.flatnonzero(~(np.abs(estimate - threshold) >= MARGIN))
        if len(unsure):
            row, column = np.divmod(unsure, len(x))
            grid = torch.stack([x[column], y[start + row]], dim=1)[None, None]
            sampled = F.grid_sample(mask[None], grid, align_corners=False)
            np.put(covered, unsure, sampled.numpy() >= threshold)
        yield covered


def _weights(places: Tensor, mask: Tensor) -> Tensor:
    """(places, M): the share of each of the mask's pixels in a place; outside, of zeros, none."""
    side = mask.shape[-1]
    in_mask = ((places + 1) * side - 1) / 2
    return (1 - (in_mask[:, None] - torch.arange(side)).abs()).clamp(min=0)


def _changes(bands: Iterator[np.ndarray], columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of where runs start and end; each ends at the foot of its column."""
    above = np.zeros((1, columns), dtype=bool)
    found, row = [], 0
    for band in bands:
        changed = np.flatnonzero(np.concatenate([above, band[:-1]]) != band)
        found.append(changed + row * columns)
        above, row = band[-1:].copy(), row + len(band)
    found.append(np.flatnonzero(above) + row * columns)
    return np.divmod(np.concatenate(found), columns)


def _compressed(changes: np.ndarray, height: int, width: int) -> RLE:
    counts = np.diff(changes, prepend=0, append=height * width)
    if len(changes) and not counts[-1]:  # no zeros follow the last run
        counts = counts[:-1]
    rle: RLE = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle
