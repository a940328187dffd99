"""A transfer plan by part, and why."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.report.plan_view import PartRow, view_plan

Content = dict[str, Any]


def test_parts_sum_what_came_and_what_did_not(plan: Content) -> None:
    view = view_plan(plan)
    assert view is not None
    assert view.parts == (
        PartRow("backbone res2", 90, 0, 0),
        PartRow("class predictor", 0, 6, 12),
    )


def test_rows_of_classes_count_on_both_sides(plan: Content) -> None:
    plan["tensors"][1] |= {"fate": "rows", "moved": 4, "reason": "rows of matched classes"}
    view = view_plan(plan)
    assert view is not None
    assert view.parts[1] == PartRow("class predictor", 4, 2, 12)
    assert [reason.fate for reason in view.reasons] == ["kept", "class by class", "dropped"]


def test_reasons_name_their_tensors(plan: Content) -> None:
    view = view_plan(plan)
    assert view is not None
    kept, initialised, dropped = view.reasons
    assert (kept.fate, kept.reason, kept.parameters, len(kept.tensors)) == (
        *("kept", "same place", 90),
        2,
    )
    name = "roi_heads.box_predictor.cls_score.weight"
    assert initialised.tensors == ((name, "2 × 3"),)
    assert dropped.tensors == ((name, "4 × 3"),)  # a dropped tensor has the source's shape alone


@pytest.mark.parametrize(
    ("change", "summary"),
    [
        ({}, "90.0 % of the model’s parameters come from source.pth (KEEP all_but_predictors"),
        ({"keep": ["a.b", "c"]}, "source.pth (KEEP a.b, c: a.b, c)"),
        ({"source": "", "loaded_fraction": 0.0}, "0 % of the model’s parameters come from no file"),
    ],
)
def test_summary(plan: Content, change: Content, summary: str) -> None:
    view = view_plan({**plan, **change})
    assert view is not None and summary in view.summary


def test_remarks_are_problems_and_notes(plan: Content) -> None:
    plan["problems"] = [{"code": "x", "text": "It is wrong.", "remedy": "Mend it."}]
    plan["classes"] = [{"target": "ring", "source": None, "how": "new class"}]
    view = view_plan(plan)
    assert view is not None
    assert view.remarks == ("It is wrong. Mend it.", "a note")
    assert view.classes == (("ring", "none", "new class"),)


def test_no_plan() -> None:
    assert view_plan({}) is None
    with pytest.raises(KeyError):
        view_plan({"keep": "backbone"})


def test_where_the_rows_of_classes_come_from(plan: Content) -> None:
    plan["classes"] = [
        {"target": "van", "source": "car", "how": "parent class", "averaged": []},
        {"target": "vehicle", "source": None, "how": "class map", "averaged": ["car", "bus"]},
        # of a plan from before there were averages
        {"target": "kite", "source": None, "how": "new class"},
    ]
    view = view_plan(plan)
    assert view is not None
    assert [row[1] for row in view.classes] == ["car", "mean of car, bus", "none"]
