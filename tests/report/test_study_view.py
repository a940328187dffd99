"""What study.json and costs.json hold, and the tables of a comparison's page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.study_page import Study

Content = dict[str, Any]
Read = Callable[[Content], Study]


@pytest.fixture
def read(write_study: Callable[[Content], Path]) -> Read:
    return lambda content: Study(write_study(content))


def test_everything_is_read(study_json: Content, read: Read) -> None:
    study = read(study_json)
    first = study.names[0]
    assert study.fractions == [1.0, 0.25]
    assert study.images == {0.25: 12, 1.0: 48}
    assert study.cells[first, 0.25]["mean"] == 7.5
    assert [run["seed"] for run in study.runs_of(first, 1.0)] == [0, 1]
    assert [study.fraction_text(f) for f in study.fractions] == ["48 images", "12 images"]
    assert study.costs == {}, "they are in a file of their own"


def test_what_is_no_study_is_named(study_json: Content, read: Read, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"study\.json: no such file; give the folder"):
        Study(tmp_path)
    with pytest.raises(TransferError, match=r"study\.json is of version 2, expected 1"):
        read({**study_json, "version": 2})
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(TransferError, match="holds a JSON list"):
        Study(tmp_path)


def test_damaged_costs_are_named(study_json: Content, read: Read, tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text("{")
    with pytest.raises(TransferError, match=r"costs\.json cannot be read"):
        read(study_json)


def test_results_come_by_fraction_with_mean_costs(whole_study: Path) -> None:
    titles, groups = Study(whole_study).result_groups()
    assert titles == ["mask AP50", "box AP"]
    assert [fraction for fraction, _ in groups] == [1.0, 0.25]
    first = groups[0][1][0]
    assert first["figures"] == [60.0, 31.0]
    assert (first["seconds"], first["memory"]) == (98.2, 1520.0)


def test_the_metric_of_the_study_is_not_repeated(study_json: Content, read: Read) -> None:
    titles, _ = read({**study_json, "metric": "bbox/AP"}).result_groups()
    assert titles == ["mask AP"]  # there is no box AP50 in the file


def test_without_costs_there_are_none(study_json: Content, read: Read) -> None:
    row = read(study_json).result_groups()[1][0][1][0]
    assert (row["seconds"], row["memory"]) == (None, None)


def test_classes_at_the_largest_fraction(study_json: Content, read: Read) -> None:
    rows = read(study_json).class_rows()
    assert [name for name, _ in rows] == study_json["classes"]
    assert rows[0][1] == ["30.0", "15.0", "10.0"]
    assert rows[1][1] == ["31.0", "16.0", "11.0"]


def test_an_undefined_class_says_why(study_json: Content, read: Read) -> None:
    largest = [cell for cell in study_json["cells"] if cell["fraction"] == 1.0]
    largest[0]["means"]["segm/AP-star"] = None
    del largest[1]["means"]["segm/AP-star"]
    largest[2]["means"] = {"segm/AP": None, "segm/AP-star": None}
    (name, values), *_ = read(study_json).class_rows()
    assert (name, values) == ("star", ["no object of this class", "–", "nothing detected"])


def test_an_unknown_class_has_no_row(study_json: Content, read: Read) -> None:
    assert read({**study_json, "classes": ["another"]}).class_rows() == []


def test_drift_is_the_mean_over_the_seeds(study_json: Content, read: Read) -> None:
    where, table = read(study_json).moved() or pytest.fail("no table")
    assert where == "48 images"
    assert table["columns"] == [variant["name"] for variant in study_json["variants"]]
    texts = {name: [cell.text for cell in cells] for name, cells in table["rows"]}
    # the third variant's second seed diverged: its mean is that of the first
    assert texts == {
        "backbone.bottom_up.res2": ["1.0 %"] * 3,
        "roi_heads.mask_head": ["10 %", "10 %", "0 %"],
    }


def test_drift_of_a_smaller_fraction_where_the_largest_has_none(
    study_json: Content, read: Read
) -> None:
    for run in study_json["runs"]:
        if run["fraction"] == 1.0:
            run["drift"] = {}
    found = read(study_json).moved()
    assert found is not None and found[0] == "12 images"
    assert read({**study_json, "runs": []}).moved() is None


def test_settings_that_differ_and_those_that_do_not(study_json: Content, read: Read) -> None:
    del study_json["variants"][0]["settings"][:2]
    study_json["options"] += ["SOLVER.BASE_LR", "3"]  # every variant but one has its own
    differ, shared = read(study_json).settings()
    assert differ == [("SOLVER.BASE_LR", [None, "0.01", "0.02"])]
    assert shared == {"SEED": "0", "SOLVER.MAX_ITER": "100"}
