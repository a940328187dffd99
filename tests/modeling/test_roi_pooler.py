"""FastROIPooler against detectron2's ROIPooler: values, gradients, layouts, stepping back."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from transfer_maskrcnn.modeling import roi_align
from transfer_maskrcnn.modeling.build import build_model, replace_modules
from transfer_maskrcnn.modeling.roi_align import FastROIPooler, available

needs_extension = pytest.mark.skipif(not available(), reason="the C extension was not built")
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
SIDE = 512  # pixels of an image
BOXES = [
    # of two images; sides of 100, 200, 300 and 480 pixels belong to one level each
    [(3.0, 5.0, 103.0, 105.0), (9.0, 9.0, 489.0, 489.0), (100.3, 200.9, 300.1, 400.2)],
    [(50.0, 60.0, 350.0, 360.0), (400.0, 400.0, 511.0, 512.0)],
]


def build(fast: bool, type: str = "ROIAlignV2", size: int = 7, ratio: int = 0) -> ROIPooler:
    pooler = ROIPooler(size, SCALES, ratio, type)
    return FastROIPooler.of(pooler) if fast else pooler


def pyramid(dtype: torch.dtype = torch.float32, channels: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [int(SIDE * scale) for scale in SCALES]
    maps = [torch.randn(2, channels, side, side, generator=generator) for side in sides]
    return [m.to(dtype, memory_format=torch.channels_last) for m in maps]


def boxes(lists: list[list[tuple[float, ...]]] = BOXES) -> list[Boxes]:
    return [Boxes(torch.tensor(of_one).reshape(-1, 4)) for of_one in lists]


def both_ways(
    pooler: ROIPooler, maps: list[Tensor], box_lists: list[Boxes]
) -> tuple[Tensor, list[Tensor]]:
    """The pooled features, and the gradient of every map."""
    leaves = [m.detach().requires_grad_() for m in maps]
    pooled = pooler(leaves, box_lists)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(pooled.shape, generator=generator).to(pooled.dtype)
    return pooled.detach(), list(torch.autograd.grad(pooled, leaves, gradient))


LISTS = [
    BOXES,
    [[], BOXES[1]],  # an image without boxes
    [BOXES[0][:1], BOXES[0][:1]],  # one level has all of them
    [[], []],
    [[(math.nan, 0.0, 9.0, 9.0)], BOXES[1]],  # a box of no level: zeros
]


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize(("type", "size", "ratio"), [("ROIAlignV2", 7, 0), ("ROIAlign", 14, 2)])
def test_float32_has_the_very_values(
    lists: list[list[tuple[float, ...]]], type: str, size: int, ratio: int
) -> None:
    expected = both_ways(build(False, type, size, ratio), pyramid(), boxes(lists))
    pooled, gradients = both_ways(build(True, type, size, ratio), pyramid(), boxes(lists))
    assert torch.equal(pooled, expected[0])
    for found, exact in zip(gradients, expected[1], strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


@needs_extension
@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize(("type", "size", "ratio"), [("ROIAlignV2", 7, 0), ("ROIAlign", 14, 2)])
def test_bfloat16_is_rounded_once(
    lists: list[list[tuple[float, ...]]], type: str, size: int, ratio: int
) -> None:
    maps = pyramid(torch.bfloat16)
    pooled, gradients = both_ways(build(True, type, size, ratio), maps, boxes(lists))
    wide = build(False, type, size, ratio)([m.float() for m in maps], boxes(lists))
    assert pooled.dtype == torch.bfloat16
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooled.float(), wide, rtol=2**-8, atol=1e-6)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(pooled.shape, generator=generator).bfloat16().float()
    leaves = [m.float().requires_grad_() for m in maps]
    build(False, type, size, ratio)(leaves, boxes(lists)).backward(gradient)
    for found, leaf in zip(gradients, leaves, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), leaf.grad, rtol=2**-8, atol=1e-6)


@needs_extension
def test_levels_of_two_types_take_the_wider() -> None:
    maps = pyramid(torch.bfloat16)
    maps[0] = maps[0].float()
    pooled, gradients = both_ways(build(True), maps, boxes())
    expected = both_ways(build(False), [m.float() for m in maps], boxes())
    torch.testing.assert_close(pooled, expected[0], rtol=1e-5, atol=1e-5)
    for found, exact, m in zip(gradients, expected[1], maps, strict=True):
        assert found.dtype == m.dtype
        torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=1e-5)


@needs_extension
def test_under_autocast_nothing_is_cast() -> None:
    conv = nn.Conv2d(20, 8, 1).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        maps = [conv(m) for m in pyramid()]
        pooled = build(True)(maps, boxes())
    assert pooled.dtype == torch.bfloat16
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    pooled.float().sum().backward()
    assert conv.weight.grad is not None
    assert bool(torch.isfinite(conv.weight.grad).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@needs_extension
def test_maps_that_learn_nothing_get_no_gradient(dtype: torch.dtype) -> None:
    maps = pyramid(dtype)
    maps[1].requires_grad_()
    build(True)(maps, boxes()).sum().backward()
    assert [m.grad is not None for m in maps] == [False, True, False, False]
    assert not build(True)(pyramid(dtype), boxes()).requires_grad


@needs_extension
def test_maps_in_either_layout() -> None:
    maps = [m.contiguous() for m in pyramid(torch.bfloat16)]
    pooled, gradients = both_ways(build(True), maps, boxes())
    expected = both_ways(build(True), pyramid(torch.bfloat16), boxes())
    assert torch.equal(pooled, expected[0])
    for found, exact in zip(gradients, expected[1], strict=True):
        assert torch.equal(found, exact)
        assert found.is_contiguous()


def test_one_level() -> None:
    poolers = [ROIPooler((7, 5), [1 / 8], 0, "ROIAlignV2") for _ in range(2)]
    poolers[1] = FastROIPooler.of(poolers[1])
    expected, found = (both_ways(pooler, pyramid()[1:2], boxes()) for pooler in poolers)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


def test_other_types_of_numbers_are_left_to_detectron2() -> None:
    maps = pyramid(torch.float64)
    assert torch.equal(build(True)(maps, boxes()), build(False)(maps, boxes()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_maps_that_do_not_match_are_detectron2s_error(dtype: torch.dtype) -> None:
    maps, odd = pyramid(dtype), pyramid(dtype, channels=21)
    for arguments in ((maps[:3], boxes()), (maps, boxes()[:1])):
        with pytest.raises(AssertionError, match="unequal value"):
            build(True)(*arguments)
    with pytest.raises(RuntimeError):
        build(True)([maps[0], odd[1], *maps[2:]], boxes())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_tracing_sees_detectron2s_pooler() -> None:
    class Traced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pooler = build(True)

        def forward(self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor) -> Tensor:
            pooled: Tensor = self.pooler([p2, p3, p4, p5], [Boxes(rois), Boxes(rois)])
            return pooled

    maps, (first, second) = pyramid(), boxes([BOXES[0], [(0.0, 0.0, 30.0, 30.0)] * 3])
    traced = torch.jit.trace(Traced(), (*maps, first.tensor), check_trace=False)
    expected = build(False)(maps, [second, second])
    assert torch.equal(traced(*maps, second.tensor), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripting_sees_detectron2s_pooler() -> None:
    pooler = build(True)
    assert torch.jit.script(pooler).original_name == "ROIPooler"
    assert type(pooler) is FastROIPooler


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.box_pooler = build(False)
        self.heads = nn.ModuleDict({"mask": build(False, "ROIAlign", 14)})
        self.other = ROIPooler(7, SCALES, 0, "ROIPool")
        self.weight = nn.Parameter(torch.ones(1))


def test_poolers_are_replaced_where_they_stand() -> None:
    model = Model()
    names, modules = list(model.state_dict()), [name for name, _ in model.named_modules()]
    replace_modules(model, ROIPooler, FastROIPooler.of)
    assert type(model.box_pooler) is type(model.heads["mask"]) is FastROIPooler
    assert type(model.other) is ROIPooler
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_modules()] == modules
    assert type(copy.deepcopy(model).box_pooler) is FastROIPooler


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_where_the_c_code_pools(device: str, toy: Any) -> None:
    cfg = toy("MODEL.DEVICE", "cpu")
    cfg.MODEL.DEVICE = device
    poolers = [m for m in build_model(cfg).modules() if isinstance(m, ROIPooler)]
    fast = device == "cpu" and available()
    assert [isinstance(pooler, FastROIPooler) for pooler in poolers] == [fast, fast]


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transfer_maskrcnn.modeling._roi_align", None)
    roi_align._extension.cache_clear()
    try:
        assert not available()
        assert torch.equal(build(True)(pyramid(), boxes()), build(False)(pyramid(), boxes()))
    finally:
        roi_align._extension.cache_clear()
