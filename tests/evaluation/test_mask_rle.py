"""Run lengths of predicted masks, against detectron2's pasting and pycocotools' encoding."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from transfer_maskrcnn.evaluation import inference
from transfer_maskrcnn.evaluation.inference import EncodedMasks, encode_masks

INF, NAN = math.inf, math.nan


def stock(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """What detectron2 and pycocotools make of it."""
    pasted = paste_masks_in_image(masks[:, 0], boxes, (height, width), threshold)
    return [mask_util.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8)) for mask in pasted]


def probabilities(number: int, side: int = 28, seed: int = 0) -> torch.Tensor:
    """(number, 1, side, side): blobs with soft edges, as a head predicts them."""
    coarse = torch.rand(number, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (20 * (fine - 0.5)).sigmoid()


def filled(value: float, side: int = 28) -> torch.Tensor:
    return torch.full((1, 1, side, side), value)


BOXES = [
    # height, width, box
    (48, 64, (10.3, 5.7, 40.2, 30.9)),  # anywhere
    (48, 64, (10.0, 5.0, 40.0, 30.0)),  # on whole pixels: edges of a full mask are exactly 0.5
    (48, 64, (0.0, 0.0, 64.0, 48.0)),  # the image
    (48, 64, (0.0, 0.0, 20.0, 48.0)),  # as high as the image: runs go on over columns
    (48, 64, (0.0, 10.0, 64.0, 48.0)),  # to the foot of the image, but not from its top
    (48, 64, (0.0, 0.0, 64.0, 30.0)),  # from the top, but not to the foot
    (48, 64, (-30.0, -20.0, 100.0, 90.0)),  # larger than the image
    (48, 64, (-10.0, -10.0, 20.0, 20.0)),  # over a corner
    (48, 64, (63.5, 47.5, 90.0, 90.0)),  # the last pixel of the image
    (48, 64, (-20.0, 3.0, 0.0, 20.0)),  # ends where the image starts
    (48, 64, (10.0, 10.0, 10.0, 30.0)),  # no width, on a pixel's edge
    (48, 64, (10.5, 10.0, 10.5, 30.0)),  # no width, on a pixel's centre: 0 / 0
    (48, 64, (10.5, 10.5, 10.5, 10.5)),  # a point
    (48, 64, (10.0, 10.0, 10.001, 10.001)),  # next to nothing
    (48, 64, (10.0, 10.0, INF, 30.0)),  # without an end
    (48, 64, (-INF, 10.0, 20.0, 30.0)),  # without a start
    (1, 1, (0.0, 0.0, 1.0, 1.0)),  # the smallest image
    (1, 1, (-3.0, -3.0, 8.0, 8.0)),
    (1, 50, (3.0, 0.0, 40.0, 1.0)),  # a line, which is whole columns
    (50, 1, (0.0, 3.0, 1.0, 40.0)),  # one column
    (2160, 3840, (1000.2, 700.1, 1900.7, 1500.3)),  # 4K: more than one band
    (2160, 3840, (-5.0, -5.0, 3845.0, 2165.0)),
    (600, 4000, (0.0, 0.0, 3900.0, 600.0)),  # bands, and runs over columns
]


@pytest.mark.parametrize(("height", "width", "box"), BOXES)
@pytest.mark.parametrize("side", [1, 14, 28])
def test_the_bytes_of_pasting_and_encoding(
    height: int, width: int, box: Sequence[float], side: int
) -> None:
    masks = torch.cat([probabilities(1, side), filled(1.0, side), filled(0.0, side)])
    boxes = torch.tensor([box] * len(masks))
    assert encode_masks(masks, boxes, height, width) == stock(masks, boxes, height, width)


OUTSIDE = [
    # box that covers nothing of an image of 48 x 64; detectron2 cannot paste most of them
    (-50.0, 3.0, -20.0, 20.0),  # left
    (70.0, 3.0, 90.0, 20.0),  # right
    (3.0, -50.0, 20.0, -20.0),  # above
    (3.0, 50.0, 20.0, 90.0),  # below
    (40.0, 30.0, 10.0, 5.0),  # turned inside out
    (INF, INF, INF, INF),
    (NAN, NAN, NAN, NAN),
    (3.0, NAN, 20.0, 30.0),  # one NaN is enough
]


@pytest.mark.parametrize("box", OUTSIDE)
def test_nothing_is_there(box: Sequence[float]) -> None:
    empty = mask_util.encode(np.zeros((48, 64), dtype=np.uint8, order="F"))
    assert encode_masks(filled(1.0), torch.tensor([box]), 48, 64) == [empty]


def test_no_masks() -> None:
    assert encode_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), 48, 64) == []


@pytest.mark.parametrize("value", [NAN, INF, 0.5, 0.4999999, 0.5000001])
def test_masks_that_decide_nothing(value: float) -> None:
    masks = torch.cat([filled(value), probabilities(1)])
    masks[1, 0, 10:14, 3:9] = value
    boxes = torch.tensor([[3.3, 4.0, 50.1, 40.0]] * 2)
    assert encode_masks(masks, boxes, 48, 64) == stock(masks, boxes, 48, 64)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.9, 1.0])
def test_other_thresholds(threshold: float) -> None:
    masks, boxes = probabilities(1), torch.tensor([[3.3, 4.0, 50.1, 40.0]])
    assert encode_masks(masks, boxes, 48, 64, threshold) == stock(masks, boxes, 48, 64, threshold)


def test_half_precision_is_pasted_in_full() -> None:
    masks, boxes = probabilities(1).bfloat16(), torch.tensor([[3.3, 4.0, 50.1, 40.0]])
    assert encode_masks(masks, boxes, 48, 64) == stock(masks.float(), boxes, 48, 64)


def test_a_caller_under_autocast() -> None:
    masks, boxes = probabilities(20), torch.tensor([[3.3, 4.0, 290.1, 180.7]] * 20)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encode_masks(masks.requires_grad_(), boxes, 200, 300)
    assert encoded == stock(masks.detach(), boxes, 200, 300)


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        encode_masks(probabilities(1), torch.tensor([[3.3, 4.0, 50.1, 40.0]]), 48, 64)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


#: finite in all, on pixels' edges and centres now and then, inside and outside of the image
places = st.one_of(
    st.floats(-60, 120, width=32), st.integers(-120, 240).map(lambda twice: twice / 2)
)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    corners=st.lists(st.tuples(places, places, places, places), min_size=1, max_size=4),
    side=st.sampled_from([1, 2, 7, 28]),
    steps=st.sampled_from([1, 2, 4, 1000]),
    band=st.sampled_from([1, 50, 2**17]),
    seed=st.integers(0, 2**16),
)
def test_any_boxes_and_masks(
    height: int,
    width: int,
    corners: list[tuple[float, ...]],
    side: int,
    steps: int,
    band: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(corners), 1, side, side)
    masks = torch.randint(0, steps + 1, shape, generator=generator) / steps
    boxes = torch.tensor(corners)
    boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], 1)
    empty = mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    expected = [
        stock(mask[None], box[None], height, width)[0]
        if touches(box.tolist(), height, width)
        else empty
        for mask, box in zip(masks, boxes, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "BAND", band)
        assert encode_masks(masks, boxes, height, width) == expected


def touches(box: list[float], height: int, width: int) -> bool:
    """Whether detectron2 can paste it: elsewhere, its window would end before it starts."""
    x0, y0, x1, y1 = box
    return x0 < width + 1 and y0 < height + 1 and x1 > -1 and y1 > -1


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_whole_image_is_made() -> None:
    height, width = 2160, 3840
    masks, boxes = probabilities(3), torch.tensor([[0.0, 0.0, width, height]] * 3)
    tracemalloc.start()  # numpy's arrays
    with LargestTensor() as largest:
        encode_masks(masks, boxes, height, width)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < largest.elements < height * width / 10
    assert 0 < peak < height * width


def test_encoded_masks_read_like_a_tensor_of_masks() -> None:
    masks, boxes = probabilities(3), torch.tensor([[3.3, 4.0, 50.1, 40.0]] * 3)
    pasted = paste_masks_in_image(masks[:, 0], boxes, (48, 64))
    encoded = EncodedMasks(encode_masks(masks, boxes, 48, 64))
    assert len(encoded) == 3
    assert torch.equal(torch.stack(list(encoded)), pasted)
