"""The evaluator scores against the dataset as loaded."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.evaluation.coco import (
    InstanceEvaluator,
    evaluate_detections,
    ground_truth,
)

WriteDataset = Callable[[str, Path], dict[str, Any]]


def perfect(record: dict[str, Any]) -> dict[str, Instances]:
    """Predictions that are the ground truth of one dataset dict."""
    height, width = record["height"], record["width"]
    instances = Instances((height, width))
    objects = record["annotations"]
    instances.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in objects]).reshape(-1, 4))
    instances.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.long)
    instances.scores = torch.full((len(objects),), 0.9)
    masks = []
    for a in objects:
        rle = a["segmentation"]
        if isinstance(rle, list):
            rle = mask_util.merge(mask_util.frPyObjects(rle, height, width))
        masks.append(mask_util.decode(rle).astype(bool))
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    return {"instances": instances}


@pytest.mark.parametrize("format", ["coco", "via", "labelme", "yolo", "png_masks"])
def test_the_truth_scores_100_in_every_format(
    format: str, write_dataset: WriteDataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    entry = write_dataset(format, tmp_path)
    for key in ("annotations", "image_root"):
        if key in entry:
            entry[key] = str(tmp_path / entry[key])
    register_dataset(name, **entry)
    records = DatasetCatalog.get(name)
    evaluator = InstanceEvaluator(name, str(tmp_path / "out"), distributed=False)
    evaluator.reset()
    for record in records:
        evaluator.process([record], [perfect(record)])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    for class_name in MetadataCatalog.get(name).thing_classes:
        if len(MetadataCatalog.get(name).thing_classes) > 1:
            assert results["segm"][f"AP-{class_name}"] == pytest.approx(100)


def test_an_old_ground_truth_file_is_never_used(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    entry = write_dataset("via", tmp_path)
    for key in ("annotations", "image_root"):
        entry[key] = str(tmp_path / entry[key])
    register_dataset("stale_toy", **entry)
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale_toy_ground_truth.json").write_text("{}")
    (out / "stale_toy_coco_format.json").write_text("{}")
    evaluator = InstanceEvaluator("stale_toy", str(out), distributed=False)
    assert len(evaluator._coco_api.getAnnIds()) == 7


def test_ap_is_that_of_the_users_own_file(tmp_path: Path) -> None:
    """Boxes are not rounded: an IoU that is at a threshold would get to its other side."""
    rng = np.random.default_rng(0)
    PIL.Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    truth: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "0.png", "height": 48, "width": 64}],
        "categories": [{"id": 4, "name": "blob"}],
        "annotations": [],
    }
    results = []
    for number in range(1, 51):
        x, y, width, height = rng.uniform([0, 0, 6, 6], [40, 30, 20, 16]).round(5).tolist()
        corners = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        one = {"image_id": 1, "category_id": 4, "bbox": [x, y, width, height]}
        truth["annotations"].append(
            {**one, "id": number, "area": width * height, "iscrowd": 0, "segmentation": corners}
        )
        narrow = [x, y, width * float(rng.choice([0.55, 0.6, 0.65, 0.7, 0.75, 0.8])), height]
        results.append({**one, "bbox": narrow, "score": float(rng.random())})
    path = tmp_path / "own.json"
    path.write_text(json.dumps(truth))
    name = f"own_{tmp_path.name}"
    register_dataset(name, format="coco", annotations=path, image_root=tmp_path)
    loaded = ground_truth(name)
    assert [a["bbox"] for a in loaded["annotations"]] == [a["bbox"] for a in truth["annotations"]]
    stock = COCO(str(path))
    reference = COCOeval(stock, stock.loadRes(results), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    own = evaluate_detections(loaded, results, "bbox", [1, 10, 100])
    assert 0.1 < reference.stats[0] < 0.9
    np.testing.assert_array_equal(own.stats, reference.stats)


def test_nothing_is_left_in_the_catalog(tmp_path: Path) -> None:
    evaluator_of("coco_leaves_nothing", [record(objects=1)], tmp_path)
    assert not [name for name in MetadataCatalog.list() if "coco_leaves_nothing@" in name]


def evaluator_of(name: str, records: list[dict[str, Any]], folder: Path) -> InstanceEvaluator:
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["blob", "bar"])
    evaluator = InstanceEvaluator(name, str(folder), tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    return evaluator


def record(objects: int) -> dict[str, Any]:
    one = {
        "bbox": [4.0, 4.0, 30.0, 28.0],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": [[4.0, 4.0, 30.0, 4.0, 30.0, 28.0, 4.0, 28.0]],
    }
    image = {"file_name": "0.png", "image_id": 3, "height": 64, "width": 64}
    return {**image, "annotations": [one] * objects}


def test_a_model_that_finds_nothing_has_no_figures(tmp_path: Path) -> None:
    evaluator = evaluator_of("coco_nothing_found", [record(objects=1)], tmp_path)
    evaluator.process([record(1)], [{"instances": perfect(record(1))["instances"][:0]}])
    results = evaluator.evaluate()
    assert list(results) == ["bbox", "segm"]
    assert all(math.isnan(figure) for figures in results.values() for figure in figures.values())
    assert (tmp_path / "coco_instances_results.json").read_text() == "[]"


def test_images_without_any_object_have_no_figures(tmp_path: Path) -> None:
    evaluator = evaluator_of("coco_no_objects", [record(objects=0)], tmp_path)
    evaluator.process([record(1)], [perfect(record(1))])
    assert evaluator.evaluate() == {}
    assert (tmp_path / "coco_instances_results.json").exists()


def test_a_model_of_more_classes_is_an_error(tmp_path: Path) -> None:
    evaluator = evaluator_of("coco_more_classes", [record(objects=1)], tmp_path)
    prediction = perfect(record(1))
    prediction["instances"].pred_classes += 2
    evaluator.process([record(1)], [prediction])
    with pytest.raises(DatasetError, match="of class 2, but the dataset has 2, from 0 on"):
        evaluator.evaluate()


def test_no_slow_evaluation_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        evaluator_of("coco_announced", [record(objects=1)], tmp_path)
    assert "Falling back" not in caplog.text


def test_an_extended_model_is_scored_on_the_datasets_classes(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    """The model's classes are bar, dot, blob; what it takes for a dot does not count."""
    entry = write_dataset("coco", tmp_path)
    for key in ("annotations", "image_root"):
        entry[key] = str(tmp_path / entry[key])
    name = f"extended_{tmp_path.name}"
    register_dataset(name, **entry)
    results = {}
    for shift, places in ((0, [2, 0]), (1, [2, 0]), (0, None)):
        folder = tmp_path / f"{shift}{places}"
        evaluator = InstanceEvaluator(name, str(folder), class_places=places, distributed=False)
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            output = perfect(record)
            output["instances"].pred_classes = torch.tensor(
                [([2, 0][a["category_id"]] + shift) % 3 for a in record["annotations"]]
            )
            evaluator.process([record], [output])
        if places is None:
            with pytest.raises(DatasetError, match="a prediction of class 2, but the dataset has"):
                evaluator.evaluate()
        else:
            results[shift] = evaluator.evaluate()["segm"]
    assert results[0]["AP"] == pytest.approx(100)
    assert results[1]["AP-bar"] == 0, "dots are nobody's, and bars are blobs"
