"""Intervals against answers known in advance, and against simulated studies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.bootstrap import Interval, average_precision, resample
from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.study import intervals
from transfer_maskrcnn.study.intervals import Comparison, resampled_runs, t_quantile

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def one_class(
    objects: np.ndarray, image: np.ndarray, iou: np.ndarray, score: np.ndarray
) -> Matches:
    """Matches of detections whose best IoU is ``iou``, each with an object of its own or, at 0,
    with none; ``objects`` is the number in each image."""
    order = np.argsort(-score, kind="stable")
    matched = iou[order] >= THRESHOLDS[:, None]
    return Matches(
        iou_type="segm",
        ground_truth="synthetic",
        image_ids=np.arange(len(objects)),
        category_ids=np.array([1]),
        iou_thresholds=THRESHOLDS,
        objects=objects[None].astype(np.int64),
        category=np.zeros(len(order), dtype=np.int64),
        image=image[order],
        score=score[order],
        matched=matched,
        ignored=np.zeros_like(matched),
    )


def mean_of(found: Sequence[float]) -> Matches:
    """Matches whose AP is, to 101 points of recall, the mean over images of ``50 + 50 found[i]``.

    Each image has two objects. One is always found, the other at a share ``found[i]`` of the IoU
    thresholds. Detections that miss are ignored, so that precision is 1 and AP the mean recall.
    """
    images = np.arange(len(found))
    thresholds_met = np.rint(10 * np.array(found)).astype(int)
    matches = one_class(
        objects=np.full(len(found), 2),
        image=np.concatenate([images, images]),
        iou=np.concatenate(
            [np.ones(len(found)), np.where(thresholds_met, THRESHOLDS[thresholds_met - 1], 0)]
        ),
        score=np.linspace(1, 0.1, 2 * len(found)),
    )
    return replace(matches, ignored=~matches.matched)


def all_resamples(images: int) -> np.ndarray:
    draws = itertools.product(range(images), repeat=images)
    return np.array([np.bincount(draw, minlength=images) for draw in draws])


Runs = Sequence[Matches | None]


def variant_interval(runs: Runs, weights: np.ndarray) -> Interval:
    return resampled_runs(runs, weights).interval()


def compare_variants(a: Runs, b: Runs, weights: np.ndarray) -> Comparison:
    both = resampled_runs([*a, *b], weights)
    places = range(len(a) + len(b))
    return intervals.compare_variants(both[places[: len(a)]], both[places[len(a) :]])


def half_width(interval: Interval | Comparison) -> float:
    return (interval.high - interval.low) / 2


QUANTILES = [
    # degrees of freedom, 97.5 % quantile of any printed table
    (1, 12.7062),
    (2, 4.3027),
    (3, 3.1824),
    (4, 2.7764),
    (5, 2.5706),
    (12, 2.1788),
    (39, 2.0227),
    (120, 1.9799),
    (10**6, 1.95996),  # the normal distribution's
]


@pytest.mark.parametrize(("freedom", "expected"), QUANTILES)
def test_quantile_of_student_t(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=6e-5)


def test_images_alone_give_the_t_interval_of_a_mean() -> None:
    found = np.array([0.1, 0.3, 0.4, 0.2, 0.6])
    interval = variant_interval([mean_of(found)], all_resamples(5))
    # Over every resample there is, the bootstrap's variance is known: that of the mean of 5.
    expected = t_quantile(4) * (50 * found).std(ddof=1) / np.sqrt(5)
    assert half_width(interval) == pytest.approx(expected, rel=0.02)
    assert sum(interval) / 2 == pytest.approx((50 + 50 * found).mean(), abs=1)


def test_seeds_alone_give_the_t_interval_of_a_mean() -> None:
    variant = [mean_of([share] * 5) for share in (0.2, 0.3, 0.5)]
    expected = t_quantile(2) * np.std([10, 15, 25], ddof=1) / np.sqrt(3)
    assert half_width(variant_interval(variant, all_resamples(5))) == pytest.approx(
        expected, rel=0.02
    )


def test_both_sources_add_up() -> None:
    pattern = np.array([0.0, 0.4, 0.4, 0.0, 0.7])
    variant = [mean_of(pattern + share) for share in (0.1, 0.1, 0.3)]
    images = (50 * pattern).var(ddof=1) / 5
    seeds = np.var([5, 5, 15], ddof=1) / 3
    quantile = (images * t_quantile(4) + seeds * t_quantile(2)) / (images + seeds)
    assert half_width(variant_interval(variant, all_resamples(5))) == pytest.approx(
        quantile * np.sqrt(images + seeds), rel=0.02
    )


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.slow
def test_interval_of_a_mean_covers_it_95_times_of_100(seeds: int) -> None:
    rng = np.random.default_rng(0)
    images, studies, covered = 20, 200, 0
    seed_spread = 0.06 if seeds > 1 else 0
    for _ in range(studies):
        found = 0.5 + rng.normal(0, 0.15, images) + rng.normal(0, seed_spread, (seeds, 1))
        variant = [mean_of(run) for run in np.clip(found, 0, 1)]
        interval = variant_interval(variant, resample(images, 100, int(rng.integers(2**31))))
        covered += interval.low <= 75 <= interval.high
    assert 0.92 <= covered / studies <= 0.98


def test_pairing_finds_a_small_difference_between_images_of_all_sorts() -> None:
    rng = np.random.default_rng(0)
    found = rng.integers(0, 9, 20) / 10
    b = [mean_of(found)] * 3
    a = [mean_of(np.clip(found + step, 0, 1)) for step in (0.1, 0.1, 0.1)]
    weights = resample(20, 300, 0)
    assert compare_variants(a, b, weights).verdict == "better"
    assert variant_interval(a, weights).low < variant_interval(b, weights).high


@dataclass(frozen=True)
class Chance:
    """Spreads of the logit of a detection's IoU, that is of its quality."""

    image: float  # of a variant's affinity to an image, the same for all seeds
    seed: float  # of a run
    detection: float  # of an image and of an object under one seed


