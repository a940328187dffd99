"""A study's outcome in sentences: what is claimed, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.study.compare import Comparison, Verdict
from transfer_maskrcnn.study.words import table, verdict


def cell(arm: str, mean: float, words: str = "") -> dict[str, Any]:
    return {"arm": arm, "mean": mean, "reaches": {"words": words} if words else None}


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
        ["1 seed)", "One seed: the interval covers the choice of images alone"],
        ["1 seeds"],
    ),
]


@pytest.mark.parametrize(("comparison", "words", "expected", "absent"), CASES)
def test_verdict(
    comparison: Comparison, words: str, expected: list[str], absent: list[str]
) -> None:
    text = verdict("segm", cell("rows", 29.5, words), cell("fair", 5.0), comparison, 13)
    assert [part for part in expected if part not in text] == [], text
    assert [part for part in absent if part in text] == [], text


def test_the_table_fits_a_terminal() -> None:
    long = "all_but_predictors@a_file_with_a_very_long_name.safetensors"
    content = {
        "metric": "segm/AP",
        "train_images": [{"fraction": 0.25, "images": 120000}],
        "arms": [{"name": long, "transferred": 1.0}],
        "cells": [
            {
                "arm": long,
                "fraction": 0.25,
                "mean": 100.0,
                "interval": [100.0, 100.0],
                "means": {"segm/AP50": None},
            }
        ],
    }
    lines = table(content).splitlines()
    assert max(map(len, lines)) <= 80
    assert "100.0 to 100.0" in lines[-1] and "120000" in lines[-1]


def test_every_verdict_has_an_opening() -> None:
    kinds: tuple[Verdict, ...] = ("better", "worse", "cannot tell")
    texts = {
        verdict("bbox", cell("a", 1), cell("b", 1), Comparison(0, -1, 1, 2, kind), 4)
        for kind in kinds
    }
    assert len(texts) == 3 and all("box AP" in text for text in texts)
