"""The views are the very images that training draws, and every batch fits its canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.feature_cache.cache import Canvases
from transfer_maskrcnn.feature_cache.hook import (
    NotCachedError,
    _resized,
    canvases,
    enlargement,
    fixed_mappers,
)

SIZES = [(40, 60), (60, 40), (51, 50), (30, 100)]


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for i, (height, width) in enumerate(SIZES):
        path = str(tmp_path / f"{i}.png")
        cv2.imwrite(path, rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        outline = [2.0, 2.0, 20.0, 2.0, 20.0, 20.0]
        annotation = {"bbox": [2, 2, 18, 18], "bbox_mode": 1, "category_id": 0}
        annotation |= {"segmentation": [outline], "iscrowd": 0}
        found.append(
            {"file_name": path, "height": height, "width": width, "annotations": [annotation]}
        )
    return found


def mapper(*opts: str) -> CheckedDatasetMapper:
    size = ("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MAX_SIZE_TRAIN", "60")
    return CheckedDatasetMapper(load_config("", [*size, *opts]), is_train=True)


def pixels(image: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(image.shape), image.numpy().tobytes()


TRAINING = [
    # options, views of an image
    ((), 2),
    (("INPUT.RANDOM_FLIP", "vertical"), 2),
    (("INPUT.RANDOM_FLIP", "none"), 1),
    (("INPUT.FORMAT", "RGB"), 2),
    (("INPUT.MIN_SIZE_TRAIN", "(0,)"), 2),
    (("INPUT.MIN_SIZE_TRAIN", "(32, 32)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"), 2),
    (("INPUT.MIN_SIZE_TRAIN", "(32, 32, 32)"), 2),
]


@pytest.mark.parametrize(("opts", "number"), TRAINING)
def test_the_views_are_what_training_draws(
    opts: tuple[str, ...], number: int, records: list[dict[str, Any]]
) -> None:
    training = mapper(*opts)
    views = fixed_mappers(training)
    assert len(views) == number
    for record in records:
        with seeded(0):
            drawn = {pixels(training(record)["image"]) for _ in range(25)}
        fixed = [pixels(view(record)["image"]) for view in views]
        assert len(set(fixed)) == number
        assert drawn == set(fixed)


def test_several_flips() -> None:
    """A mapper of one's own list of augmentations."""
    flips = [T.RandomFlip(), T.RandomFlip(horizontal=False, vertical=True)]
    plain = DatasetMapper(is_train=True, augmentations=flips, image_format="BGR")
    assert len(fixed_mappers(plain)) == 4


RANDOM = [
    T.RandomCrop("relative", (0.5, 0.5)),
    T.RandomBrightness(0.9, 1.1),
    T.RandomApply(T.RandomFlip(), 0.5),
    T.ResizeScale(0.5, 2.0, 32, 32),
    T.RandomRotation([0, 90]),
    T.ResizeShortestEdge((32, 48), sample_style="choice"),
    T.ResizeShortestEdge((32, 33), sample_style="range"),
]


@pytest.mark.parametrize("augmentation", RANDOM)
def test_what_is_drawn_anew_each_time(augmentation: T.Augmentation) -> None:
    several = CheckedDatasetMapper(
        is_train=True, augmentations=[T.RandomFlip(), augmentation], image_format="BGR"
    )
    with pytest.raises(NotCachedError) as caught:
        fixed_mappers(several)
    assert caught.value.fix


sides = st.integers(1, 3000)
nearly_square = sides.map(lambda side: (side, side + 1))
image_sizes = st.lists(st.tuples(sides, sides) | nearly_square, min_size=1, max_size=12)


@given(
    image_sizes,
    st.integers(0, 1400),
    st.integers(1, 1400),
    st.sampled_from([0, 1, 32, 64]),
    st.booleans(),
)
def test_every_image_fits_and_batches_are_of_one_canvas(
    sizes: list[tuple[int, int]], short: int, longest: int, divisibility: int, grouped: bool
) -> None:
    resize = T.ResizeShortestEdge((short,), longest, "choice")
    view = DatasetMapper(is_train=False, augmentations=[resize], image_format="BGR")
    records = [{"height": height, "width": width} for height, width in sizes]
    found = canvases(records, [_resized(r, view) for r in records], divisibility, grouped)
    groups: dict[bool, set[tuple[int, int]]] = {}
    for height, width in sizes:
        size = (height, width)
        if short:
            size = T.ResizeShortestEdge.get_output_shape(height, width, short, longest)
        canvas = found.of(size)  # raises where it does not fit
        groups.setdefault(grouped and width > height, set()).add(canvas)
    assert all(len(canvases_of_a_batch) == 1 for canvases_of_a_batch in groups.values())
    step = max(divisibility, 1)
    for canvas in (found.upright, found.wide):
        assert [side % step for side in canvas] == [0, 0]


CANVASES = [
    # sizes of images, whether batches hold one orientation, canvases of upright and wide images
    ([(60, 40), (80, 40), (40, 60)], True, ((96, 64), (64, 64))),
    ([(60, 40), (80, 40), (40, 60)], False, ((96, 64), (96, 64))),
    ([(40, 60), (40, 70)], True, ((64, 96), (64, 96))),
    # 1000 x 1001 becomes 40 x 40, a wide image on an upright canvas: one for all
    ([(80, 40), (1000, 1001)], True, ((96, 64), (96, 64))),
]


@pytest.mark.parametrize(("sizes", "grouped", "expected"), CANVASES)
def test_canvases_are_no_larger_than_they_must(
    sizes: list[tuple[int, int]], grouped: bool, expected: tuple[Any, Any]
) -> None:
    resize = T.ResizeShortestEdge((40,), 1000, "choice")
    view = DatasetMapper(is_train=False, augmentations=[resize], image_format="BGR")
    records = [{"height": height, "width": width} for height, width in sizes]
    found = canvases(records, [_resized(r, view) for r in records], 32, grouped)
    assert found == Canvases(*expected)


def test_how_much_larger_padding_makes_images() -> None:
    canvas = Canvases((40, 40), (20, 20))
    assert enlargement([(10, 20), (20, 20)], canvas) == (20 * 20 / 200 + 40 * 40 / 400) / 2


# an image, the side that is too long
@pytest.mark.parametrize("size", [(33, 64), (32, 65)])
def test_an_image_that_does_not_fit(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"larger than \(32, 64\)"):
        Canvases((64, 64), (32, 64)).of(size)
