"""How different class counts are, and which images are drawn more often for it."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest

from transfer_maskrcnn.data.balance import (
    choose_sampler,
    class_counts,
    imbalance,
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
