"""Files in, explanation.json out; facts come from the files beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.explain.folder import (
    evaluated_folders,
    explain_folder,
    read_sentence,
)

Record = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path, truth: Record, perfect: list[Record]) -> Path:
    """``OUTPUT_DIR/inference/cats`` of a model that misses small objects."""
    place = tmp_path / "inference" / "cats"
    place.mkdir(parents=True)
    (place / "cats_ground_truth.json").write_text(json.dumps(truth))
    found = [r for r in perfect if r["bbox"][2] > 32]
    (place / "coco_instances_results.json").write_text(json.dumps(found))
    return place


def test_both_tasks_are_explained(folder: Path, tmp_path: Path) -> None:
    assert evaluated_folders(tmp_path) == [folder]
    assert read_sentence(folder) == ""
    explained = explain_folder(folder)
    assert list(explained) == ["segm", "bbox"]
    assert read_sentence(folder) == explained["segm"].sentence
    content = json.loads((folder / "explanation.json").read_text())
    assert content["segm"]["figures"]["sizes"]["small"] == {"objects": 12, "found": 0}
    assert content["bbox"]["causes"][0] == {"name": "missed", "gain": pytest.approx(49.5, abs=1),
                                            "size": "small"}  # fmt: skip


def test_boxes_alone(folder: Path) -> None:
    path = folder / "coco_instances_results.json"
    found = [{k: v for k, v in r.items() if k != "segmentation"} for r in json.loads(
        path.read_text())]  # fmt: skip
    path.write_text(json.dumps(found))
    assert list(explain_folder(folder)) == ["bbox"]


def test_facts_are_read(folder: Path) -> None:
    (folder / "settings.json").write_text(json.dumps({"min_size_test": 640}))
    assert "(now 640)" in explain_folder(folder)["segm"].sentence
    recall = {"1000": {"all": 0.5, "small": 0.0, "medium": 1.0, "large": None}}
    objects = {"all": 24, "small": 12, "medium": 12, "large": 0}
    (folder / "proposals.json").write_text(json.dumps({"recall": recall, "objects": objects}))
    assert "The RPN misses small objects" in explain_folder(folder)["segm"].sentence
    (folder / "settings.json").write_text(json.dumps({"untrained": ["roi_heads.box_head"]}))
    assert "weights of the box head" in explain_folder(folder)["segm"].sentence
    figures = explain_folder(folder)["segm"].figures
    evaluation = {"cats": {"segm": {"AP": 12.5, "AP50": figures.ap50, "APl": None}}}
    (folder.parent.parent / "evaluation.json").write_text(json.dumps(evaluation))
    assert explain_folder(folder)["segm"].figures.ap == 12.5


DAMAGED = [
    ("cats_ground_truth.json", "{", "cannot be read as JSON"),
    ("cats_ground_truth.json", "[]", "expected a JSON dict"),
    ("coco_instances_results.json", '[{"image_id": 7}]', "image_id.: 7.*lacks 'category_id'"),
    ("coco_instances_results.json", "[1, 2]", r"results\[0\] is 1, which lacks 'image_id'"),
    ("settings.json", '{"untrained": null}', "untrained is None, expected a list of str"),
    ("settings.json", '{"nms_threshold": "0.9"}', "nms_threshold is '0.9', expected a number"),
    ("proposals.json", '{"recall": null}', "recall is None, expected an object of objects"),
    ("proposals.json", '{"recall": {"100": 3}}', "recall.100 is 3, expected an object of numbers"),
    ("cats_ground_truth.json", '{"images": 3}', "images is 3, expected a list"),
    ("settings.json", "[3]", "settings.json: expected a JSON object"),
    ("proposals.json", "{", "proposals.json cannot be read as JSON"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED)
def test_damaged_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(TransferError, match=message):
        explain_folder(folder)
    assert not (folder / "explanation.json").exists()


SPOILT: list[tuple[str, Any, str]] = [
    # key, value, message
    ("bbox", [1, 2], r"bbox is \[1, 2\], expected 4 numbers"),
    ("bbox", [1, 2, 3, None], "bbox is None, expected a number"),
    ("segmentation", [], r"segmentation is \[\], expected polygons of 3 or more"),
    ("segmentation", [[1, 2, 3, 4]], ".*expected polygons of 3 or more"),
    ("segmentation", {"size": [3, 3], "counts": "x"}, r".*the image's size \[320, 480\]"),
]


@pytest.mark.parametrize("name", ["cats_ground_truth.json", "coco_instances_results.json"])
@pytest.mark.parametrize(("key", "value", "message"), SPOILT)
def test_damaged_records_are_named(
    name: str, key: str, value: Any, message: str, folder: Path
) -> None:
    content = json.loads((folder / name).read_text())
    records = content["annotations"] if isinstance(content, dict) else content
    records[1][key] = value
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(TransferError, match=rf"{name}: (annotation|result) 1: {message}"):
        explain_folder(folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"segm": 3}', '{"segm": {}}'])
def test_a_damaged_explanation_has_no_sentence(content: str, folder: Path) -> None:
    (folder / "explanation.json").write_text(content)
    assert read_sentence(folder) == ""
