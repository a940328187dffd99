"""Images are enlarged as detectron2 enlarges them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge

from .conftest import SETTINGS

SHAPES = [(480, 640), (640, 480), (256, 256), (100, 1000), (33, 47), (4000, 3000)]
# short side, limit of the long side
LIMITS = [(800, 1333), (320, 480), (64, 64), (100, 5000)]


@pytest.mark.parametrize(("min_size", "max_size"), LIMITS)
def test_scales_are_those_of_detectron2(min_size: int, max_size: int) -> None:
    settings = replace(SETTINGS, min_size_test=min_size, max_size_test=max_size)
    scales = settings.test_scales(SHAPES)
    for (height, width), scale in zip(SHAPES, scales, strict=True):
        expected = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
        assert (int(height * scale + 0.5), int(width * scale + 0.5)) == expected


def test_zero_leaves_images_as_they_are() -> None:
    assert np.array_equal(
        replace(SETTINGS, min_size_test=0).test_scales(SHAPES), np.ones(len(SHAPES))
    )
