from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from transfer_maskrcnn.data.formats.base import Patch, Reason
from transfer_maskrcnn.data.formats.masks import (
    clean_rle,
    labels_to_rles,
    mask_to_rle,
    paste,
    rle_box,
    rle_to_mask,
)

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40))


@settings(max_examples=200, deadline=None)
@given(masks)
def test_compressed_and_plain_counts_come_back(mask: np.ndarray) -> None:
    size = list(mask.shape)
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    flat = mask.reshape(-1, order="F").astype(int)
    plain, value, length = [], 0, 0
    for pixel in flat:
        if pixel != value:
            plain.append(length)
            value, length = pixel, 0
        length += 1
    plain.append(length)
    assert mask_to_rle(mask) == {"size": size, "counts": encoded["counts"].decode()}
    for counts in (encoded["counts"], encoded["counts"].decode(), plain):
        rle, problem = clean_rle({"size": size, "counts": counts}, *mask.shape)
        assert problem == (None if mask.any() else Reason.ZERO_AREA)
        if not problem:
            assert (rle_to_mask(rle) == mask).all()
            assert isinstance(rle["counts"], str)


def test_long_runs() -> None:
    mask = np.zeros((3000, 2000), dtype=bool)  # run lengths of several characters, differences < 0
    mask[10:2900, 100:1900] = True
    mask[500:510, 500:510] = False
    rle, problem = clean_rle(mask_to_rle(mask), 3000, 2000)
    assert problem is None and (rle_to_mask(rle) == mask).all()
    assert rle_box(rle) == [100, 10, 1900, 2900]


@pytest.mark.parametrize(
    "rle, problem",
    [
        ({"size": [4, 5], "counts": [3, 2, 15]}, None),
        ({"size": (4, 5), "counts": [3, 0, 2, 5, 10]}, None),
        ({"size": [4, 5], "counts": [20]}, Reason.ZERO_AREA),
        ({"size": [4, 5], "counts": [3, 0, 17]}, Reason.ZERO_AREA),
        ({"size": [5, 4], "counts": [3, 2, 15]}, Reason.MASK_OTHER_SIZE),
        ({"counts": [3, 2, 15]}, Reason.MASK_OTHER_SIZE),
        ({"size": [4, 5]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": None}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [3, 2, 16]}, Reason.BAD_MASK),  # more than there are pixels
        ({"size": [4, 5], "counts": [3, 2]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [30, -10]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [3.0, 2.0, 15.0]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [10**30]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": [[3], [2]]}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": ""}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": "o"}, Reason.BAD_MASK),  # ends in the middle of a number
        ({"size": [4, 5], "counts": "oooooooooo0"}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": "\x01 é"}, Reason.BAD_MASK),
        ({"size": [4, 5], "counts": "zzz"}, Reason.BAD_MASK),
    ],
)
def test_malformed(rle: dict[str, Any], problem: str) -> None:
    assert clean_rle(rle, 4, 5)[1] == problem


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_no_text_of_counts_gets_to_pycocotools_unchecked(counts: str) -> None:
    rle, problem = clean_rle({"size": [4, 5], "counts": counts}, 4, 5)
    assert problem or rle_to_mask(rle).shape == (4, 5)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4))
)
def test_labels(labels: np.ndarray) -> None:
    rles = labels_to_rles(labels)
    assert set(rles) == set(np.unique(labels).tolist()) - {0}
    for value, rle in rles.items():
        assert (rle_to_mask(rle) == (labels == value)).all()


@settings(max_examples=100, deadline=None)
@given(masks, st.integers(-50, 50), st.integers(-50, 50))
def test_paste(mask: np.ndarray, x: int, y: int) -> None:
    canvas = np.zeros((140, 140), dtype=bool)
    canvas[50 + y : 50 + y + mask.shape[0], 50 + x : 50 + x + mask.shape[1]] = mask
    assert (paste([Patch(mask, x, y)], 20, 30) == canvas[50:70, 50:80]).all()
