"""Is one variant better than another? Two sources of chance: the validation images, and the seeds.

A variant is a list of runs, one a seed, all matched on the same images. A run that diverged is
None; its AP is 0 on every resample.

How an interval is made. The image part of the variance is that of the mean over seeds when the
images are resampled (for two variants: the same resample for both), times G / (G - 1), which a
bootstrap misses, for G images with ground truth. The seed part is the sample variance over S seeds,
divided by S; to resample three seeds would find too little. The parts add up, which counts chance
that strikes one image under one seed twice: the interval is rather too wide than too narrow. Its
quantile is the mean of Student's t with G - 1 and with S - 1 degrees of freedom, each weighted with
its part of the variance (Cochran and Cox, Experimental Designs, 1957). Satterthwaite's degrees of
freedom are no choice here: with two seeds, simulated variants without a difference were told
apart in up to 14 % of the studies in place of 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.bootstrap import Interval, bootstrap_ap
from transfer_maskrcnn.evaluation.matches import Matches, require_same_ground_truth

Runs = Sequence[Matches | None]
Verdict = Literal["better", "worse", "cannot tell"]

HIGHEST_AP = 100.0
#: with fewer, images that happen to agree would pass for certainty
LEAST_IMAGES = 5
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)
#: P(|T| < t) of a 95 % interval
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Variant ``a`` against variant ``b``: AP over seeds, ``a`` less ``b``, and its 95 % interval.

    With one seed the interval speaks for the images alone: another seed might turn it round.
    """

    difference: float
    low: float
    high: float
    seeds: int
    verdict: Verdict


def variant_interval(runs: Runs, weights: np.ndarray) -> Interval:
    """95 % interval of a variant's mean AP over seeds, for other images and seeds of the kind.

    Args:
        runs: one a seed.
        weights: (B, N images), of ``resample``.

    Returns:
        AP, 0 to 100; all of it where fewer than five images have ground truth.

    Raises:
        TransferError: no runs, or runs on different ground truths.
    """
    return _confidence(_resampled_ap(runs, weights), _images_that_tell(runs, weights), 0.0)


def compare_variants(a: Runs, b: Runs, weights: np.ndarray) -> Comparison:
    """Whether variant ``a`` is better or worse than variant ``b``, or the runs cannot tell.

    Args:
        a: one run a seed.
        b: likewise; ``a[i]`` and ``b[i]`` share a seed.
        weights: (B, N images), of ``resample``.

    Returns:
        the verdict is "cannot tell" unless the interval excludes 0. The interval is -100 to 100
        where fewer than five images have ground truth.

    Raises:
        TransferError: no runs, not as many in both variants, or runs on different ground truths.
    """
    if len(a) != len(b):
        raise TransferError(
            f"{len(a)} runs against {len(b)}: expected the same seeds in both variants; run the "
            "missing ones"
        )
    images = _images_that_tell([*a, *b], weights)
    differences = _resampled_ap(a, weights) - _resampled_ap(b, weights)
    low, high = _confidence(differences, images, -HIGHEST_AP)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return Comparison(float(differences[:, 0].mean()), low, high, len(a), verdict)


def _images_that_tell(runs: Runs, weights: np.ndarray) -> int:
    """How many images have ground truth: the others say little about AP."""
    if not runs:
        raise TransferError("a variant without runs: expected one a seed; run it first")
    finished = [run for run in runs if run is not None]
    require_same_ground_truth(finished)
    return int(finished[0].objects.any(axis=0).sum()) if finished else weights.shape[-1]


def _resampled_ap(runs: Runs, weights: np.ndarray) -> np.ndarray:
    """(S seeds, 1 + B): first of the images as they are, then of each resample."""
    diverged = np.zeros(1 + len(weights))
    return np.array([diverged if run is None else _ap_of_run(run, weights) for run in runs])


def _ap_of_run(run: Matches, weights: np.ndarray) -> np.ndarray:
    """(1 + B,) of one run, kept while the run is: a variant is compared with several others."""
    known = _known.get(run)
    if known is None or known[0] is not weights:
        as_they_are = np.ones((1, weights.shape[-1]), dtype=np.int64)
        known = _known[run] = (weights, bootstrap_ap(run, np.vstack([as_they_are, weights])))
    return known[1]


_known: WeakKeyDictionary[Matches, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()


def _confidence(values: np.ndarray, images_that_tell: int, lowest: float) -> Interval:
    """95 % interval of the mean of ``values[:, 0]``; ``values`` as _resampled_ap gives them."""
    seeds = len(values)
    observed, resampled = values[:, 0], values[:, 1:].mean(axis=0)
    resampled = resampled[~np.isnan(resampled)]  # without ground truth there is no AP
    if images_that_tell < LEAST_IMAGES or len(resampled) < 2:
        return Interval(lowest, HIGHEST_AP)
    freedom = images_that_tell - 1
    parts = [(float(resampled.var()) * images_that_tell / freedom, freedom)]
    if seeds > 1:
        parts.append((float(observed.var(ddof=1)) / seeds, seeds - 1))
    error = math.sqrt(sum(variance for variance, _ in parts))
    half = sum(variance * t_quantile(df) for variance, df in parts) / error if error else 0.0
    mean = float(observed.mean())
    return Interval(max(lowest, mean - half), min(HIGHEST_AP, mean + half))


@cache
def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t with ``freedom`` degrees of freedom.

    With ``t = sqrt(freedom) * tan(angle)`` its density becomes ``cos(angle) ** (freedom - 1)``,
    which Gauss-Legendre quadrature integrates well; the rest is bisection.
    """
    low, high = 1.9, 13.0  # normal distribution: 1.96; 1 degree of freedom: 12.71
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| < t)."""
    half_angle = math.atan(t / math.sqrt(freedom)) / 2
    densities = np.cos(half_angle * (NODES + 1)) ** (freedom - 1)
    gammas = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale = 2 * math.exp(gammas) / math.sqrt(math.pi)
    return scale * half_angle * float(NODE_WEIGHTS @ densities)
