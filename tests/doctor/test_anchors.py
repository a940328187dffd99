"""The reach of anchors is that of detectron2's own grid, and suggestions never reach less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from transfer_maskrcnn.doctor.anchors import (
    SAMPLE,
    reach,
    reached_share,
    suggest_ratios,
    suggest_sizes,
)

SIZES = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
RATIOS = ((0.5, 1.0, 2.0),) * 5
STRIDES = (4, 8, 16, 32, 64)


def grid_ious(
    boxes: NDArray[np.float64],
    sizes: tuple[tuple[float, ...], ...],
    ratios: tuple[tuple[float, ...], ...],
    strides: tuple[int, ...],
) -> NDArray[np.float64]:
    """The best IoU of each XYXY box with any anchor of a 256 x 256 image."""
    generator = DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=ratios, strides=list(strides), offset=0.0
    )
    maps = [torch.zeros(1, 1, 256 // stride + 1, 256 // stride + 1) for stride in strides]
    anchors = Boxes(torch.cat([level.tensor for level in generator(maps)]))
    ious = pairwise_iou(anchors, Boxes(torch.as_tensor(boxes, dtype=torch.float32)))
    return np.asarray(ious.max(dim=0).values, dtype=np.float64)


def boxes_around(centres: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


# sizes, ratios, strides: all of one stride, so that one centre is a quarter off on each level
GRIDS = [
    (((16.0,),), ((1.0,),), (8,)),
    (((16.0,),), ((0.5, 1.0, 2.0),), (4,)),
    (((8.0, 24.0),), ((0.25, 3.0),), (16,)),
    (((12.0,), (48.0, 64.0)), ((0.5, 1.0), (1.0, 2.0)), (8, 8)),
]


@pytest.mark.parametrize(("sizes", "ratios", "strides"), GRIDS)
def test_reach_is_that_of_detectron2s_anchors(
    sizes: tuple[tuple[float, ...], ...],
    ratios: tuple[tuple[float, ...], ...],
    strides: tuple[int, ...],
) -> None:
    sides = np.random.default_rng(0).uniform(3, 120, (200, 2))
    centres = np.full((200, 2), 128 + strides[0] / 4)
    expected = grid_ious(boxes_around(centres, sides), sizes, ratios, strides)
    assert reach(sides, sizes, ratios, strides) == pytest.approx(expected, abs=1e-5)


def test_an_anchors_own_box() -> None:
    centred = reach([[16, 16], [32, 16]], ((16.0,),), ((1.0,),), (8,), offset=(0.0, 0.0))
    assert centred.tolist() == [1.0, 0.5]


def test_the_share_is_that_of_boxes_anywhere() -> None:
    rng = np.random.default_rng(1)
    sides = np.exp(rng.uniform(np.log(6), np.log(40), (1000, 2)))
    boxes = boxes_around(rng.uniform(64, 192, (1000, 2)), sides)
    for factor in (0.5, 1.0):
        sizes = tuple((row[0] * factor,) for row in SIZES)
        expected = (grid_ious(boxes, sizes, RATIOS, STRIDES) >= 0.5).mean()
        assert reached_share(sides, sizes, RATIOS, STRIDES) == pytest.approx(expected, abs=0.03)


def test_a_part_of_very_many_boxes_stands_for_all() -> None:
    sides = np.random.default_rng(2).uniform(4, 40, (3 * SAMPLE, 2))
    parts = [reached_share(part, SIZES, RATIOS, STRIDES) for part in np.split(sides, 3)]
    assert reached_share(sides, SIZES, RATIOS, STRIDES) == pytest.approx(np.mean(parts), abs=0.01)


def test_no_box_at_all() -> None:
    assert reach([], SIZES, RATIOS, STRIDES).shape == (0,)
    assert reached_share([], SIZES, RATIOS, STRIDES) == 1.0
    assert suggest_sizes([], SIZES, RATIOS, STRIDES).values == SIZES


# sides of square boxes, the smallest size that is suggested for them
SUGGESTIONS = [
    ([16, 32, 64, 128, 256], 16),  # the anchors' own
    ([24, 90, 200], 16),  # between them: still reached
    ([10, 11, 12], 12),  # a factor of 3/4 is nearer than 1/2
    ([9, 60, 250], 12),  # one scale for all
    ([6, 7, 8], 8),
    ([700], 32),  # above the largest
    ([1500], 96),
]


@pytest.mark.parametrize(("sides", "smallest"), SUGGESTIONS)
def test_suggested_sizes(sides: list[float], smallest: float) -> None:
    found = suggest_sizes([[side, side] for side in sides], SIZES, RATIOS, STRIDES)
    assert found.values == tuple((smallest * 2.0**level,) for level in range(5))
    assert found.share >= found.share_before


# height / width of the boxes, the ratios that are suggested for them
SHAPES = [
    ([1.0, 0.6, 1.8], (0.5, 1.0, 2.0)),  # the usual
    ([0.3, 4.0], (0.5, 1.0, 2.0)),  # outside, but reached
    ([0.17, 5.8], (1 / 3, 1.0, 3.0)),  # long
    ([1.0, 7.6], (1 / 4, 1.0, 4.0)),  # longer, in one direction
]


@pytest.mark.parametrize(("shapes", "expected"), SHAPES)
def test_suggested_ratios(shapes: list[float], expected: tuple[float, ...]) -> None:
    boxes = [[64 / shape**0.5, 64 * shape**0.5] for shape in shapes]
    found = suggest_ratios(boxes, SIZES, RATIOS, STRIDES)
    assert found.values == (expected,) * 5
    assert found.share >= found.share_before


def test_the_number_of_anchors_a_cell_stays() -> None:
    alone = ((1.0,),) * 5
    assert suggest_ratios([[10, 90]], SIZES, alone, STRIDES).values == alone


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(1, 2000)))
def test_a_suggestion_never_reaches_less(boxes: NDArray[np.float64]) -> None:
    for suggest in (suggest_sizes, suggest_ratios):
        found = suggest(boxes, SIZES, RATIOS, STRIDES)
        assert found.share_before <= found.best_share
        assert found.share >= 0.97 * found.best_share
        same = found.values in (SIZES, RATIOS)
        assert found.share == found.share_before if same else found.share > found.share_before
