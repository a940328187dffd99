"""The section on base and novel classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.report import extension_view
from transfer_maskrcnn.report.extension_view import view_extension
from transfer_maskrcnn.report.run_input import read_run
from transfer_maskrcnn.report.run_page import write_run_report

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
        "sets": {"base": ["base_val", "base_test"], "novel": ["novel_val"]},
    }


def add(folder: Path, content: Any) -> None:
    path = folder / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extension": content}))


def test_on_the_page(whole_run: Path) -> None:
    assert TITLE not in write_run_report(whole_run).read_text()
    before = read_run(whole_run).evaluation
    add(whole_run, extension())
    run = read_run(whole_run)
    assert run.evaluation == before, "it is no dataset"
    page = write_run_report(whole_run).read_text()
    assert TITLE in page and "AP on extension" not in page and "<ring>" not in page
    for text in (
        "base classes (8)",
        "4.0 to 8.1",
        "base_val and base_test, novel ones on novel_val",
    ):
        assert text in page
    assert "it forgot 5.7 (95 % interval 4.0 to 8.1)." in page
    assert "&lt;ring&gt; 24.0 before, 18.4 after" in page


SENTENCES = [
    # zero lies within
    ({"forgetting": {**LOST, "low": -0.1}}, "1 image cannot tell the difference from nothing."),
    (
        {"forgetting": {"ap": 0.0, "low": 0.0, "high": 0.0}},
        "16.2: nothing is forgotten.",
    ),
    ({"forgetting": {"ap": -3, "low": -4, "high": -2}}, "it gained 3.0 (95 % interval 2.0 to 4.0)"),
    ({"forgetting": {**LOST, "low": None}}, "1 image cannot tell whether that is forgetting"),
    ({"forgetting": None, "before": None}, "without the source model nobody knows"),
    ({"base": None, "forgetting": None, "classes": {}}, "No test set annotates a base class"),
]


@pytest.mark.parametrize(("changed", "words"), SENTENCES)
def test_sentences(changed: dict[str, Any], words: str) -> None:
    view = view_extension(extension(**changed))
    assert view and words in view.sentences[0]
    assert len(view.titles) == len(view.rows[0][1])


def test_without_the_source_model_there_are_no_bars() -> None:
    view = view_extension(extension(classes={"ring": {"before": None, "after": 3.0}}))
    assert view and view.plot is None


def test_of_many_classes_those_that_changed_most_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extension_view, "MOST_BARS", 2)
    classes = {f"c{k}": {"before": 10.0 * k, "after": 9.0 * k} for k in range(1, 5)}
    view = view_extension(extension(classes=classes))
    assert view and view.plot
    assert view.plot.caption == "Base classes, before and after, the 2 of 4 that changed most"
    assert "c3 30.0 before" in view.plot.alt and "c2 20.0" not in view.plot.alt


DAMAGED = [{"segm": {}}, {**extension(), "sets": []}, extension(forgetting=3)]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_figures_are_named(whole_run: Path, content: Any) -> None:
    add(whole_run, content)
    page = write_run_report(whole_run).read_text()
    assert TITLE not in page
    assert "What evaluation.json has of base and novel classes is damaged." in page
    assert "AP on shapes_val" in page


def test_nothing_known_is_no_section(whole_run: Path) -> None:
    add(whole_run, {"base_classes": None, "novel_classes": None, "sets": {}})
    assert TITLE not in write_run_report(whole_run).read_text()


LABELLED = {
    "images": 1200,
    "doubtful": 1,
    "classes": {
        "<ring>": {"score": 0.7, "objects": 3},
        "cross": {"score": None, "objects": 0},
        "arrow": {"score": 0.6, "objects": 40},
    },
}


def test_pseudo_labels_on_the_page(whole_run: Path) -> None:
    (whole_run / "pseudo_labels.json").write_text(json.dumps(LABELLED))
    page = write_run_report(whole_run).read_text()
    assert TITLE in page, "also before the first evaluation"
    sentence = page.partition("Before training, the source model ")[2].partition("</p>")[0]
    assert sentence == (
        "labelled 43 objects of base classes on the 1,200 training images "
        "(arrow 40, &lt;ring&gt; 3); no loss depends on 1 doubtful one."
    )


# classes that are no table, and a count that is none
@pytest.mark.parametrize("changed", [{"classes": []}, {"images": "many"}])
def test_damaged_pseudo_labels_are_named(whole_run: Path, changed: dict[str, Any]) -> None:
    (whole_run / "pseudo_labels.json").write_text(json.dumps({**LABELLED, **changed}))
    page = write_run_report(whole_run).read_text()
    assert TITLE not in page and "pseudo_labels.json is damaged" in page
