"""The evaluator scores against the dataset as loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from transfer_maskrcnn.data.register import register_dataset
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator

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
