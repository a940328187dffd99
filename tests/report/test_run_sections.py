"""Sections of a run's page: the plan, base and novel classes, why AP is so, and the plots."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.evaluation.explain import explain_folder
from transfer_maskrcnn.report import run_sections
from transfer_maskrcnn.report.run_page import write_run_report
from transfer_maskrcnn.report.run_sections import (
    losses_picture,
    validation_picture,
    view_explanation,
    view_extension,
    view_plan,
)

Content = dict[str, Any]
Row = dict[str, Any]


def test_reasons_name_their_tensors(plan: Content) -> None:
    kept, initialised, dropped = view_plan(plan)["reasons"]
    assert (kept["fate"], kept["reason"], kept["parameters"]) == ("kept", "same place", 90)
    assert len(kept["tensors"]) == 2
    name = "roi_heads.box_predictor.cls_score.weight"
    assert initialised["tensors"] == [(name, "2 × 3")]
    assert dropped["tensors"] == [(name, "4 × 3")]  # it has the source's shape alone
    plan["tensors"][1] |= {"fate": "rows", "moved": 4, "reason": "rows of matched classes"}
    fates = [reason["fate"] for reason in view_plan(plan)["reasons"]]
    assert fates == ["kept", "class by class", "dropped"]


@pytest.mark.parametrize(
    ("change", "summary"),
    [
        ({}, "90.0 % of the model’s parameters come from source.pth (KEEP all_but_predictors"),
        ({"keep": ["a.b", "c"]}, "source.pth (KEEP a.b, c: a.b, c)"),
        ({"source": "", "loaded_fraction": 0.0}, "0 % of the model’s parameters come from no file"),
    ],
)
def test_summary_of_a_plan(plan: Content, change: Content, summary: str) -> None:
    assert summary in view_plan({**plan, **change})["summary"]


def test_remarks_are_problems_and_notes(plan: Content) -> None:
    plan["problems"] = [{"code": "x", "text": "It is wrong.", "remedy": "Mend it."}]
    assert view_plan(plan)["remarks"] == ["It is wrong. Mend it.", "a note"]


def test_where_the_rows_of_classes_come_from(plan: Content) -> None:
    plan["classes"] = [
        {"target": "van", "source": "car", "words": "parent class", "averaged": []},
        {"target": "vehicle", "source": None, "words": "class map", "averaged": ["car", "bus"]},
        {"target": "kite", "source": None, "words": "new class", "averaged": []},
    ]
    sources = [row[1] for row in view_plan(plan)["classes"]]
    assert sources == ["car", "mean of car, bus", "none"]


TITLE = "<h2>Base and novel classes</h2>"
LOST = {"ap": 5.74, "low": 3.97, "high": 8.05}


def figures(**changed: Any) -> dict[str, Any]:
    known = {
        "base": 10.51,
        "novel": 3.68,
        "all": 9.15,
        "harmonic_mean": 5.45,
        "before": 16.25,
        "forgetting": LOST,
        "images": 1,
        "scored": {"base": 8, "novel": 2},
        "classes": {"<ring>": {"before": 24.0, "after": 18.4}},
    }
    return {**known, **changed}


def extension(**changed: Any) -> dict[str, Any]:
    return {
        "segm": figures(**changed),
        "bbox": figures(),
        "base_classes": 8,
        "novel_classes": 2,
        "sets": {"base": ["old_val", "old_test"], "novel": ["new_val"]},
    }


def add(folder: Path, content: Any) -> None:
    path = folder / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extension": content}))


def test_on_the_page(whole_run: Path) -> None:
    assert TITLE not in write_run_report(whole_run).read_text()
    add(whole_run, {**extension(), "lines": ["base classes: forgot 5.7", "novel classes: <3.7>"]})
    page = write_run_report(whole_run).read_text()
    assert TITLE in page and "AP on extension" not in page and "<ring>" not in page
    for text in ("4.0 to 8.1", "old_val and old_test, novel ones on", "resamples of the 1 image "):
        assert text in page
    assert '<p class="verdict">base classes: forgot 5.7.</p>' in page
    assert '<p class="line">novel classes: &lt;3.7&gt;.</p>' in page
    assert "&lt;ring&gt; 24.0 before, 18.4 after" in page


ROWS = [
    # what is changed, the figures of a row: base, before, novel, all, harmonic mean, forgotten
    ({}, ["10.5", "16.2", "3.7", "9.2", "5.5", "5.7", "4.0 to 8.1"]),
    ({"forgetting": {**LOST, "low": None}}, ["10.5", "16.2", "3.7", "9.2", "5.5", "5.7", "–"]),
    (
        {"base": None, "before": None, "all": None, "harmonic_mean": None, "forgetting": None},
        ["–", "–", "3.7", "–", "–", "–", "–"],
    ),
]


@pytest.mark.parametrize(("changed", "row"), ROWS)
def test_rows_of_figures(changed: Content, row: list[str]) -> None:
    view = view_extension(extension(**changed))
    assert view is not None and view["rows"][0] == ("mask AP", row)
    assert len(view["titles"]) == len(row)


def test_without_the_source_model_there_are_no_bars() -> None:
    view = view_extension(extension(classes={"ring": {"before": None, "after": 3.0}}))
    assert view and view["plot"] is None


def test_of_many_classes_those_that_changed_most_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_sections, "MOST_BARS", 2)
    classes = {f"c{k}": {"before": 10.0 * k, "after": 9.0 * k} for k in range(1, 5)}
    view = view_extension(extension(classes=classes))
    assert view and view["plot"]
    assert view["plot"].caption == "Base classes, before and after, the 2 of 4 that changed most"
    assert "c3 30.0 before" in view["plot"].alt and "c2 20.0" not in view["plot"].alt


@pytest.mark.parametrize("content", [{"segm": {}}, {**extension(), "sets": []}])
def test_damaged_figures_are_named(whole_run: Path, content: Any) -> None:
    add(whole_run, content)
    page = write_run_report(whole_run).read_text()
    assert TITLE not in page and "evaluation.json is damaged; what it holds is left out." in page


def test_nothing_known_is_no_section(whole_run: Path) -> None:
    add(whole_run, {"base_classes": None, "novel_classes": None, "sets": {}})
    assert TITLE not in write_run_report(whole_run).read_text()


def test_pseudo_labels_on_the_page(whole_run: Path) -> None:
    content = {"sentence": "43 objects of base classes are <labelled>"}
    (whole_run / "pseudo_labels.json").write_text(json.dumps(content))
    page = write_run_report(whole_run).read_text()
    assert TITLE in page, "also before the first evaluation"
    assert "Before training, 43 objects of base classes are &lt;labelled&gt;.</p>" in page


SECTION = "Why AP is what it is on shapes_val"


@pytest.fixture
def explained(whole_run: Path) -> Path:
    """Both images' squares: one called by the wrong class, one missed, one where nothing is."""
    folder = whole_run / "inference" / "shapes_val"
    path = folder / "shapes_val_ground_truth.json"
    truth = json.loads(path.read_text())
    truth["annotations"] = [{**a, "area": 900, "iscrowd": 0} for a in truth["annotations"]]
    path.write_text(json.dumps(truth))
    path = folder / "coco_instances_results.json"
    (first, _) = json.loads(path.read_text())
    elsewhere = {**first, "image_id": 2, "bbox": [0, 50, 9, 9]}
    path.write_text(json.dumps([{**first, "category_id": 2}, elsewhere]))
    explain_folder(folder)
    return whole_run


