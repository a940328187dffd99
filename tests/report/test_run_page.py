"""The page of a run shows what is there, whatever is missing or damaged."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.run_page import read_lines, write_run_report


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
        "roi_heads.box_predictor 0 6 12",
        "initialised, 1 tensor, 6 parameters: new classes",
        "backbone.res2 1.3 % roi_heads.mask_head 0 %",
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
    ("name", "section"),
    [
        ("transfer_plan.json", "What was transferred"),
        ("evaluation.json", "AP on shapes_val"),
        ("drift.json", "What moved"),
        ("run.json", "How to repeat it"),
    ],
)
@pytest.mark.parametrize("content", ["{", "[]", '{"keep": 3}', '{"a": [1]}'])
def test_a_damaged_file_is_named_and_the_others_are_shown(
    whole_run: Path, name: str, section: str, content: str
) -> None:
    before = sections(written(whole_run))
    (whole_run / name).write_text(content)
    page = written(whole_run)
    known = content in ("{", "[]") or name in ("transfer_plan.json", "evaluation.json")
    if known or (name == "drift.json" and "[1]" in content):  # else it may be what it says
        assert f"{name} is damaged; what it holds is left out." in text_of(page)
        assert sections(page) == [title for title in before if title != section]


EVALUATIONS = [
    # COCO evaluates no masks where there is not one detection
    ({"bbox": {"AP": None, "AP50": None}}, "The model detects nothing on shapes_val."),
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
    assert "inference/shapes_val is damaged; what it holds is left out." in text_of(page)
    assert "What the model sees on shapes_val" not in sections(page)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="holds no run"):
        write_run_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


METRICS = [
    # lines, iteration -> total_loss, damaged lines
    (['{"iteration": 19, "total_loss": 2}\n'], {19: 2}, 0),
    # a resumed run repeats iterations: the last has its say
    (
        [
            '{"iteration": 19, "total_loss": 2}\n',
            '{"iteration": 39, "total_loss": 1}\n',
            '{"iteration": 19, "total_loss": 3}\n',
        ],
        {19: 3, 39: 1},
        0,
    ),
    # the last line was being written
    (['{"iteration": 19, "total_loss": 2}\n', '{"iteration": 39, "to'], {19: 2}, 0),
    # a kill and a resumed run joined two lines
    (
        ['{"iteration": 19, "to{"iteration": 39, "total_loss": 1}\n', '{"iteration": 59}\n'],
        {59: None},
        1,
    ),
    # neither rows nor iterations
    (["[1]\n", '{"total_loss": 1}\n', '{"iteration": NaN}\n', "\n"], {}, 3),
    # a diverged run's loss is there, as no number
    (['{"iteration": 19, "total_loss": NaN}\n'], {19: "nan"}, 0),
]


@pytest.mark.parametrize(("lines", "expected", "lost"), METRICS)
def test_lines(tmp_path: Path, lines: list[str], expected: dict[int, object], lost: int) -> None:
    (tmp_path / "metrics.json").write_text("".join(lines))
    rows, found = read_lines(tmp_path / "metrics.json")
    values = {row["iteration"]: row.get("total_loss") for row in rows}
    assert {i: "nan" if v != v else v for i, v in values.items()} == expected
    assert found == lost


def test_rows_of_one_iteration_are_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 5, "lr": 1}\n{"iteration": 5, "total_loss": 2}\n')
    assert read_lines(path) == ([{"iteration": 5, "lr": 1, "total_loss": 2}], 0)


def test_damaged_lines_are_counted(whole_run: Path) -> None:
    (whole_run / "metrics.json").write_bytes(b"\xff\xfe\n{}\n" + json.dumps([]).encode())
    assert "metrics.json: 2 of its lines are damaged and left out." in text_of(written(whole_run))
