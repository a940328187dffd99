"""Means over runs with their 95 % intervals, which variant is better, and how soon.

Two sources of chance: the seeds and, where the detections are known, the validation images.

How an interval is made. The seed part of the variance is the sample variance over S seeds, divided
by S; to resample three seeds would find too little. The image part is that of the mean over seeds
when the images are resampled (for two variants: the same resample for both), times G / (G - 1),
which a bootstrap misses, for G images with ground truth. The parts add up, which counts chance
that strikes one image under one seed twice: the interval is rather too wide than too narrow. Its
quantile is the mean of Student's t with G - 1 and with S - 1 degrees of freedom, each weighted with
its part of the variance (Cochran and Cox, Experimental Designs, 1957). Satterthwaite's degrees of
freedom are no choice here: with two seeds, simulated variants without a difference were told
apart in up to 14 % of the studies in place of 5 %.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np

from transfer_maskrcnn.errors import TransferError, nearest
from transfer_maskrcnn.evaluation.bootstrap import LEAST_IMAGES, Interval, bootstrap_ap
from transfer_maskrcnn.evaluation.matches import Matches, require_same_ground_truth
from transfer_maskrcnn.study.results import FIGURES, Json, RunScores, ScoredOn
from transfer_maskrcnn.surgery.names import grouped

Verdict = Literal["better", "worse", "cannot tell"]

HIGHEST_AP = 100.0
ANGLES = 2**20  # so many give nine digits of a quantile


@dataclass(frozen=True)
class ResampledRuns:
    """AP of runs, or differences of AP, on the same validation images.

    Attributes:
        ap: (R runs, 1 + B), 0 to 100: first of the images as they are, then of each resample; 0
            of a run that diverged, NaN of a resample without ground truth.
        images: how many have ground truth: the others say little about AP.
    """

    ap: np.ndarray
    images: int

    def __getitem__(self, runs: Sequence[int]) -> ResampledRuns:
        """Some of the runs, such as those of a variant, one a seed."""
        return ResampledRuns(self.ap[list(runs)], self.images)

    def interval(self, lowest: float = 0.0) -> Interval:
        """95 % interval of the mean AP of runs, one a seed, for other images and seeds of the kind.

        Args:
            lowest: that AP, or a difference of AP, can be.

        Returns:
            from ``lowest`` to 100 where fewer than five images have ground truth.
        """
        observed, resampled = self.ap[:, 0], self.ap[:, 1:].mean(axis=0)
        resampled = resampled[~np.isnan(resampled)]
        if self.images < LEAST_IMAGES or len(resampled) < 2:
            return Interval(lowest, HIGHEST_AP)
        of_images, freedom = resampled.var() * self.images / (self.images - 1), self.images - 1
        # of each source: half of the interval that it alone would give, and its quantile
        parts = [(t_quantile(freedom) * math.sqrt(of_images), t_quantile(freedom))]
        if len(observed) > 1:
            parts.append((half_over_seeds(observed.tolist()), t_quantile(len(observed) - 1)))
        error = math.sqrt(sum((part / quantile) ** 2 for part, quantile in parts))
        half = sum(part**2 / quantile for part, quantile in parts) / error if error else 0.0
        mean = float(observed.mean())
        return Interval(max(lowest, mean - half), min(HIGHEST_AP, mean + half))


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


def resampled_runs(runs: Sequence[Matches | None], weights: np.ndarray) -> ResampledRuns:
    """What all intervals are made of.

    Args:
        runs: None for one that diverged.
        weights: (B, N images), of ``resample``.

    Raises:
        TransferError: runs on different ground truths.
    """
    finished = [run for run in runs if run is not None]
    require_same_ground_truth(finished)
    images = int(finished[0].objects.any(axis=0).sum()) if finished else weights.shape[-1]
    draws = np.vstack([np.ones((1, weights.shape[-1]), dtype=np.int64), weights])
    diverged = np.zeros(len(draws))
    ap = [diverged if run is None else bootstrap_ap(run, draws) for run in runs]
    return ResampledRuns(np.array(ap), images)


def compare_variants(a: ResampledRuns, b: ResampledRuns) -> Comparison:
    """Whether variant ``a`` is better or worse than variant ``b``, or the runs cannot tell.

    Args:
        a: one run a seed.
        b: likewise; the i-th runs of both share a seed.

    Returns:
        the verdict is "cannot tell" unless the interval excludes 0. The interval is -100 to 100
        where fewer than five images have ground truth.
    """
    differences = np.array([ours - theirs for ours, theirs in zip(a.ap, b.ap, strict=True)])
    low, high = ResampledRuns(differences, a.images).interval(-HIGHEST_AP)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return Comparison(float(differences[:, 0].mean()), low, high, len(differences), verdict)


def half_over_seeds(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of at least two values, one a seed: Student's t."""
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


