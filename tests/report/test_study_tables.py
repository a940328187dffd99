"""The tables of a comparison's page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.report.study_input import Study, read_study
from transfer_maskrcnn.report.study_tables import (
    class_rows,
    comparisons_by_fraction,
    moved,
    result_groups,
    settings_rows,
    shared_settings,
)

Content = dict[str, Any]
Read = Callable[[Content], Study]


@pytest.fixture
def read(write_study: Callable[[Content], Path]) -> Read:
    return lambda content: read_study(write_study(content))


def test_results_come_by_fraction_with_mean_costs(whole_study: Path) -> None:
    groups = result_groups(read_study(whole_study))
    assert [group.fraction for group in groups] == [1.0, 0.25]
    assert groups[0].titles == ("mask AP50", "box AP")
    first = groups[0].rows[0]
    assert first.figures == (60.0, 31.0)
    assert (first.seconds, first.memory) == (98.2, 1520.0)


def test_the_metric_of_the_study_is_not_repeated(study_json: Content, read: Read) -> None:
    groups = result_groups(read({**study_json, "metric": "bbox/AP"}))
    assert groups[0].titles == ("mask AP",)  # there is no box AP50 in the file


def test_without_costs_there_are_none(study_json: Content, read: Read) -> None:
    row = result_groups(read(study_json))[0].rows[0]
    assert (row.seconds, row.memory) == (None, None)


def test_classes_at_the_largest_fraction(study_json: Content, read: Read) -> None:
    rows = class_rows(read(study_json))
    assert [name for name, _ in rows] == study_json["classes"]
    assert rows[0][1] == ["30.0", "15.0", "10.0"]
    assert rows[1][1] == ["31.0", "16.0", "11.0"]


def test_an_undefined_class_says_why(study_json: Content, read: Read) -> None:
    largest = [cell for cell in study_json["cells"] if cell["fraction"] == 1.0]
    largest[0]["means"]["segm/AP-star"] = None
    del largest[1]["means"]["segm/AP-star"]
    largest[2]["means"] = {"segm/AP": None, "segm/AP-star": None}
    (name, values), *_ = class_rows(read(study_json))
    assert (name, values) == ("star", ["no object of this class", "–", "nothing detected"])


def test_no_figures_no_class_table(study_json: Content, read: Read) -> None:
    assert class_rows(read({**study_json, "cells": []})) == []
    assert class_rows(read({**study_json, "classes": ["another"]})) == []


def test_drift_is_the_mean_over_the_seeds(study_json: Content, read: Read) -> None:
    where, table = moved(read(study_json)) or pytest.fail("no table")
    assert where == "48 images"
    assert table.columns == tuple(variant["name"] for variant in study_json["variants"])
    texts = {name: [cell.text for cell in cells] for name, cells in table.rows}
    # the third variant's second seed diverged: its mean is that of the first
    assert texts == {"backbone res2": ["1.0 %"] * 3, "mask head": ["10 %", "10 %", "0 %"]}


def test_drift_of_a_smaller_fraction_where_the_largest_has_none(
    study_json: Content, read: Read
) -> None:
    for run in study_json["runs"]:
        if run["fraction"] == 1.0:
            run["drift"] = {}
    found = moved(read(study_json))
    assert found is not None and found[0] == "12 images"
    assert moved(read({**study_json, "runs": []})) is None


def test_settings_that_differ_and_those_that_do_not(study_json: Content, read: Read) -> None:
    del study_json["variants"][0]["settings"][:2]
    study = read(study_json)
    assert settings_rows(study) == [("SOLVER.BASE_LR", [None, "0.01", "0.02"])]
    assert shared_settings(study) == {"SEED": "0"}


def test_comparisons_of_the_largest_fraction_come_first(study_json: Content, read: Read) -> None:
    grouped = comparisons_by_fraction(read(study_json))
    assert [(f, len(rows)) for f, rows in grouped.items()] == [(1.0, 1), (0.25, 1)]