def page_of(run: Path) -> tuple[str, str]:
    """The HTML, and what a reader sees."""
    page = write_run_report(run).read_text(encoding="utf-8")
    body = re.sub(r"<style>.*?</style>", "", page.partition("<body>")[2], flags=re.DOTALL)
    return page, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_sentence_tables_and_pictures(explained: Path) -> None:
    before = page_of(explained)[0].count("<img")
    page, shown = page_of(explained)
    content = json.loads((explained / "inference/shapes_val/explanation.json").read_text())
    assert SECTION in shown
    assert content["segm"]["sentence"] in shown
    assert "Classification the box fits an object of another class" in shown
    assert ': ground truth star, detection <b>"x"& 0.90' in shown
    for kind, examples in content["segm"]["examples"].items():
        for example in examples:  # each with the name of its file
            assert f"{os.path.basename(example['file_name'])}: " in shown, kind
    assert '<b>"x"&' not in page, "names are escaped"
    assert "Box AP :" in shown
    assert before == page.count("<img") == 2 + 2 * 2 + 3 + len(content["segm"]["worst_images"])


def test_without_images_there_are_tables_alone(explained: Path) -> None:
    for image in (explained / "images").iterdir():
        image.unlink()
    shown = page_of(explained)[1]
    assert SECTION in shown
    assert "Examples of each mistake" not in shown


def cut(content: dict[str, Any]) -> Any:
    del content["segm"]["figures"]["repairs"]
    return content


def of_other_results(content: dict[str, Any]) -> Any:
    content["segm"]["examples"]["missed"][0]["object"] = 99
    return content


