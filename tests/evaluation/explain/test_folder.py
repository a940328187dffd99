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
    (folder / "proposals.json").write_text(json.dumps({"recall": recall}))
    assert "The RPN misses small objects" in explain_folder(folder)["segm"].sentence
    (folder / "settings.json").write_text(json.dumps({"untrained": ["roi_heads.box_head"]}))
    assert "weights of the box head" in explain_folder(folder)["segm"].sentence


DAMAGED = [
    ("cats_ground_truth.json", "{", "cannot be read as JSON"),
    ("cats_ground_truth.json", "[]", "expected a JSON dict"),
    ("coco_instances_results.json", '[{"image_id": 7}]', "lack 'category_id'"),
    ("settings.json", "[3]", "settings.json: expected a JSON object"),
    ("proposals.json", "{", "proposals.json cannot be read as JSON"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED)
def test_damaged_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(TransferError, match=message):
        explain_folder(folder)
    assert not (folder / "explanation.json").exists()
