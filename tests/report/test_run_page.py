"""The page of a run shows what is there, whatever is missing or damaged."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.run_page import write_run_report


def written(folder: Path) -> str:
    return write_run_report(folder).read_text(encoding="utf-8")


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def text_of(page: str) -> str:
    """What a reader sees, with single spaces."""
    body = re.sub(r"</?(span|code|b|wbr)\b[^>]*>", "", page.partition("<body>")[2])
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_whole_run(whole_run: Path) -> None:
    page = written(whole_run)
    assert sections(page) == [
        "Training",
        "AP on shapes_val",
        "What was transferred",
        "What moved",
        "What the model sees on shapes_val",
        "How to repeat it",
    ]
    shown = text_of(page)
    for sentence in (
        "The model reaches 19.0 mask AP and 20.0 box AP on shapes_val.",
        "Training took 98 s and 1,520 MB of memory at its peak.",
        "mask AP 19.0 41.2 no object of that size",
        'star 15.0 15.0 <b>"x"& 25.0 25.0',
        "90.0 % of the model’s parameters come from source.pth",
        "class predictor 0 6 12",
        "initialised, 1 tensor, 6 parameters: new classes",
        "backbone res2 1.3 % mask head 0 %",
        "tools/train_net.py DATASETS.TRAIN '('\"'\"'a b'\"'\"',)'",  # ready to be pasted
        "seed 3 versions torch 2.14.1",
    ):
        assert sentence in shown
    assert page.count("<img") == 2 + 2 * 2
    assert page.count("<details") == 3


@pytest.mark.parametrize(
    ("remove", "section"),
    [
        (["evaluation.json"], "AP on shapes_val"),
        (["metrics.json", "eval_history.json"], "Training"),
        (["transfer_plan.json"], "What was transferred"),
        (["drift.json"], "What moved"),
        (["run.json"], "How to repeat it"),
        (["inference"], "What the model sees on shapes_val"),
    ],
)
def test_what_is_missing_has_no_section(whole_run: Path, remove: list[str], section: str) -> None:
    before = sections(written(whole_run))
    for name in remove:
        path = whole_run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sections(written(whole_run)) == [title for title in before if title != section]


def test_without_evaluation_a_sentence_says_so(whole_run: Path) -> None:
    (whole_run / "evaluation.json").unlink()
    assert "This run has no evaluation: evaluation.json is missing." in text_of(written(whole_run))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"keep": 3}', '{"keep": "x", "loaded_fraction": 1, "source": ""}']
)
def test_a_damaged_plan_is_named(whole_run: Path, content: str) -> None:
    (whole_run / "transfer_plan.json").write_text(content)
    page = written(whole_run)
    assert "transfer_plan.json is damaged; what it holds is left out." in text_of(page)
    assert "What was transferred" not in sections(page)


EVALUATIONS = [
    # COCO evaluates no masks where there is not one detection
    ({"bbox": {"AP": None, "AP50": None}}, "The model detects nothing on shapes_val."),
    ({"bbox": {"AP": -1}, "segm": {}}, "The model detects nothing on shapes_val."),
    ({}, "The model detects nothing on shapes_val."),
    ({"bbox": {"AP": 0.0}}, "The model reaches 0.0 box AP on shapes_val."),
]


@pytest.mark.parametrize(("tasks", "sentence"), EVALUATIONS)
def test_undefined_ap_in_words(
    whole_run: Path, tasks: dict[str, dict[str, float | None]], sentence: str
) -> None:
    (whole_run / "evaluation.json").write_text(json.dumps({"shapes_val": tasks}))
    assert sentence in text_of(written(whole_run))


def test_nothing_detected_in_the_table(whole_run: Path) -> None:
    figures = {"AP": None, "AP50": None}
    (whole_run / "evaluation.json").write_text(json.dumps({"shapes_val": {"bbox": figures}}))
    assert "box AP nothing detected nothing detected" in text_of(written(whole_run))


def test_pictures_of_boxes_alone(whole_run: Path) -> None:
    path = whole_run / "inference" / "shapes_val" / "coco_instances_results.json"
    found = [
        {k: v for k, v in f.items() if k != "segmentation"} for f in json.loads(path.read_text())
    ]
    path.write_text(json.dumps(found))
    assert "What the model sees on shapes_val" in sections(written(whole_run))


def test_damaged_predictions_are_named(whole_run: Path) -> None:
    path = whole_run / "inference" / "shapes_val" / "coco_instances_results.json"
    path.write_text(path.read_text()[:50])
    page = written(whole_run)
    assert "coco_instances_results.json cannot be read as JSON" in text_of(page)
    assert "What the model sees on shapes_val" not in sections(page)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="holds no run"):
        write_run_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
