"""Which part of a dataset is trained on, and which images are drawn more often."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_maskrcnn.data.datasets import labels_of
from transfer_maskrcnn.data.loader import choose_sampler, imbalance, nested_subset, repeat_factors
from transfer_maskrcnn.errors import ConfigError

CAT, DOG, OWL = 0, 1, 2
NAMES = ["cat", "dog", "owl"]
Labels = list[list[int]]


def dataset(*images: tuple[int, list[int]]) -> Labels:
    """(how many images, the classes of their instances) of each kind."""
    return [classes for count, classes in images for _ in range(count)]


RARE = dataset((96, [CAT, CAT]), (4, [DOG]))  # cats 192, dogs 4


def test_labels() -> None:
    annotations = [{"category_id": CAT}, {"category_id": OWL, "iscrowd": 0}]
    crowd = {"category_id": CAT, "iscrowd": 1}
    dicts = [{"annotations": [*annotations, crowd]}, {"file_name": "without annotations"}]
    assert labels_of(dicts) == [[CAT, OWL], []]


# counts, the largest through the smallest; a class without instances says nothing
@pytest.mark.parametrize(
    ("counts", "expected"), [([10, 2, 0], 5), ([3, 3], 1), ([7], 1), ([0, 0], 1), ([], 1)]
)
def test_imbalance(counts: list[int], expected: float) -> None:
    assert imbalance(counts) == expected


# images, factor of each kind of image
FACTORS: list[tuple[Labels, list[float]]] = [
    (dataset((3, [CAT]), (1, [DOG])), [1, 1, 1, math.sqrt(3)]),
    (dataset((3, [CAT]), (1, [CAT, DOG])), [1, 1, 1, 2]),  # the rarest class decides
    (dataset((2, [CAT]), (2, [DOG, DOG])), [1, 1, 1, 1]),  # images count, not instances
    ([[CAT], []], [1, 1]),
    ([], []),
]


@pytest.mark.parametrize(("labels", "expected"), FACTORS)
def test_repeat_factors(labels: Labels, expected: list[float]) -> None:
    assert repeat_factors(labels).tolist() == pytest.approx(expected)


def test_the_square_root_of_the_imbalance_is_left() -> None:
    factors = repeat_factors(RARE)
    cats, dogs = factors[:96].sum(), factors[96:].sum()
    assert cats / dogs == pytest.approx(math.sqrt(96 / 4))


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
CHOICES: list[tuple[Labels, str, float, bool]] = [
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


@pytest.mark.parametrize(("labels", "name", "limit", "repeated"), CHOICES)
def test_when(labels: Labels, name: str, limit: float, repeated: bool) -> None:
    sampler, message = choose_sampler(labels, NAMES, name, limit, seed=0)
    assert (sampler is not None, bool(message)) == (repeated, repeated)


def test_a_limit_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"DATALOADER\.REPEAT_IMBALANCE is -1; expected 0"):
        choose_sampler(RARE, NAMES, "TrainingSampler", -1, seed=0)


FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.9, 1.0)


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_nested_complete_and_reproducible(classes: list[list[int]], seed: int) -> None:
    parts = [nested_subset(classes, fraction, seed) for fraction in FRACTIONS]
    assert parts[-1] == list(range(len(classes)))
    for smaller, larger in pairwise(parts):
        assert set(smaller) <= set(larger)
    everything = {c for present in classes for c in present}
    for part, fraction in zip(parts, FRACTIONS, strict=True):
        assert part == sorted(part) and part
        assert {c for i in part for c in classes[i]} == everything, "no class is lost"
        assert len(part) <= max(round(fraction * len(classes)), len(everything), 1)
        assert part == nested_subset(classes, fraction, seed)


def test_classes_keep_their_proportions() -> None:
    labels = [[0]] * 600 + [[1]] * 300 + [[2]] * 100
    counts = Counter(labels[i][0] for i in nested_subset(labels, 0.2, seed=3))
    for label, expected in enumerate((120, 60, 20)):
        assert abs(counts[label] - expected) <= 2


def test_another_seed_takes_other_images() -> None:
    parts = [frozenset(nested_subset([[0]] * 100, 0.3, seed)) for seed in range(5)]
    assert len(set(parts)) == 5
    share = np.mean([len(a & b) for a in parts for b in parts if a != b]) / 30
    assert 0.1 < share < 0.55, "as two random parts of 30 % would overlap"


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"TRAIN_FRACTION is .* expected a number above 0"):
        nested_subset([[0]], fraction, 0)