@cache
def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t with ``freedom`` degrees of freedom.

    With ``t = sqrt(freedom) * tan(angle)`` its density is ``cos(angle) ** (freedom - 1)``, up to a
    factor: the trapezoid rule adds it up, and the angle is looked up below which 95 % lie.
    """
    angles = np.linspace(0.0, math.pi / 2, ANGLES)
    densities = np.cos(angles) ** (freedom - 1)
    below = np.append(0.0, np.cumsum(densities[1:] + densities[:-1]))
    return math.sqrt(freedom) * math.tan(np.interp(0.95 * below[-1], below, angles))


def area_under_curve(curve: Sequence[Json]) -> float:
    """Mean AP up to the last point of a curve, by the trapezoid rule."""
    x, y = np.array([(point["iteration"], point["mean"]) for point in curve]).T
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / x[-1])


def iterations_to_reach(curve: Sequence[Json], level: float) -> float | None:
    """The first iteration, perhaps between two points of a curve, with that AP or above.

    Returns:
        None where the curve never is.
    """
    x, y = np.array([(point["iteration"], point["mean"]) for point in curve]).T
    above = np.flatnonzero(y >= level)
    if not len(above):
        return None
    here, before = above[0], max(above[0] - 1, 0)
    share = (level - y[before]) / (y[here] - y[before]) if here else 0.0
    return float(x[before] + share * (x[here] - x[before]))


@dataclass(frozen=True)
class Estimate:
    """A mean over runs; ``half`` is half of its 95 % interval, None of a single run."""

    mean: float
    half: float | None

    def to_json(self) -> Json:
        """``interval`` is ``[low, high]``, None for one run."""
        mean, half = self.mean, self.half
        return {"mean": mean, "interval": None if half is None else [mean - half, mean + half]}


@dataclass(frozen=True)
class Row:
    """Runs of one name."""

    name: str
    runs: tuple[RunScores, ...]

    @cached_property
    def figures(self) -> dict[str, Estimate | None]:
        """By FIGURES; None for what not every run knows."""
        return {name: estimate([run.figures[name] for run in self.runs]) for name in FIGURES}

    def mean(self, figure: str) -> float | None:
        """Of a figure that every run knows."""
        estimate = self.figures[figure]
        return None if estimate is None else estimate.mean

    def shares(self, reference: Row | None) -> dict[str, float | None]:
        """Base AP in % of the source's, and novel AP in % of that of ``reference``, if any."""
        if reference is None:
            return {}
        novel = _percent(self.mean("novel"), reference.mean("novel"))
        return {"kept": _percent(self.mean("base"), self.mean("before")), "of_reference": novel}


def group_rows(runs: Iterable[RunScores]) -> list[Row]:
    """A row a name, in the order of ``runs``; names that differ by numbers alone, by these."""
    groups = grouped(runs, lambda run: run.row)
    patterns = [re.sub(r"\d+", "0", name) for name in groups]
    numbers = [[int(digits) for digits in re.findall(r"\d+", name)] for name in groups]
    order = sorted(zip(map(patterns.index, patterns), numbers, groups, strict=True))
    return [Row(name, tuple(groups[name])) for _, _, name in order]


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Mean and 95 % interval of Student's t over runs; None where one of them is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return Estimate(statistics.fmean(known), half_over_seeds(known) if len(known) > 1 else None)


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row that others are measured against.

    Raises:
        TransferError: there is none of that name, or its AP of the novel classes is 0 or unknown.
    """
    names = [row.name for row in rows]
    if name not in names:
        raise TransferError(
            f"--reference {name}: expected one of the rows {', '.join(names)}{nearest(name, names)}"
        )
    row = rows[names.index(name)]
    if not row.mean("novel"):
        raise TransferError(
            f"--reference {name}: its AP of the novel classes is {row.mean('novel')}, of which "
            "nothing is a share; name a row that knows them"
        )
    return row


def rows_json(rows: Sequence[Row], task: str, reference: Row | None) -> Json:
    """The figures of the table for a file; ``interval`` is ``[low, high]``, null for one run."""
    scored = scored_on(rows)
    return {
        "task": task,
        "sets": {"base": scored.base, "novel": scored.novel},
        "reference": reference and reference.name,
        "rows": [
            {
                "row": row.name,
                "runs": [str(run.folder) for run in row.runs],
                **{name: value and value.to_json() for name, value in row.figures.items()},
                **row.shares(reference),
            }
            for row in rows
        ],
    }


def scored_on(rows: Sequence[Row]) -> ScoredOn:
    """What the figures are of: an extended run tells the most."""
    return max((run.scored for row in rows for run in row.runs), key=lambda s: len(s.base))


def _percent(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else 100 * (part / whole)
