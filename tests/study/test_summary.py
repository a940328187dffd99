"""From the results of runs to cells, comparisons and the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.study.design import Design, Variant
from transfer_maskrcnn.study.study import Finished, summarise

IMAGES = 8
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def matches_of(ap: float, seed: int) -> Matches:
    """One object an image, found at so many thresholds that AP is about ``ap``; images differ."""
    shares = np.clip(ap / 100 + np.random.default_rng(seed).normal(0, 0.05, IMAGES), 0, 1)
    matched = np.arange(10)[:, None] < np.rint(10 * shares)[None]
    return Matches(
        iou_type="segm",
        ground_truth="generated",
        image_ids=np.arange(IMAGES),
        category_ids=np.array([1]),
        iou_thresholds=THRESHOLDS,
        objects=np.ones((1, IMAGES), dtype=np.int64),
        category=np.zeros(IMAGES, dtype=np.int64),
        image=np.arange(IMAGES),
        score=np.linspace(1, 0.1, IMAGES),
        matched=matched,
        ignored=~matched,
    )


def variant(name: str) -> Variant:
    return Variant(
        name, name, "random_init" if name in ("random_init", "from_scratch") else name, "w", ()
    )


def study(
    curves: dict[str, list[float] | None], fractions: tuple[float, ...] = (1.0,), seeds: int = 3
) -> Finished:
    """Variant name -> AP at iterations 0, 10 and 20 of every seed; None for runs that diverged."""
    design = Design("c.yaml", (), tuple(map(variant, curves)), fractions, tuple(range(seeds)))
    results, matches = [], []
    for run in design.runs():
        curve = curves[run.variant.name]
        points = zip((0, 10, 20), curve or [0.0], strict=False)
        rows = [{"iteration": i, "segm/AP": ap} for i, ap in points]
        figures = {"segm/AP": curve[-1], "segm/AP-cat": curve[-1]} if curve else {}
        results.append(
            {
                "variant": run.variant.name,
                "fraction": run.fraction,
                "seed": run.seed,
                "status": "finished" if curve else "diverged",
                "results": figures,
                "curve": rows,
            }
        )
        matches.append(matches_of(curve[-1], run.seed) if curve else None)
    shares = {name: 0.0 if name in ("random_init", "from_scratch") else 0.9 for name in curves}
    return Finished(design, "segm", 20, results, matches, shares, IMAGES)


def cell(content: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in content["cells"] if c["variant"] == name)
    return found


def test_transfer_against_nothing() -> None:
    content = summarise(study({"from_scratch": [0, 5, 20], "all_but_predictors": [0, 60, 80]}))
    assert content["reference"] == "from_scratch"
    [comparison] = content["comparisons"]
    assert (comparison["a"], comparison["b"]) == ("all_but_predictors", "from_scratch")
    assert comparison["verdict"] == "better" and comparison["interval"][0] > 40
    assert content["verdict"].startswith("Pre-trained weights pay here: all_but_predictors")
    transfer = cell(content, "all_but_predictors")
    assert transfer["mean"] == 80 and transfer["area"] == pytest.approx(50)
    assert transfer["interval"][0] < 80 < transfer["interval"][1]
    assert transfer["curve"][1] == {"iteration": 10, "mean": 60, "low": 60, "high": 60}
    # AP 20 is reached after a third of ten iterations, in place of twenty
    assert transfer["reaches"]["iterations"] == pytest.approx(3.33)
    assert transfer["reaches"]["words"] == "reaches it 6.0x sooner"
    assert cell(content, "from_scratch")["reaches"] is None


VERDICTS: list[tuple[dict[str, list[float] | None], str]] = [
    # no variant without weights: nothing is said of weights
    (
        {"backbone": [0, 5, 20], "all_but_predictors": [0, 60, 80]},
        "all_but_predictors is better than backbone here",
    ),
    # no variant with weights
    ({"random_init": [0, 60, 80], "from_scratch": [0, 5, 20]}, "random_init is better than"),
    # weights that hurt
    (
        {"from_scratch": [0, 60, 80], "backbone": [0, 5, 20]},
        "Pre-trained weights do harm here: backbone",
    ),
    # no difference
    (
        {"from_scratch": [0, 60, 80], "backbone": [0, 60, 80]},
        "Whether pre-trained weights pay here cannot be told",
    ),
    # the default transfer is what the verdict is about, whatever else is compared
    (
        {"random_init": [0, 0, 1], "class_rows": [9, 9, 9], "all_but_predictors": [0, 60, 80]},
        "Pre-trained weights pay here: all_but_predictors",
    ),
    # all runs diverged
    (
        {"from_scratch": None, "backbone": None},
        "Whether pre-trained weights pay here cannot be told",
    ),
]


@pytest.mark.parametrize(("curves", "opening"), VERDICTS)
def test_verdicts(curves: dict[str, list[float] | None], opening: str) -> None:
    text = summarise(study(curves))["verdict"]
    assert text.startswith(opening), text
    assert f"({IMAGES} validation images, 3 seeds)" in text


def test_a_run_that_diverged_counts_as_nothing_learnt() -> None:
    finished = study({"from_scratch": [0, 5, 20], "backbone": [0, 60, 80]})
    lost = finished.results[1]
    assert (lost["variant"], lost["seed"]) == ("backbone", 0)
    lost.update(status="diverged", results={}, curve=[{"iteration": 0, "segm/AP": 0.0}])
    matches = [
        None if r is lost else m for r, m in zip(finished.results, finished.matches, strict=True)
    ]
    content = summarise(
        Finished(finished.design, "segm", 20, finished.results, matches, finished.transferred, 8)
    )
    backbone = cell(content, "backbone")
    assert backbone["mean"] == pytest.approx(2 * 80 / 3, abs=0.01)
    assert backbone["curve"][-1]["low"] == 0
    assert content["comparisons"][0]["verdict"] == "cannot tell", "one of three runs was lost"


def test_a_figure_that_cannot_be_measured_is_none_whatever_diverged() -> None:
    finished = study({"from_scratch": [0, 5, 20], "backbone": [0, 60, 80]})
    for result in finished.results[1::2]:
        result["results"]["segm/APl"] = None
    finished.results[1].update(status="diverged", results={})
    means = cell(summarise(finished), "backbone")["means"]
    assert means["segm/APl"] is None
    assert means["segm/AP-cat"] == pytest.approx(2 * 80 / 3, abs=0.01)


def test_a_start_that_is_better_than_its_end_sets_no_speed() -> None:
    content = summarise(study({"from_scratch": [30, 20, 10], "backbone": [0, 60, 80]}))
    assert cell(content, "backbone")["reaches"]["words"] == "reaches it about 12x sooner"


def test_fractions_are_compared_each_by_itself() -> None:
    curves: dict[str, list[float] | None] = {"random_init": [0, 5, 20], "backbone": [0, 60, 80]}
    content = summarise(study(curves, fractions=(0.25, 0.5)))
    assert [c["fraction"] for c in content["comparisons"]] == [0.25, 0.5]
    assert content["verdict"].startswith("On 50% of the training images. Pre-trained")


def test_neighbours_on_the_presets_are_compared_too() -> None:
    curves: dict[str, list[float] | None] = {
        name: [0, 5, 20] for name in ("random_init", "from_scratch", "backbone", "class_rows")
    }
    pairs = [(c["a"], c["b"]) for c in summarise(study(curves))["comparisons"]]
    assert pairs == [
        ("random_init", "from_scratch"),
        ("backbone", "from_scratch"),
        ("class_rows", "from_scratch"),
        ("class_rows", "backbone"),
    ]
