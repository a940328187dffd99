"""A study's outcome in sentences: what is claimed, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.study.intervals import Comparison, Verdict
from transfer_maskrcnn.study.words import speed_up, study_text, verdict


def cell(variant: str, mean: float, words: str = "") -> dict[str, Any]:
    return {"variant": variant, "mean": mean, "reaches": {"words": words} if words else None}


CASES: list[tuple[Comparison, str, list[str], list[str]]] = [
    # comparison, speed-up in words, what the sentence has, what it has not
    (
        Comparison(24.5, 20.0, 29.0, 3, "better"),
        "reaches it 6.2x sooner",
        ["weights pay here", "29.5", "5.0", "+20.0 to +29.0, excludes", "3 seeds", "6.2x"],
        ["One seed"],
    ),
    # nothing to catch up with
    (Comparison(24.5, 20.0, 29.0, 3, "better"), "", ["weights pay here"], ["final AP", "sooner"]),
    # a difference that may be none says nothing about speed
    (
        Comparison(2.5, -1.0, 6.0, 3, "cannot tell"),
        "reaches it 6.2x sooner",
        ["cannot be told", "-1.0 to +6.0, includes zero", "13 validation images"],
        ["pay here:", "6.2x"],
    ),
    (
        Comparison(-9.0, -12.0, -6.0, 3, "worse"),
        "does not reach it",
        ["do harm here", "-12.0 to -6.0, excludes zero"],
        ["does not reach it"],
    ),
    # one seed says nothing about seeds, and the sentence says so
    (
        Comparison(24.5, 20.0, 29.0, 1, "better"),
        "",
        ["In one run of each, rows is better than fair", "1 seed)", "the choice of images alone"],
        ["1 seeds", "weights pay"],
    ),
    # bounds that would round to zero show on which side of it they are
    (Comparison(1.5, 0.03, 3.1, 3, "better"), "", ["+0.03 to +3.1, excludes"], []),
    (Comparison(1.5, -0.004, 3.1, 3, "cannot tell"), "", ["-0.004 to +3.1, includes"], []),
]


@pytest.mark.parametrize(("comparison", "words", "expected", "absent"), CASES)
def test_verdict(
    comparison: Comparison, words: str, expected: list[str], absent: list[str]
) -> None:
    rows, fair = cell("rows", 29.5, words), cell("fair", 5.0)
    text = verdict("segm", rows, fair, comparison, 13, about_weights=True)
    assert [part for part in expected if part not in text] == [], text
    assert [part for part in absent if part in text] == [], text


def test_two_variants_with_weights_say_nothing_about_weights() -> None:
    comparison = Comparison(24.5, 20.0, 29.0, 3, "better")
    text = verdict("segm", cell("a", 29.5), cell("b", 5.0), comparison, 1, about_weights=False)
    assert text.startswith("a is better than b here: ")
    assert "(1 validation image, 3 seeds)" in text


def test_the_table_fits_a_terminal() -> None:
    long = "all_but_predictors@a_file_with_a_very_long_name_coco.pth"
    content = {
        "metric": "segm/AP",
        "verdict": "Pre-trained weights pay here, " + "and so on, " * 20,
        "train_images": [{"fraction": 0.25, "images": 120000}],
        "variants": [{"name": long, "transferred": 0.998}],
        "cells": [
            {
                "variant": long,
                "fraction": 0.25,
                "mean": 100.0,
                "interval": [100.0, 100.0],
                "means": {"segm/AP50": None},
            }
        ],
    }
    lines = study_text(content, Path("out")).splitlines()
    assert max(map(len, lines)) <= 80
    [row] = [line for line in lines if "%" in line and "interval" not in line]
    assert "100.0 to 100.0" in row and "120000" in row
    assert "99%" in row, "nearly all is not all"
    assert "coco.pth" in row, "the end of a name tells files apart"
    assert lines[-2:] == ["Figures: out/study.json", "Report:  out/report.html"]


def test_every_verdict_has_an_opening() -> None:
    kinds: tuple[Verdict, ...] = ("better", "worse", "cannot tell")
    texts = {
        verdict(
            *("bbox", cell("a", 1), cell("b", 1), Comparison(0, -1, 1, 2, kind), 4),
            about_weights=about,
        )
        for kind in kinds
        for about in (True, False)
    }
    assert len(texts) == 6 and all("box AP" in text for text in texts)


SPEED_UPS = [
    # own iterations, the reference's budget, words
    (65, 400, "reaches it 6.2x sooner"),
    (4, 400, "reaches it about 100x sooner"),  # roughly: it lies between two points
    (400, 400, "reaches it just as soon"),
    (395, 400, "reaches it just as soon"),
    (600, 400, "reaches it 1.5x later"),
    (0.0, 400, "is there before the first iteration"),
    (None, 400, "does not reach it"),
]


@pytest.mark.parametrize(("own", "budget", "words"), SPEED_UPS)
def test_speed_up(own: float | None, budget: float, words: str) -> None:
    assert speed_up(own, budget) == words
