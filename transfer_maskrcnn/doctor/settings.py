"""What of a config decides how a dataset fits it, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Settings:
    """``transfer_maskrcnn.autoconfig.settings_of`` makes it of a config.

    Attributes:
        min_size_train: short sides in pixels, as INPUT.MIN_SIZE_TRAIN; with ``size_sampling``
            "range" the two ends, with "choice" a list.
        size_sampling: INPUT.MIN_SIZE_TRAIN_SAMPLING.
        max_size_train: the limit on the long side in training, in pixels.
        min_size_test: the short side in evaluation, in pixels; 0 leaves images as they are.
        max_size_test: the limit on the long side in evaluation, in pixels.
        anchor_sizes: one row a level of the pyramid, pixels of the network's input.
        aspect_ratios: height / width, one row a level.
        strides: pixels of the network's input between anchors, one a level.
        detections_per_image: TEST.DETECTIONS_PER_IMAGE.
        proposals_test: RPN.POST_NMS_TOPK_TEST.
        filter_empty: whether images without an object are left out of training.
        repeat_imbalance: DATALOADER.REPEAT_IMBALANCE.
    """

    min_size_train: tuple[int, ...]
    size_sampling: str
    max_size_train: int
    min_size_test: int
    max_size_test: int
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    strides: tuple[int, ...]
    detections_per_image: int
    proposals_test: int
    filter_empty: bool
    repeat_imbalance: float

    def test_scales(self, images_hw: ArrayLike) -> NDArray[np.float64]:
        """How many times larger evaluation makes each image.

        Args:
            images_hw: (N, 2), heights and widths in pixels.

        Returns:
            (N,), above 0.
        """
        return resize_scales(images_hw, self.min_size_test, self.max_size_test)


def resize_scales(images_hw: ArrayLike, min_size: int, max_size: int) -> NDArray[np.float64]:
    """The factor of detectron2's ``ResizeShortestEdge`` for each image, before it rounds.

    Args:
        images_hw: (N, 2), heights and widths in pixels.
        min_size: what the short side becomes, in pixels; 0 leaves images as they are.
        max_size: what the long side may be at most, in pixels.

    Returns:
        (N,), above 0.
    """
    sides = np.asarray(images_hw, dtype=np.float64).reshape(-1, 2)
    if min_size == 0:
        return np.ones(len(sides))
    return np.asarray(np.minimum(min_size / sides.min(axis=1), max_size / sides.max(axis=1)))
