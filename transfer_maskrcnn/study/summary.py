"""From the results of all runs to ``study.json``: intervals, comparisons, speed-ups, the verdict.

Nothing in it depends on when or how often the study was interrupted; what does, seconds and memory,
is in ``costs.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from transfer_maskrcnn.evaluation.bootstrap import resample
from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.study.compare import compare_variants, variant_interval
from transfer_maskrcnn.study.curves import (
    area_under_curve,
    iterations_to_reach,
    speed_up_in_words,
)
from transfer_maskrcnn.study.design import Design
from transfer_maskrcnn.study.variants import FAIR
from transfer_maskrcnn.study.words import verdict

REPLICATES = 1000
BOOTSTRAP_SEED = 0
LEAST_LEVEL = 1.0  # AP; a reference that learnt less sets no level worth reaching
MAIN_VARIANT = "all_but_predictors"


@dataclass(frozen=True)
class Finished:
    """All runs of a study; ``matches`` has one entry for each of ``results``."""

    design: Design
    task: str
    iterations: int
    results: Sequence[dict[str, Any]]
    matches: Sequence[Matches | None]
    transferred: dict[str, float]
    images: int  # of the validation set

    @cached_property
    def keeps(self) -> dict[str, str]:
        """Variant name -> preset."""
        return {variant.name: variant.keep for variant in self.design.variants}

    @cached_property
    def reference(self) -> str:
        """The variant that stands for no pre-training."""
        names = [variant.name for variant in self.design.variants]
        return next((name for name in (FAIR, "random_init") if name in names), names[0])

    @cached_property
    def main(self) -> str:
        """The variant that the verdict is about: the default transfer, or else the fullest one."""
        if MAIN_VARIANT in self.transferred and self.reference != MAIN_VARIANT:
            return MAIN_VARIANT
        others = [
            variant.name for variant in self.design.variants if variant.name != self.reference
        ]
        return max(others, key=lambda name: self.transferred[name])

    @cached_property
    def weights(self) -> np.ndarray:
        """(replicates, validation images): the resamples that all comparisons share."""
        return resample(self.images, REPLICATES, BOOTSTRAP_SEED)

    def runs(self, variant: str, fraction: float) -> list[int]:
        """Indices of a variant's runs, by seed."""
        return [
            i
            for i, result in enumerate(self.results)
            if (result["variant"], result["fraction"]) == (variant, fraction)
        ]


def summarise(study: Finished) -> dict[str, Any]:
    """``cells`` (a variant at a fraction), ``comparisons`` and ``verdict`` of ``study.json``."""
    fractions = study.design.fractions
    cells = [_cell(study, variant.name, f) for f in fractions for variant in study.design.variants]
    by_name = {(cell["variant"], cell["fraction"]): cell for cell in cells}
    for cell in cells:
        reference = by_name[study.reference, cell["fraction"]]
        useful = study.keeps[study.reference] == "random_init" and reference["mean"] >= LEAST_LEVEL
        cell["reaches"] = (
            _reaches(study, cell, reference) if useful and cell is not reference else None
        )
    whole = fractions[-1]
    comparison = _compare(study, study.main, study.reference, whole)
    return {
        "reference": study.reference,
        "cells": cells,
        "comparisons": [
            {"fraction": f, "a": a, "b": b, **_plain(_compare(study, a, b, f))}
            for f in fractions
            for a, b in _pairs(study)
        ],
        "verdict": _share(whole)
        + verdict(
            study.task,
            by_name[study.main, whole],
            by_name[study.reference, whole],
            comparison,
            study.images,
            about_weights=study.keeps[study.reference] == "random_init"
            and study.transferred[study.main] > 0,
        ),
    }


def _share(fraction: float) -> str:
    return "" if fraction == 1 else f"On {fraction:.0%} of the training images. "


def _pairs(study: Finished) -> list[tuple[str, str]]:
    """Each variant against the one without weights, and against the variant before it."""
    names = [variant.name for variant in study.design.variants]
    against = [(name, study.reference) for name in names if name != study.reference]
    steps = [(b, a) for a, b in pairwise(names)]
    reverse = {(b, a) for a, b in against}
    return [*against, *(pair for pair in steps if pair not in against and pair not in reverse)]


def _compare(study: Finished, a: str, b: str, fraction: float) -> Any:
    first, second = ([study.matches[i] for i in study.runs(name, fraction)] for name in (a, b))
    return compare_variants(first, second, study.weights)


def _plain(comparison: Any) -> dict[str, Any]:
    return {
        "difference": round(comparison.difference, 4),
        "interval": [round(comparison.low, 4), round(comparison.high, 4)],
        "seeds": comparison.seeds,
        "verdict": comparison.verdict,
    }


def _cell(study: Finished, variant: str, fraction: float) -> dict[str, Any]:
    runs = study.runs(variant, fraction)
    results = [study.results[i] for i in runs]
    metric = f"{study.task}/AP"
    low, high = variant_interval([study.matches[i] for i in runs], study.weights)
    curve = _curve(results, metric, study.iterations)
    return {
        "variant": variant,
        "fraction": fraction,
        "mean": _mean([result["results"].get(metric) for result in results]),
        "interval": [round(low, 4), round(high, 4)],
        "means": _means([result["results"] for result in results]),
        "curve": curve,
        "area": round(area_under_curve(_points(curve), study.iterations), 4),
    }


def _curve(results: Sequence[dict[str, Any]], metric: str, last: int) -> list[dict[str, Any]]:
    """Mean and range over seeds at each point; a run that diverged has AP 0 from then on."""
    points = sorted({row["iteration"] for r in results for row in r["curve"]} | {last})
    curve = []
    for iteration in points:
        values = [_at(result["curve"], iteration, metric) for result in results]
        low, high = min(values), max(values)
        curve.append({"iteration": iteration, "mean": _mean(values), "low": low, "high": high})
    return curve


def _at(rows: Sequence[dict[str, Any]], iteration: int, metric: str) -> float:
    return next((row.get(metric) or 0.0 for row in rows if row["iteration"] == iteration), 0.0)


def _points(curve: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(point["iteration"], point["mean"]) for point in curve]


def _reaches(study: Finished, cell: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    level = reference["mean"]
    reached = iterations_to_reach(_points(cell["curve"]), level)
    needed = iterations_to_reach(_points(reference["curve"]), level) or study.iterations
    return {
        "level": level,
        "iterations": None if reached is None else round(reached, 2),
        "words": speed_up_in_words(reached, needed),
    }


def _means(results: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Of every figure; None for those that no run could have, such as AP of a size not there."""
    names = sorted({name for result in results for name in result})
    means: dict[str, float | None] = {}
    for name in names:
        overall = f"{name.partition('/')[0]}/AP"
        # a model that detects nothing has no AP at all, which is 0; one that has AP, but not this
        # figure, says that there is nothing of the kind to detect
        absent = any(
            result.get(name) is None and result.get(overall) is not None for result in results
        )
        means[name] = None if absent else _mean([result.get(name) for result in results])
    return means


def _mean(values: Sequence[float | None]) -> float:
    """COCO's undefined AP (nothing was detected) counts as 0, as does a run that diverged."""
    return round(sum(value or 0.0 for value in values) / len(values), 4)
