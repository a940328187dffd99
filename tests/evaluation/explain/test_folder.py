"""Files in, explanation.json out; facts come from the files beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.explain import evaluated_folders, explain_folder, read_told
from transfer_maskrcnn.evaluation.explain.tide import Cause

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
    assert read_told(folder) == ("", {})
    explained = explain_folder(folder)
    assert list(explained) == ["segm", "bbox"]
    assert read_told(folder)[0] == explained["segm"].sentence
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
    def first() -> tuple[Cause, str]:
        blame = explain_folder(folder)["segm"].causes[0]
        return blame.name, blame.size

    (folder / "settings.json").write_text(json.dumps({"min_size_test": 640, "of_later": 1}))
    assert first() == (Cause.MISSED, "small") and "(now 640)" in read_told(folder)[0]
    recall = {"1000": {"all": 0.5, "small": 0.0, "medium": 1.0, "large": None}}
    objects = {"all": 24, "small": 12, "medium": 12, "large": 0}
    (folder / "proposals.json").write_text(json.dumps({"recall": recall, "objects": objects}))
    assert first() == (Cause.PROPOSALS, "small")
    (folder / "settings.json").write_text(json.dumps({"untrained": ["roi_heads.box_head"]}))
    assert first() == (Cause.UNTRAINED, "")


TRUTH, RESULTS = "cats_ground_truth.json", "coco_instances_results.json"
DAMAGED = [
    # file, its content, and what the error names
    (TRUTH, "{", TRUTH),
    (TRUTH, "[]", TRUTH),
    (TRUTH, '{"images": 3}', "cats"),
    (RESULTS, '[{"image_id": 7}]', "cats"),
    (RESULTS, "[1, 2]", "cats"),
    ("settings.json", "[3]", "settings.json"),
    ("settings.json", '{"untrained": null}', "cats"),
    ("settings.json", '{"nms_threshold": "0.9"}', "cats"),
    ("proposals.json", "{", "proposals.json"),
    ("proposals.json", '{"recall": null}', "cats"),
    ("proposals.json", '{"recall": {"100": 3}}', "cats"),
]


@pytest.mark.parametrize(("name", "content", "named"), DAMAGED)
def test_damaged_files_are_named(folder: Path, name: str, content: str, named: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(TransferError, match=named):
        explain_folder(folder)
    assert not (folder / "explanation.json").exists()


@pytest.mark.parametrize("name", [TRUTH, RESULTS])
@pytest.mark.parametrize("box", [[1, 2], [1, 2, 3, None], None])
def test_what_is_no_box_is_an_error(name: str, box: Any, folder: Path) -> None:
    content = json.loads((folder / name).read_text())
    records = content["annotations"] if isinstance(content, dict) else content
    records[1]["bbox"] = box
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(TransferError, match="cats: the ground truth, the results or"):
        explain_folder(folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"segm": 3}', '{"segm": {}}'])
def test_a_damaged_explanation_has_no_sentence(content: str, folder: Path) -> None:
    (folder / "explanation.json").write_text(content)
    assert read_told(folder) == ("", {})
