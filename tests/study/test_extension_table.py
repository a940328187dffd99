"""Means and intervals against values computed by hand, and what a terminal shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.study.intervals import estimate, find_row, group_rows, rows_json
from transfer_maskrcnn.study.results import FIGURES, RunScores, ScoredOn
from transfer_maskrcnn.study.words import rows_text

BASE_AND_NOVEL = ScoredOn(("base_val",), ("novel_val",), 8, 2)
NOVEL_ALONE = ScoredOn((), ("novel_val",), 0, 2)


def extended(row: str, base: Sequence[float], novel: Sequence[float]) -> list[RunScores]:
    """A run a seed, of a source with AP 50; all and harmonic mean are 1 and 2 less than novel."""
    return [
        RunScores(
            Path(f"{row}_s{seed}"),
            row,
            str(seed),
            BASE_AND_NOVEL,
            {
                "base": a,
                "novel": b,
                "all": b - 1,
                "harmonic_mean": b - 2,
                "before": 50.0,
                "forgetting": 50.0 - a,
            },
        )
        for seed, (a, b) in enumerate(zip(base, novel, strict=True))
    ]


def alone(row: str, novel: Sequence[float]) -> list[RunScores]:
    return [
        RunScores(
            Path(f"{row}_s{k}"), row, str(k), NOVEL_ALONE, {**dict.fromkeys(FIGURES), "novel": v}
        )
        for k, v in enumerate(novel)
    ]


ESTIMATES = [
    # values, mean, half of the interval: t * standard deviation / sqrt(runs)
    # one run tells nothing of others
    ([12.0], 12.0, None),
    # t(1) = 12.7062, deviation sqrt(2)
    ([10.0, 12.0], 11.0, 12.7062),
    # t(2) = 4.30265, deviation 2
    ([10.0, 12.0, 14.0], 12.0, 4.30265 * 2 / 3**0.5),
    # t(4) = 2.77645, deviation sqrt(2.5)
    ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, 2.77645 * 0.5**0.5),
    ([7.0, 7.0, 7.0], 7.0, 0.0),
]


@pytest.mark.parametrize(("values", "mean", "half"), ESTIMATES)
def test_estimates(values: list[float], mean: float, half: float | None) -> None:
    found = estimate(values)
    assert found is not None and found.mean == pytest.approx(mean)
    assert found.half == (None if half is None else pytest.approx(half, abs=1e-4))


def test_what_one_run_does_not_know_is_not_the_mean_of_the_others() -> None:
    assert estimate([1.0, None]) is None


ORDERS = [
    # names as given, rows
    (["plain", "extended", "plain"], ["plain", "extended"]),
    # as a shell sorts them
    (["few_10shot", "few_1shot", "few_5shot"], ["few_1shot", "few_5shot", "few_10shot"]),
    (["few_10", "alone", "few_5", "b2", "b1"], ["few_5", "few_10", "alone", "b1", "b2"]),
    (["z", "a"], ["z", "a"]),
]


@pytest.mark.parametrize(("given", "expected"), ORDERS)
def test_order_of_rows(given: list[str], expected: list[str]) -> None:
    runs = [run for name in given for run in alone(name, [1.0])]
    rows = group_rows(runs)
    assert [row.name for row in rows] == expected
    assert [len(row.runs) for row in rows] == [given.count(name) for name in expected]


def test_figures_of_a_row() -> None:
    """Base AP 44, 46, 48 of 50; novel AP 81, 90, 99, that alone is 100."""
    runs = [*extended("kept", [44, 46, 48], [81, 90, 99]), *alone("alone", [98, 102])]
    rows = group_rows(runs)
    content = rows_json(rows, "segm", find_row(rows, "alone"))
    kept, reference = content["rows"]
    half = 4.30265 * 2 / 3**0.5
    assert kept["base"]["mean"] == 46 and kept["novel"]["mean"] == 90
    assert kept["base"]["interval"] == pytest.approx([46 - half, 46 + half], abs=1e-4)
    assert kept["forgetting"]["mean"] == 4
    assert kept["forgetting"]["interval"] == pytest.approx([4 - half, 4 + half], abs=1e-4)
    assert kept["kept"] == pytest.approx(92) and kept["of_reference"] == pytest.approx(90)
    assert (kept["all"]["mean"], kept["harmonic_mean"]["mean"]) == (89, 88)
    assert kept["runs"] == ["kept_s0", "kept_s1", "kept_s2"]
    assert reference["of_reference"] == 100
    assert reference["base"] is reference["kept"] is reference["forgetting"] is None
    assert content["reference"] == "alone" and content["task"] == "segm"
    assert content["sets"] == {"base": ("base_val",), "novel": ("novel_val",)}
    without = rows_json(rows, "segm", None)
    assert without["reference"] is None and "kept" not in without["rows"][0]


def test_table() -> None:
    runs = [*extended("kept", [44, 46, 48], [81, 90, 99]), *alone("alone", [100])]
    rows = group_rows(runs)
    lines = rows_text(rows, "segm", find_row(rows, "alone")).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["runs", "base", "novel", "all", "harm.", "forgot", "kept", "share"],
        ["AP", "AP", "AP", "mean", "%", "%"],
    ]
    assert set(lines[2]) == {"-"}
    assert lines[3].split() == ["kept", "3", "46.0", "90.0", "89.0", "88.0", "4.0", "92.0", "90.0"]
    assert lines[4].split() == ["±5.0", "±22.4", "±22.4", "±22.4", "±5.0"]
    assert lines[5].split() == ["alone", "1", "-", "100.0", *["-"] * 4, "100.0"]
    below = lines[4].index("±22.4") + len("±22.4")
    assert lines[3].index("90.0") + len("90.0") == below, "an interval stands below its mean"
    text = " ".join(lines)
    assert "Mask AP, 0 to 100: base classes on base_val; novel classes on novel_val." in text
    assert "4 runs." in text and "covers the seeds, not the choice of test images" in text
    assert "that of the row alone" in text and "-: not extended" in text


def test_what_a_table_does_not_need_is_not_told() -> None:
    text = rows_text(group_rows(extended("kept", [44], [81])), "bbox", None)
    assert "Box AP" in text and "One run a row" in text
    assert "±" not in text and "kept:" not in text and "-:" not in text
    assert "forgot:" not in rows_text(group_rows(alone("alone", [4])), "segm", None)
    # a gain, and a loss that rounds to nothing
    text = rows_text(group_rows(extended("kept", [53.25], [81])), "segm", None)
    assert "-3.2" in text
    text = rows_text(group_rows(extended("kept", [50.01], [81])), "segm", None)
    assert " 0.0" in text and "-0.0" not in text


def test_long_names_fit_80_columns() -> None:
    names = [f"extended_with_pseudo_labels_and_distillation_{end}" for end in ("one", "two")]
    runs = [run for name in names for run in extended(name, [0, 90], [0, 100])]
    rows = group_rows(runs)
    lines = rows_text(rows, "segm", rows[0]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].startswith("ext") and "_one" in lines[3] and "_two" in lines[5]


REFERENCES = [
    ("alon", "expected one of the rows alone, none; did you mean 'alone'?"),
    ("none", "its AP of the novel classes is 0.0, of which nothing is a share"),
]


@pytest.mark.parametrize(("name", "words"), REFERENCES)
def test_references_that_cannot_serve(name: str, words: str) -> None:
    rows = group_rows([*alone("alone", [5, 6]), *alone("none", [0.0])])
    with pytest.raises(TransferError) as error:
        find_row(rows, name)
    assert words in str(error.value)
