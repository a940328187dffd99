"""RoIAlign in C: torchvision's values and gradients, for any box, type, layout, thread count."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
import torchvision
from torch import Tensor

from transfer_maskrcnn.modeling.roi_align import available

from .one_map import roi_align

pytestmark = pytest.mark.skipif(not available(), reason="the C extension was not built")

IMAGES, HEIGHT, WIDTH = 3, 12, 17
# image, x0, y0, x1, y1 in pixels of an image of 68 x 48 (at scale 1/4)
ROIS = [
    (0, 3.3, 5.1, 40.2, 30.9),
    (2, 10.0, 2.0, 13.0, 46.0),  # thin
    (1, 20.0, 20.0, 22.0, 22.0),  # less than a pixel of the map
    (2, 0.0, 0.0, 68.0, 48.0),  # all of the map
    (0, -2.0, -2.0, 8.0, 8.0),  # samples between -1 and 0
    (1, 50.0, 30.0, 70.0, 50.0),  # samples at and beyond the last pixel
    (0, -4.0, -4.0, 72.0, 52.0),  # one pixel over the border, where samples begin to count
    (0, -300.0, -200.0, 500.0, 400.0),  # much larger than the map
    (1, 200.0, 10.0, 240.0, 40.0),  # outside, on the right
    (1, -90.0, -90.0, -50.0, -50.0),  # outside, above
    (2, 30.0, 10.0, 30.0, 10.0),  # empty
    (2, 1e9, 10.0, 1e9 + 640, 40.0),  # far away
]
REVERSED = [
    # from right to left, from the bottom up: torchvision knows them for fixed sampling ratios
    (0, 40.0, 30.0, 3.0, 5.0),
    (1, 60.0, 3.0, 20.0, 44.0),
    (1, 20.0, 44.0, 60.0, 3.0),
    (2, 300.0, 250.0, -80.0, -60.0),  # begins and ends outside of the map
]
CASES = [
    # output size, sampling ratio, aligned, channels, scale
    ((7, 7), 0, True, 16, 0.25),  # the box head of a detector
    ((14, 14), 0, True, 3, 0.25),  # fewer channels than a vector has
    ((7, 7), 0, False, 130, 0.25),  # blocks and a rest, two tasks backwards
    ((3, 5), 1, True, 1, 0.25),
    ((3, 5), 2, False, 16, 0.5),
    ((1, 1), 3, True, 256, 0.125),  # blocks of channels alone
    ((14, 14), 2, True, 80, 0.25),  # a block and a vector
    ((1, 1), 0, False, 5, 1.0),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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


def assert_near(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Within ``relative`` of the largest number: sums in another order, in float32."""
    assert found.shape == expected.shape
    if expected.numel():
        scale = max(float(expected.abs().amax()), 1e-3)
        assert float((found - expected).abs().amax()) <= relative * scale


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("size", "ratio", "aligned", "channels", "scale"), CASES)
def test_float32_is_torchvisions(
    size: tuple[int, int], ratio: int, aligned: bool, channels: int, scale: float, layout: object
) -> None:
    rois = torch.tensor(ROIS + (REVERSED if ratio else []))
    features = random(IMAGES, channels, HEIGHT, WIDTH).contiguous(memory_format=layout)
    gradient = random(len(rois), channels, *size, seed=1)
    options = (rois, size, scale, ratio, aligned)
    expected = both_ways(torchvision.ops.roi_align, features, gradient, *options)
    pooled, back = both_ways(roi_align, features, gradient, *options)
    assert_near(pooled, expected[0])
    assert_near(back, expected[1])
    for tensor in (pooled, back):
        assert tensor.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("size", "ratio", "aligned", "channels", "scale"), CASES)
