"""Which part of a dataset is trained on, and which images are drawn more often."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_maskrcnn.data.sampling import (
    choose_sampler,
    class_counts,
    imbalance,
    nested_subset,
    repeat_factors,
    square_root_threshold,
)
from transfer_maskrcnn.errors import ConfigError

CAT, DOG, OWL = 0, 1, 2
NAMES = ["cat", "dog", "owl"]
Dicts = list[dict[str, Any]]


def dataset(*images: tuple[int, list[int]]) -> Dicts:
    """(how many images, the classes of their instances) of each kind."""
    return [
        {"annotations": [{"category_id": c} for c in classes]}
        for count, classes in images
        for _ in range(count)
    ]


RARE = dataset((96, [CAT, CAT]), (4, [DOG]))  # cats 192, dogs 4


def test_class_counts() -> None:
    dicts = dataset((2, [CAT, OWL, OWL]), (1, []))
    dicts[0]["annotations"].append({"category_id": CAT, "iscrowd": 1})
    assert class_counts([*dicts, {"file_name": "without annotations"}], 3) == [2, 0, 4]


# counts, the largest through the smallest; a class without instances says nothing
@pytest.mark.parametrize(
    ("counts", "expected"), [([10, 2, 0], 5), ([3, 3], 1), ([7], 1), ([0, 0], 1), ([], 1)]
)
def test_imbalance(counts: list[int], expected: float) -> None:
    assert imbalance(counts) == expected


# images, threshold, factor of each kind of image
FACTORS: list[tuple[Dicts, float, list[float]]] = [
    (dataset((3, [CAT]), (1, [DOG])), 0.75, [1, 1, 1, math.sqrt(3)]),
    (dataset((3, [CAT]), (1, [CAT, DOG])), 1.0, [1, 1, 1, 2]),  # the rarest class decides
    (dataset((3, [CAT]), (1, [DOG])), 0.0, [1, 1, 1, 1]),  # detectron2's default
    ([*dataset((1, [CAT])), {"file_name": "without annotations"}], 0.5, [1, 1]),
]


@pytest.mark.parametrize(("dicts", "threshold", "expected"), FACTORS)
def test_repeat_factors(dicts: Dicts, threshold: float, expected: list[float]) -> None:
    assert repeat_factors(dicts, threshold).tolist() == pytest.approx(expected)


def test_the_threshold_leaves_the_square_root_of_the_imbalance() -> None:
    assert square_root_threshold(RARE) == 0.96
    factors = repeat_factors(RARE, square_root_threshold(RARE))
    cats, dogs = factors[:96].sum(), factors[96:].sum()
    assert cats / dogs == pytest.approx(math.sqrt(96 / 4))


def test_the_threshold_of_nothing() -> None:
    assert square_root_threshold([]) == 0


def test_rare_classes_are_drawn_more_often() -> None:
    sampler, message = choose_sampler(RARE, ["cat", "dog"], "TrainingSampler", 10, seed=1)
    assert message == (
        "class 'cat' has 192 instances, 'dog' 4, more than 10 times fewer: images of rare classes "
        "are drawn up to 4.9 times as often (RepeatFactorTrainingSampler). "
        "DATALOADER.REPEAT_IMBALANCE 0 switches this off"
    )
    drawn = list(islice(sampler, 2000))
    share = sum(i >= 96 for i in drawn) / len(drawn)
    assert share == pytest.approx(1 / (1 + math.sqrt(96 / 4)), rel=0.1)
    again, _ = choose_sampler(RARE, ["cat", "dog"], "TrainingSampler", 10, seed=1)
    assert list(islice(again, 2000)) == drawn


ELEVEN, TEN = dataset((11, [CAT]), (1, [DOG])), dataset((10, [CAT]), (1, [DOG]))
# images, DATALOADER.SAMPLER_TRAIN, limit, whether rare images are repeated
CHOICES: list[tuple[Dicts, str, float, bool]] = [
    (ELEVEN, "TrainingSampler", 10, True),
    (TEN, "TrainingSampler", 10, False),  # not more than the limit
    (TEN, "TrainingSampler", 9.5, True),
    (ELEVEN, "TrainingSampler", 0, False),  # switched off
    (ELEVEN, "RepeatFactorTrainingSampler", 10, False),  # the user's own choice
    (ELEVEN, "RandomSubsetTrainingSampler", 10, False),
    # in as many images: drawing them more often would change nothing
    (dataset((5, [DOG, *[CAT] * 20])), "TrainingSampler", 10, False),
    ([], "TrainingSampler", 10, False),
]


@pytest.mark.parametrize(("dicts", "name", "limit", "repeated"), CHOICES)
def test_when(dicts: Dicts, name: str, limit: float, repeated: bool) -> None:
    sampler, message = choose_sampler(dicts, NAMES, name, limit, seed=0)
    assert (sampler is not None, bool(message)) == (repeated, repeated)


def test_a_limit_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"DATALOADER\.REPEAT_IMBALANCE is -1; expected 0"):
        choose_sampler(RARE, NAMES, "TrainingSampler", -1, seed=0)


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