class World:
    """A validation set, and variants whose runs find its objects more or less well."""

    def __init__(self, images: int, chance: Chance, rng: np.random.Generator):
        self.chance, self.rng = chance, rng
        self.objects = rng.integers(1, 6, images)
        self.image = np.repeat(np.arange(images), self.objects)
        self.quality = 0.8 + 0.8 * self._spread(1) + 0.8 * rng.normal(size=len(self.image))

    def _spread(self, sd: float) -> np.ndarray:
        return self.rng.normal(0, sd, len(self.objects))[self.image]

    def variant(self, seeds: int, better_by: float = 0.0) -> list[Matches]:
        mean = self.quality + better_by + self._spread(self.chance.image)
        return [self._run(mean + self.rng.normal(0, self.chance.seed)) for _ in range(seeds)]

    def _run(self, mean: np.ndarray) -> Matches:
        rng, sd = self.rng, self.chance.detection
        quality = mean + self._spread(sd) + rng.normal(0, sd, len(mean))
        wrong = np.repeat(np.arange(len(self.objects)), rng.poisson(3, len(self.objects)))
        score = np.concatenate(
            [quality + rng.normal(0, 0.7, len(mean)), rng.normal(-1, 1, len(wrong))]
        )
        return one_class(
            objects=self.objects,
            image=np.concatenate([self.image, wrong]),
            iou=np.concatenate([1 / (1 + np.exp(-quality)), np.zeros(len(wrong))]),
            score=score,
        )


CHANCES = [
    Chance(image=0.8, seed=0.05, detection=0.15),  # mostly the images
    Chance(image=0.1, seed=0.6, detection=0.15),  # mostly the seeds
    Chance(image=0.4, seed=0.3, detection=0.35),  # something of all
]


@pytest.mark.slow
def test_variants_without_a_difference_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(0)
    verdicts = []
    for chance in CHANCES * 100:
        images = int(rng.integers(13, 41))
        world = World(images, chance, rng)
        weights = resample(images, 150, int(rng.integers(2**31)))
        verdicts.append(compare_variants(world.variant(3), world.variant(3), weights).verdict)
    assert verdicts.count("cannot tell") >= 0.93 * len(verdicts)


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    verdicts, gains = [], []
    for _ in range(20):
        world = World(30, Chance(image=0.3, seed=0.1, detection=0.3), rng)
        a, b = world.variant(3, better_by=1.0), world.variant(3)
        weights = resample(30, 200, int(rng.integers(2**31)))
        forth, back = compare_variants(a, b, weights), compare_variants(b, a, weights)
        assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
        assert {forth.verdict, back.verdict} in ({"better", "worse"}, {"cannot tell"})
        verdicts.append(forth.verdict)
        gains.append(forth.difference)
    assert 15 < np.mean(gains) < 30
    assert verdicts.count("better") >= 17
    assert "worse" not in verdicts


def test_the_difference_is_that_of_the_images_as_they_are() -> None:
    world = World(15, CHANCES[2], np.random.default_rng(1))
    a, b = world.variant(3), world.variant(3)
    comparison = compare_variants(a, b, resample(15, 50, 0))
    means = [np.mean([average_precision(run) for run in variant]) for variant in (a, b)]
    assert comparison.difference == pytest.approx(means[0] - means[1])
    assert comparison.low < comparison.difference < comparison.high
    assert comparison.seeds == 3


def test_one_seed_speaks_for_the_images_alone() -> None:
    weights = all_resamples(5)
    a, b = mean_of([0.5, 0.6, 0.7, 0.6, 0.7]), mean_of([0.2, 0.3, 0.2, 0.1, 0.3])
    comparison = compare_variants([a], [b], weights)
    assert comparison.seeds == 1
    assert comparison.verdict == "better"
    expected = t_quantile(4) * np.std([15, 15, 25, 25, 20], ddof=1) / np.sqrt(5)
    assert half_width(comparison) == pytest.approx(expected, rel=0.02)