def test_bfloat16_is_rounded_once(
    size: tuple[int, int], ratio: int, aligned: bool, channels: int, scale: float, layout: object
) -> None:
    rois = torch.tensor(ROIS)
    features = random(IMAGES, channels, HEIGHT, WIDTH).bfloat16().contiguous(memory_format=layout)
    gradient = random(len(rois), channels, *size, seed=1).bfloat16()
    options = (rois, size, scale, ratio, aligned)
    wide = (features.float(), gradient.float())
    expected = both_ways(torchvision.ops.roi_align, *wide, *options)
    for found, exact in zip(
        both_ways(roi_align, features, gradient, *options), expected, strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert found.is_contiguous(memory_format=layout)
        # half a step of bf16 is at most 2 ** -8 of the number; sums around zero have noise
        error = (found.float() - exact).abs()
        assert bool((error <= 2**-8 * 1.001 * exact.abs() + 1e-6).all())
        assert float((found == exact.bfloat16()).float().mean()) > 0.99


def test_halves_are_rounded_to_even() -> None:
    """A box over two pixels is their mean: between two numbers of bf16, and exact in float32."""
    steps = torch.arange(-40, 40) * 2**-7
    features = torch.stack([1 + steps, 1 + steps + 2**-7]).bfloat16().T.reshape(1, -1, 1, 2)
    pooled = roi_align(features, torch.tensor([(0.0, 0, 0, 2, 1)]), (1, 1), 1.0, 0, True)
    assert torch.equal(pooled.flatten(), features.float().mean(3).flatten().bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    rois = torch.tensor(ROIS * 10)  # 120 RoIs are 4 tasks, 2 blocks of channels of 3 images 6
    features = random(IMAGES, 130, HEIGHT, WIDTH).to(dtype)
    gradient = random(len(rois), 130, 7, 7, seed=1)
    before = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(both_ways(roi_align, features, gradient, rois, (7, 7), 0.25, 0, True))
    torch.set_num_threads(before)
    for pooled, back in found[1:]:
        assert torch.equal(pooled, found[0][0])
        assert torch.equal(back, found[0][1])


def test_a_forked_process_has_threads_of_its_own(two_threads: None) -> None:
    arguments = (random(1, 4, 8, 8), torch.zeros(70, 5), (2, 2), 1.0, 0, True)
    expected = roi_align(*arguments)  # 70 RoIs are three tasks: this starts threads
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if torch.equal(roi_align(*arguments), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_gradients_go_to_features_alone() -> None:
    rois = torch.tensor(ROIS).requires_grad_()
    features = random(IMAGES, 4, HEIGHT, WIDTH)
    assert not roi_align(features, rois, (2, 2), 0.25, 0, True).requires_grad
    roi_align(features.requires_grad_(), rois, (2, 2), 0.25, 0, True).sum().backward()
    assert rois.grad is None
    assert features.grad is not None


def test_boxes_may_change_before_the_way_back() -> None:
    rois, features = torch.tensor(ROIS), random(IMAGES, 4, HEIGHT, WIDTH).requires_grad_()
    pooled = roi_align(features, rois, (2, 2), 0.25, 0, True)
    (expected,) = torch.autograd.grad(pooled.sum(), features, retain_graph=True)
    rois.zero_()
    (found,) = torch.autograd.grad(pooled.sum(), features)
    assert torch.equal(found, expected)


NOTHING = [
    # shape of the features, number of RoIs
    ((2, 3, 4, 5), 0),
    ((0, 3, 4, 5), 0),
    ((2, 3, 0, 5), 2),
    ((2, 0, 4, 5), 2),
]


@pytest.mark.parametrize(("shape", "count"), NOTHING)
def test_nothing_to_pool(shape: tuple[int, ...], count: int) -> None:
    features, gradient = torch.ones(shape), torch.ones(count, shape[1], 2, 3)
    rois = torch.tensor([(1, 0.0, 0.0, 9.0, 9.0)]).repeat(count, 1).reshape(-1, 5)
    pooled, back = both_ways(roi_align, features, gradient, rois, (2, 3), 0.5, 0, True)
    assert torch.equal(pooled, torch.zeros(count, shape[1], 2, 3))
    assert torch.equal(back, torch.zeros(shape))


def test_features_that_are_a_part_of_a_tensor() -> None:
    whole = random(IMAGES, 8, HEIGHT, 2 * WIDTH)
    part, rois = whole[:, 1:6, :, ::2], torch.tensor(ROIS)
    gradient = random(len(rois), 2, 7, 5, seed=1).transpose(1, 3)
    options = (rois, (7, 2), 0.25, 0, True)
    expected = both_ways(torchvision.ops.roi_align, part, gradient, *options)
    for found, wanted in zip(both_ways(roi_align, part, gradient, *options), expected, strict=True):
        assert_near(found, wanted)
