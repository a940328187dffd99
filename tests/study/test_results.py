"""The result of a run is read whole, or the folder to remove is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.study.design import Run, Variant
from transfer_maskrcnn.study.results import collect, load_matches, read_result

KEY = {"config": "a", "data": "b", "weights": "c"}
RUN = Run(Variant("backbone", "backbone", "backbone", "w.pth", ()), 1.0, 0)
SQUARE = [[0, 0, 10, 0, 10, 10, 0, 10]]


@pytest.fixture
def cfg() -> CfgNode:
    return load_config("", ["DATASETS.TEST", "('val',)", "MODEL.MASK_ON", "True"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a finished training leaves: two images, of which one's object was found."""
    evaluation = tmp_path / "inference" / "val"
    evaluation.mkdir(parents=True)
    truth: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 20} for i in (1, 2)],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "area": 100,
                "bbox": [0, 0, 10, 10],
                "segmentation": SQUARE,
            }
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    found = {
        "image_id": 1,
        "category_id": 1,
        "score": 0.9,
        "bbox": [0, 0, 10, 10],
        "segmentation": SQUARE,
    }
    write_json(evaluation / "val_ground_truth.json", truth)
    write_json(evaluation / "coco_instances_results.json", [found])
    rows = [{"iteration": 0, "segm/AP": 0.0}, {"iteration": 9, "segm/AP": 50.4950495}]
    write_json(tmp_path / "eval_history.json", rows)
    write_json(tmp_path / "drift.json", {"backbone.fpn": 0.1})
    names = ["model_final.pth", "model_initial.safetensors", ".model_final.pth.7.part"]
    for name in [*names, "last_checkpoint", "model_final.safetensors"]:
        (tmp_path / name).touch()
    return tmp_path


def test_a_finished_run(folder: Path, cfg: CfgNode) -> None:
    collect(RUN, folder, KEY, diverged="")
    result = read_result(folder, KEY)
    assert result is not None
    assert (result["status"], result["results"]) == ("finished", {"segm/AP": 50.495})
    assert result["drift"] == {"backbone.fpn": 0.1}
    assert read_result(folder, {**KEY, "data": "other"}) is None
    models = [path.name for path in folder.glob("*model*")]
    assert models == ["model_final.safetensors"], "the rest is of no more use"
    assert not (folder / "last_checkpoint").exists()
    matches = load_matches(folder, cfg, result)
    assert matches is not None and list(matches.image_ids) == [1, 2]


def test_a_run_that_diverged(folder: Path, cfg: CfgNode) -> None:
    collect(RUN, folder, KEY, diverged="9 weights hold NaN or infinity")
    result = read_result(folder, KEY)
    assert result is not None
    assert (result["status"], result["results"], result["drift"]) == ("diverged", {}, {})
    assert load_matches(folder, cfg, result) is None


def spoil_result(folder: Path) -> None:
    (folder / "result.json").write_text('{"key": {"con')


def remove_predictions(folder: Path) -> None:
    (folder / "inference" / "val" / "coco_instances_results.json").unlink()


def other_predictions(folder: Path) -> None:
    write_json(folder / "inference" / "val" / "coco_instances_results.json", [])


def other_result(folder: Path) -> None:
    content = json.loads((folder / "result.json").read_text())
    write_json(folder / "result.json", {**content, "results": {"segm/AP": 20.0}})


DAMAGE = [
    # what happens to the folder, what the error says
    (spoil_result, r"result\.json cannot be read"),
    (remove_predictions, r"coco_instances_results\.json is gone"),
    (other_predictions, r"AP is 0\.00 by coco_instances_results\.json and 50\.\d+ by result\.json"),
    (other_result, r"AP is 50\.\d+ by coco_instances_results\.json and 20\.00 by result\.json"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_found_and_the_remedy_named(
    damage: Any, message: str, folder: Path, cfg: CfgNode
) -> None:
    collect(RUN, folder, KEY, diverged="")
    damage(folder)
    with pytest.raises(TransferError, match=message) as caught:
        load_matches(folder, cfg, read_result(folder, KEY) or {})
    assert "emove the folder" in str(caught.value) and "trained again" in str(caught.value)
