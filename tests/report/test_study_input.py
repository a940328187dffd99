"""study.json and costs.json as values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.study_input import read_study

Content = dict[str, Any]
Write = Callable[[Content], Path]


def test_everything_is_read(study_json: Content, write_study: Write) -> None:
    study = read_study(write_study(study_json))
    first = study.variants[0].name
    assert study.fractions == [1.0, 0.25]
    assert study.images == {0.25: 12, 1.0: 48}
    assert study.variants[1].keep == "backbone.stem, backbone.res2"
    assert study.variants[2].settings == {"SOLVER.BASE_LR": "0.02", "SEED": "0"}
    cell = study.cells[first, 0.25]
    assert (cell.mean, cell.interval, cell.area) == (7.5, (6.5, 8.5), 3.75)
    assert (cell.reaches, cell.level) == ("way 0", 2.5)
    assert [point.iteration for point in cell.curve] == [0, 50, 100]
    assert [run.seed for run in study.runs_of(first, 1.0)] == [0, 1]
    assert study.comparisons[1].interval == (-3.0, 23.0)


def test_costs_are_read_where_they_are(study_json: Content, write_study: Write) -> None:
    folder = write_study(study_json)
    assert read_study(folder).costs == {}
    costs = {"machine": {"device": "cpu"}, "runs": {"a": {"seconds": 2, "peak_memory_mb": None}}}
    (folder / "costs.json").write_text(json.dumps(costs))
    study = read_study(folder)
    assert study.machine == {"device": "cpu"}
    assert study.costs == {"a": {"seconds": 2.0, "peak_memory_mb": None}}


def test_what_is_optional_may_be_missing(write_study: Write) -> None:
    variants = [{"name": "a"}]
    cells = [{"variant": "a", "fraction": 0.5, "mean": None}]
    runs = [{"variant": "a", "fraction": 0.5, "seed": 0}]
    content = {"version": 1, "variants": variants, "cells": cells, "runs": runs}
    study = read_study(write_study(content))
    assert study.metric == "segm/AP"
    assert study.cells["a", 0.5].interval is None
    assert study.cells["a", 0.5].reaches == ""
    assert study.variants[0].transferred is None


@pytest.mark.parametrize(
    ("fractions", "fraction", "text"),
    [
        ([{"fraction": 0.25, "images": 12}], 0.25, "12 images"),
        ([{"fraction": 0.25, "images": 1}], 0.25, "1 image"),
        ([], 0.25, "25 % of the images"),  # how many they are is not written
    ],
)
def test_fraction_text(
    study_json: Content, write_study: Write, fractions: list[Content], fraction: float, text: str
) -> None:
    study = read_study(write_study({**study_json, "train_images": fractions}))
    assert study.fraction_text(fraction) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2, not 1"),
        ({"variants": [{"keep": "backbone"}]}, "no 'name'"),
        ({"variants": None}, "not iterable"),
        ({"cells": [{"variant": "a"}]}, "no 'fraction'"),
        ({"cells": [{"variant": "a", "fraction": "half"}]}, "half"),
    ],
)
def test_what_is_no_study_is_named(
    study_json: Content, write_study: Write, change: Content, message: str
) -> None:
    folder = write_study({**study_json, **change})
    with pytest.raises(TransferError, match=f"study.json is no comparison.*{message}.*Run the"):
        read_study(folder)


def test_a_json_of_another_kind(write_study: Write, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(TransferError, match="no comparison of this version"):
        read_study(tmp_path)


def test_a_missing_study_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"study\.json: no such file; give the folder"):
        read_study(tmp_path)


def test_damaged_costs_are_named(study_json: Content, write_study: Write) -> None:
    folder = write_study(study_json)
    (folder / "costs.json").write_text("{")
    with pytest.raises(TransferError, match=r"costs\.json cannot be read"):
        read_study(folder)
