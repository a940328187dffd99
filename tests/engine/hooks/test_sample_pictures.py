"""What TensorBoard shows of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from transfer_maskrcnn.engine.hooks.sample_pictures import put_sample_pictures


def test_losses_rates_ap_and_pictures_of_a_run(
    toy: Callable[..., CfgNode], train: Callable[..., Any]
) -> None:
    cfg = toy("SOLVER.MAX_ITER", 2, "TEST.EVAL_ITERS", [1])
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    train(cfg)
    events = EventAccumulator(cfg.OUTPUT_DIR, size_guidance={"images": 0}).Reload()
    scalars = events.Tags()["scalars"]
    assert {"lr", "total_loss", "loss_mask", "loss_rpn_cls"} <= set(scalars)
    assert {"segm/AP", "bbox/AP"} <= set(scalars)
    pictures = events.Tags()["images"]
    assert len(pictures) == 4  # the set has as many
    assert all(name.startswith(f"{cfg.DATASETS.TEST[0]}/") for name in pictures)
    assert len(events.Images(pictures[0])) == 2  # after each of the evaluations
    shown = Image.open(io.BytesIO(events.Images(pictures[0])[0].encoded_image_string))
    assert shown.size == (64, 64)


def test_detections_are_drawn_on_the_fullest_images(
    toy: Callable[..., CfgNode], tmp_path: Path
) -> None:
    name = "pictures_to_show"
    MetadataCatalog.get(name).thing_classes = ["x"]
    folder = tmp_path / "inference" / name
    folder.mkdir(parents=True)
    images = [{"id": i, "file_name": str(tmp_path / f"{i}.png")} for i in range(7)]
    for image in images:
        Image.new("RGB", (1280, 320), "grey").save(image["file_name"])
    objects = [{"image_id": i} for i in (6, 6, 5, 4, 2)]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 9, "name": "x"}]}
    (folder / f"{name}_ground_truth.json").write_text(json.dumps(truth))
    box = {"category_id": 9, "bbox": [300.0, 60.0, 600.0, 200.0]}
    results = [{"image_id": 6, "score": 0.9, **box}, {"image_id": 5, "score": 0.4, **box}]
    (folder / "coco_instances_results.json").write_text(json.dumps(results))
    with EventStorage(3) as storage:
        put_sample_pictures(storage, str(tmp_path), [name])
        shown = {title: picture for title, picture, _ in storage._vis_data}
    assert list(shown) == [f"{name}/{i}.png" for i in (6, 2, 4, 5)]
    assert all(picture.shape == (3, 160, 640) for picture in shown.values())
    drawn = {title: np.unique(picture).size > 1 for title, picture in shown.items()}
    assert drawn == {f"{name}/{i}.png": i == 6 for i in (6, 2, 4, 5)}  # 0.4 is not sure enough


def test_an_evaluation_without_files_shows_nothing(tmp_path: Path) -> None:
    with EventStorage() as storage:
        put_sample_pictures(storage, str(tmp_path), ["nothing"])
        assert storage._vis_data == []


def test_what_cannot_be_drawn_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "inference" / "damaged"
    folder.mkdir(parents=True)
    (folder / "damaged_ground_truth.json").write_text("{")
    (folder / "coco_instances_results.json").write_text("[]")
    with EventStorage() as storage:
        put_sample_pictures(storage, str(tmp_path), ["damaged"])
        assert storage._vis_data == []
    (record,) = caplog.records
    assert record.getMessage().startswith("no pictures of damaged: TransferError: ")
