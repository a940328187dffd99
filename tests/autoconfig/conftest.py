"""Measures of datasets that exist only as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from transfer_maskrcnn.doctor.anchors import Measures


@pytest.fixture(scope="session")
def squares() -> Callable[..., Measures]:
    """squares(image, sides, images=1, counts=(n,)) -> images of one size, each with such boxes."""

    def make(
        image: tuple[int, int],
        sides: Sequence[float],
        images: int = 1,
        counts: Sequence[int] | None = None,
    ) -> Measures:
        boxes = np.repeat(np.array(sides, dtype=np.float64), images)
        return Measures(
            images_hw=np.array([image] * images, dtype=np.float64),
            boxes_wh=np.stack([boxes, boxes], axis=1),
            image_of_box=np.tile(np.arange(images), len(sides)),
            number_of_box=np.repeat(np.arange(len(sides)), images),
            class_counts=np.array([len(boxes)] if counts is None else counts),
        )

    return make