DAMAGED: list[Callable[[dict[str, Any]], Any]] = [cut, of_other_results, lambda c: {"segm": 3}]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_explanation_is_named(
    damage: Callable[[dict[str, Any]], Any], explained: Path
) -> None:
    path = explained / "inference/shapes_val/explanation.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    shown = page_of(explained)[1]
    assert "inference/shapes_val/explanation.json is damaged" in shown
    assert SECTION not in shown


def test_more_is_darker(explained: Path) -> None:
    folder = explained / "inference" / "shapes_val"
    content = json.loads((folder / "explanation.json").read_text())
    task = view_explanation(folder, content)["tasks"][0]
    cells = [row["gains"][0] for row in task["mistakes"]]
    depth = {cell.text: cell.depth for cell in cells}
    assert depth["0.0"] == 0 < depth[max(depth, key=float)] <= 1


def test_the_worst_images_and_the_interval(explained: Path) -> None:
    path = explained / "inference/shapes_val/explanation.json"
    content = json.loads(path.read_text())
    for task in content.values():
        task["figures"]["ap_interval"] = [1.25, 9.75]
    worst = {"image_id": 1, "file_name": "/far/<away>.png", "gain": 1.234, "words": "2 missed"}
    content["segm"]["worst_images"] = [worst]
    path.write_text(json.dumps(content))
    page, shown = page_of(explained)
    assert "<away>.png 1.23 2 missed" in shown and "<away>" not in page
    assert "mask AP (1.2 to 9.8)" in shown and "another seed" in shown
    for task in content.values():  # too few images, or a file that is older
        task["figures"]["ap_interval"] = [None, None]
        del task["worst_images"]
    path.write_text(json.dumps(content))
    shown = page_of(explained)[1]
    assert "another seed" not in shown and "worst images" not in shown


LOSSES = [
    # metrics.json, eval_history.json, what the picture says
    (
        [{"iteration": 0, "total_loss": 3.0, "loss_cls": 2.0}, {"iteration": 9, "total_loss": 1.5}],
        [],
        "Losses during training; the total goes from 3.00 to 1.50.",
    ),
    # measured on validation images, too
    (
        [{"iteration": 0, "total_loss": 3.0}],
        [{"iteration": 0, "val_loss": 4.0}, {"iteration": 5, "val_loss": 2.0}],
        "Losses during training; the total goes from 3.00 to 3.00; "
        "the total on validation images goes from 4.00 to 2.00.",
    ),
    # parts alone
    ([{"iteration": 0, "loss_mask": 1.0}], [], "Losses during training."),
    # a diverged run ends in NaN
    (
        [{"iteration": 0, "total_loss": 3.0}, {"iteration": 9, "total_loss": float("nan")}],
        [],
        "Losses during training; the total goes from 3.00 to 3.00.",
    ),
]


@pytest.mark.parametrize(("metrics", "curve", "alt"), LOSSES)
def test_losses(metrics: list[Row], curve: list[Row], alt: str) -> None:
    picture = losses_picture(metrics, curve)
    assert picture is not None and picture.alt == alt


@pytest.mark.parametrize("metrics", [[], [{"iteration": 3, "lr": 0.1}]])
def test_no_losses(metrics: list[Row]) -> None:
    assert losses_picture(metrics, [{"iteration": 3, "bbox/AP": 1.0}]) is None


CURVES = [
    (
        [
            {"iteration": 0, "bbox/AP": 1.0, "segm/AP": None, "bbox/AP50": 9.0},
            {"iteration": 5, "bbox/AP": 3.0, "segm/AP": 2.0},
        ],
        "AP during training: mask AP from 2.0 to 2.0; box AP from 1.0 to 3.0.",
    ),
    # several test sets
    (
        [{"iteration": 0, "a_val/bbox/AP": 1.0}, {"iteration": 5, "a_val/bbox/AP": 2.0}],
        "AP during training: box AP, a_val from 1.0 to 2.0.",
    ),
]


@pytest.mark.parametrize(("curve", "alt"), CURVES)
def test_validation(curve: list[Row], alt: str) -> None:
    picture = validation_picture(curve)
    assert picture is not None and picture.alt == alt


NO_CURVES = [
    [{"iteration": 3, "val_loss": 0.1, "bbox/AP": None}],
    # one evaluation, of several sets
    [{"iteration": 3, "bbox/AP": 1.0, "segm/AP": 2.0, "b_val/bbox/AP": 3.0}],
]


@pytest.mark.parametrize("curve", NO_CURVES)
def test_no_validation(curve: list[Row]) -> None:
    assert validation_picture(curve) is None
