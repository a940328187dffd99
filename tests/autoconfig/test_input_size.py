"""Images enter as large as the base affords, their pixels give and their objects need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from transfer_maskrcnn.autoconfig.decisions import fit_input
from transfer_maskrcnn.doctor.anchors import Measures, Settings

BASE = Settings(
    min_size_train=(256, 288, 320),
    size_sampling="choice",
    max_size_train=448,
    min_size_test=320,
    max_size_test=480,
    anchor_sizes=((16.0,),),
    aspect_ratios=((1.0,),),
    strides=(4,),
    detections_per_image=100,
    filter_empty=True,
)
# height and width of the images, sides of the objects, short and long side, a part of the reason
SIZES = [
    # photographs with large objects: as the base
    ((768, 1024), [100, 200], (320, 480), "As in the base; images are 768 x 1024 pixels"),
    # upright is the same
    ((1024, 768), [100, 200], (320, 480), "At this size 90 % of the objects are 44 to 81 pixels"),
    # small images of large objects: their own size
    ((128, 128), [40, 60], (128, 192), "Below the base's 320: images are 128 x 128"),
    # objects of 24: until they are 32, in whole steps
    ((96, 96), [24, 24], (128, 192), "Enlarged 1.3 times, because half of the objects are small"),
    # small objects: twice their own size
    ((128, 128), [10, 12], (256, 384), "Enlarged 2.0 times"),
    # a tenth of the objects may be tiny: the next step mends the others
    ((352, 352), [8] * 2 + [40] * 8, (352, 480), "where 20.0 % of the objects are below 8 pixels"),
    # exactly a tenth: as the base
    ((352, 352), [8] + [40] * 9, (320, 480), "At this size 90 %"),
    # the base affords no more: 320 x 480 pixels are 391 squared
    ((1000, 1000), [10] * 9 + [90], (384, 480), "90.0 % of the objects are below 8 pixels, and"),
    # the base's largest image already
    ((640, 960), [10] * 10, (320, 480), "a base with a larger input, or images cut into tiles"),
]


@pytest.mark.parametrize(("image", "sides", "expected", "reason"), SIZES)
def test_test_size(
    squares: Callable[..., Measures],
    image: tuple[int, int],
    sides: list[float],
    expected: tuple[int, int],
    reason: str,
) -> None:
    settings, lines = fit_input(squares(image, sides), BASE)
    assert (settings.min_size_test, settings.max_size_test) == expected
    assert reason in lines[0].reason
    stated = {line.key: line.value for line in lines}
    assert stated["INPUT.MIN_SIZE_TEST"] == expected[0]
    assert stated.get("INPUT.MAX_SIZE_TEST", BASE.max_size_test) == expected[1]


def test_training_sizes_follow(squares: Callable[..., Measures]) -> None:
    settings, lines = fit_input(squares((128, 128), [40, 60]), BASE)
    assert settings.min_size_train == (96, 112, 128)
    assert settings.max_size_train == 179
    stated = {line.key: line.value for line in lines}
    assert stated["INPUT.MIN_SIZE_TRAIN"] == [96, 112, 128]
    assert stated["INPUT.MAX_SIZE_TRAIN"] == 179


def test_a_range_keeps_two_ends(squares: Callable[..., Measures]) -> None:
    base = replace(BASE, min_size_train=(310, 320), size_sampling="range")
    _, lines = fit_input(squares((32, 32), [32, 32]), base)
    assert {line.key: line.value for line in lines}["INPUT.MIN_SIZE_TRAIN"] == [32, 32]


def test_images_that_are_to_keep_their_size(squares: Callable[..., Measures]) -> None:
    base = replace(BASE, min_size_test=0)
    settings, lines = fit_input(squares((128, 128), [4, 4]), base)
    assert settings == base
    assert [line.value for line in lines] == [0]
