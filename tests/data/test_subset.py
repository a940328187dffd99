"""A part of a dataset: how large, of which classes, and within which larger part."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_maskrcnn.data.subset import nested_subset
from transfer_maskrcnn.errors import ConfigError

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.9, 1.0)


def images(*classes: list[int]) -> list[dict[str, Any]]:
    return [
        {"image_id": i, "annotations": [{"category_id": c} for c in present]}
        for i, present in enumerate(classes)
    ]


def ids(subset: list[dict[str, Any]]) -> list[int]:
    return [d["image_id"] for d in subset]


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_nested_complete_and_reproducible(classes: list[list[int]], seed: int) -> None:
    dicts = images(*classes)
    parts = [ids(nested_subset(dicts, fraction, seed)) for fraction in FRACTIONS]
    assert parts[-1] == ids(dicts)
    for smaller, larger in pairwise(parts):
        assert set(smaller) <= set(larger)
    everything = {c for present in classes for c in present}
    for part, fraction in zip(parts, FRACTIONS, strict=True):
        assert part == sorted(part) and part
        assert {c for i in part for c in classes[i]} == everything, "no class is lost"
        assert len(part) <= max(round(fraction * len(dicts)), len(everything), 1)
        assert part == ids(nested_subset(dicts, fraction, seed))


def test_classes_keep_their_proportions() -> None:
    dicts = images(*[[0]] * 600, *[[1]] * 300, *[[2]] * 100)
    part = nested_subset(dicts, 0.2, seed=3)
    counts = Counter(d["annotations"][0]["category_id"] for d in part)
    for label, expected in enumerate((120, 60, 20)):
        assert abs(counts[label] - expected) <= 2


def test_a_crowd_is_no_example_of_its_class() -> None:
    dicts = images(*[[0]] * 20)
    dicts[0]["annotations"] = [{"category_id": 1, "iscrowd": 1}]
    dicts[1]["annotations"] = [{"category_id": 1, "iscrowd": 0}]
    assert all(1 in ids(nested_subset(dicts, 0.1, seed)) for seed in range(50))


def test_another_seed_takes_other_images() -> None:
    dicts = images(*[[0]] * 100)
    parts = [frozenset(ids(nested_subset(dicts, 0.3, seed))) for seed in range(5)]
    assert len(set(parts)) == 5
    share = np.mean([len(a & b) for a in parts for b in parts if a != b]) / 30
    assert 0.1 < share < 0.55, "as two random parts of 30 % would overlap"


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"TRAIN_FRACTION is .* expected a number above 0"):
        nested_subset(images([0]), fraction, 0)
