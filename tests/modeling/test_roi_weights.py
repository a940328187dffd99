"""The weights of RoIAlign in C: boxes at the border, far off, huge, reversed, NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transfer_maskrcnn.modeling.roi_align import available

from .one_map import roi_align

pytestmark = pytest.mark.skipif(not available(), reason="the C extension was not built")

IMAGES, HEIGHT, WIDTH = 3, 12, 17
NAN, INF = math.nan, math.inf
SANE = (3.0, 3.0, 20.0, 20.0)
SEEN = [SANE, (-9.0, -7.0, 90.0, 70.0), (60.0, 1.0, 61.0, 47.0), (66.0, 20.0, 69.0, 99.0)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_ways(
    function: Callable[..., Tensor], features: Tensor, gradient: Tensor, *options: object
) -> tuple[Tensor, Tensor]:
    """The pooled features, and their gradient."""
    leaf = features.detach().requires_grad_()
    pooled = function(leaf, *options)
    (back,) = torch.autograd.grad(pooled, leaf, gradient)
    return pooled.detach(), back


def assert_torchvisions(rois: Tensor, size: tuple[int, int], ratio: int, aligned: bool) -> None:
    """Values and gradients at scale 1/4, up to the rounding of float32 sums."""
    gradient = random(len(rois), 4, *size, seed=1)
    arguments = (random(IMAGES, 4, HEIGHT, WIDTH), gradient, rois, size, 0.25, ratio, aligned)
    expected = both_ways(torchvision.ops.roi_align, *arguments)
    for found, exact in zip(both_ways(roi_align, *arguments), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@given(
    boxes=st.lists(
        st.tuples(
            st.integers(0, IMAGES - 1),
            # quarters of a map pixel: edges fall on pixels, their middles, and the map's border
            *(st.integers(-90, 90).map(float) for _ in range(2)),
            *(st.integers(0, 150).map(float) for _ in range(2)),
        ),
        max_size=5,
    ),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    ratio=st.integers(0, 3),
    aligned=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_any_box(
    boxes: list[tuple[int, ...]], size: tuple[int, int], ratio: int, aligned: bool
) -> None:
    rois = torch.tensor([(i, x, y, x + w, y + h) for i, x, y, w, h in boxes]).reshape(-1, 5)
    assert_torchvisions(rois, size, ratio, aligned)


def test_a_box_of_a_million_pixels() -> None:
    """Torchvision keeps every sample, so only one side may be so long."""
    rois = torch.tensor([(0, -5e5, 8.0, 5e5, 16.0), (1, 30.0, -3e5, 40.0, 7e5)])
    assert_torchvisions(rois, (2, 2), 0, True)


WILD = [
    # box, whether some of it may be seen
    ((NAN, 3.0, 20.0, 20.0), False),
    ((3.0, 3.0, NAN, 20.0), False),
    ((NAN, NAN, NAN, NAN), False),
    ((3.0, 3.0, INF, 20.0), False),
    ((-INF, 3.0, 20.0, 20.0), False),
    ((-INF, -INF, INF, INF), False),
    ((INF, 3.0, INF, 20.0), False),
    ((-1e9, -1e9, 1e9, 1e9), True),
    ((-1e9, 3.0, 1e9, 20.0), True),
    ((-2e10, 3.0, 2e10, 20.0), True),  # 1.4e9 samples a bin, most of them passed over
    ((-1e12, -1e12, 1e12, 1e12), False),  # more samples a bin than an int counts
    ((-3e38, -3e38, 3e38, 3e38), False),
    ((30.0, 3.0, 20.0, 20.0), False),  # reversed on one side
    ((1e30, 3.0, 2e30, 20.0), False),
]


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(("box", "seen"), WILD)
def test_boxes_that_cannot_be(box: tuple[float, ...], seen: bool, ratio: int) -> None:
    """Finite everywhere, at once, and zero where no sample lies in the map."""
    rois = torch.tensor([(1, *box), (1, *SANE)])
    ones = torch.ones(IMAGES, 2, HEIGHT, WIDTH)
    start = time.perf_counter()
    pooled, back = both_ways(
        roi_align, ones, torch.ones(2, 2, 7, 7), rois, (7, 7), 0.25, ratio, True
    )
    assert time.perf_counter() - start < 2
    assert bool(torch.isfinite(pooled).all() and torch.isfinite(back).all())
    torch.testing.assert_close(pooled[1], torch.ones(2, 7, 7))  # the box beside it is as ever
    if ratio == 0:
        assert float(pooled[0].amax()) <= 1e-3
        assert bool((pooled[0] == 0).all()) != seen


@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_the_way_back_is_the_transpose_of_the_way_there(ratio: int, aligned: bool) -> None:
    rois = torch.tensor(
        [(i % IMAGES, *box) for i, box in enumerate([*SEEN, *(w[0] for w in WILD)])]
    )
    features, gradient = random(IMAGES, 20, HEIGHT, WIDTH), random(len(rois), 20, 3, 5, seed=1)
    arguments = (features, gradient, rois, (3, 5), 0.25, ratio, aligned)
    pooled, back = both_ways(roi_align, *arguments)
    there, here = (pooled.double() * gradient).sum(), (back.double() * features).sum()
    assert abs(float(there - here)) <= 1e-6 * float((pooled.double() * gradient).abs().sum())


def test_infinite_features_stay_where_they_are() -> None:
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 0, 0], features[0, 0, 7, 7] = INF, NAN
    rois = torch.tensor([(0, 0.0, 0.0, 8.0, 8.0)])
    pooled = roi_align(features.bfloat16(), rois, (4, 4), 1.0, 0, True).float()
    assert pooled[0, 0, 0, 0] == INF
    assert math.isnan(pooled[0, 0, 3, 3])
    assert int((pooled == 0).sum()) == 14