def test_the_same_runs_cannot_be_told_apart() -> None:
    variant = World(13, CHANCES[2], np.random.default_rng(0)).variant(3)
    comparison = compare_variants(variant, variant, resample(13, 50, 0))
    assert (comparison.difference, comparison.low, comparison.high) == (0, 0, 0)
    assert comparison.verdict == "cannot tell"


def test_a_run_that_diverged_has_ap_0() -> None:
    shares = ([0.5, 0.6, 0.4, 0.5, 0.5], [0.4, 0.5, 0.4, 0.5, 0.5], [0.5, 0.5, 0.4, 0.6, 0.5])
    variant = [mean_of(found) for found in shares]
    weights = all_resamples(5)
    assert compare_variants([None] * 3, variant, weights).verdict == "worse"
    one_lost = compare_variants([None, *variant[1:]], variant, weights)
    assert one_lost.difference == pytest.approx(-average_precision(variant[0]) / 3)
    assert one_lost.verdict == "cannot tell", "one seed of three is no proof"
    both_lost = compare_variants([None] * 3, [None] * 3, weights)
    assert (both_lost.low, both_lost.high, both_lost.verdict) == (0, 0, "cannot tell")
    assert variant_interval([None, None], weights) == (0, 0)


def without_objects(matches: Matches, kept: int) -> Matches:
    """The same detections where only the first ``kept`` images have ground truth."""
    objects = matches.objects.copy()
    objects[:, kept:] = 0
    return replace(matches, objects=objects, matched=matches.matched & (matches.image < kept))


TOO_LITTLE = [
    # four images that agree are no proof
    (mean_of([0.9] * 4), mean_of([0.1] * 4), resample(4, 200, 0)),
    # one image
    (mean_of([0.5]), mean_of([0.1]), resample(1, 20, 0)),
    # ground truth in one of ten images: a third of the resamples has none
    (
        without_objects(mean_of([0.9] * 10), 1),
        without_objects(mean_of([0.1] * 10), 1),
        resample(10, 200, 0),
    ),
    # no ground truth at all
    (
        without_objects(mean_of([0.5] * 4), 0),
        without_objects(mean_of([0.1] * 4), 0),
        resample(4, 20, 0),
    ),
    # a single resample shows no spread
    (mean_of([0.5] * 6), mean_of([0.1] * 6), resample(6, 1, 0)),
]


@pytest.mark.parametrize(("a", "b", "weights"), TOO_LITTLE)
def test_too_little_to_tell_leaves_every_ap_possible(
    a: Matches, b: Matches, weights: np.ndarray
) -> None:
    comparison = compare_variants([a, a, a], [b, b, b], weights)
    assert (comparison.low, comparison.high) == (-100, 100)
    assert comparison.verdict == "cannot tell"
    assert variant_interval([a], weights) == (0, 100)


def test_resamples_without_ground_truth_do_not_count() -> None:
    a, b = (
        replace(
            mean_of(found),
            image_ids=np.arange(9),
            objects=np.array([[2] * 5 + [0] * 4]),  # and no detection in the last four
        )
        for found in ([0.5, 0.6, 0.4, 0.7, 0.55], [0.2, 0.2, 0.2, 0.2, 0.2])
    )
    weights = np.vstack([resample(9, 300, 0), [0] * 5 + [3, 2, 2, 2]])
    comparison = compare_variants([a], [b], weights)
    assert comparison.difference == pytest.approx(17.5, rel=0.03)
    assert comparison.low < comparison.difference < comparison.high < 100


def test_an_interval_stays_where_ap_can_be() -> None:
    variant, lost = [mean_of([0, 0.2, 1, 0, 0.1]), mean_of([1, 0.9, 1, 1, 1])], [None, None]
    weights = all_resamples(5)
    assert variant_interval(variant, weights) == (0, 100)
    assert compare_variants(variant, lost, weights).high == 100
    assert compare_variants(lost, variant, weights).low == -100


SOME = mean_of([0.5, 0.6])
REFUSED = [
    # variant a, variant b, what the error names
    ([SOME], [replace(SOME, ground_truth="another")], "two ground truths"),
    ([None, SOME], [None, replace(SOME, iou_type="bbox")], "IoU type 'bbox' beside 'segm'"),
]


@pytest.mark.parametrize(("a", "b", "message"), REFUSED)
def test_variants_that_are_no_pair(
    a: list[Matches | None], b: list[Matches | None], message: str
) -> None:
    with pytest.raises(TransferError, match=message):
        compare_variants(a, b, resample(2, 10, 0))


def test_runs_without_a_partner_of_the_same_seed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare_variants([SOME, SOME], [SOME], resample(2, 10, 0))
