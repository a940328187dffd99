"""A tiny base config, datasets of rectangles, and the config that make_config makes of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from detectron2.config import CfgNode

from transfer_maskrcnn.commands.make_config import make_config
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.setup import fit_config

# A Mask R-CNN so small that an iteration takes a fraction of a second.
TINY = {
    "MODEL": {
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "TRANSFER": {"ENABLED": False},
        "RESNETS": {"STEM_OUT_CHANNELS": 4, "RES2_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 4},
        "FPN": {"OUT_CHANNELS": 32},
        "ROI_MASK_HEAD": {"CONV_DIM": 32},
        "ROI_BOX_HEAD": {"FC_DIM": 16},
        "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 8},
        "RPN": {"PRE_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TRAIN": 20, "POST_NMS_TOPK_TEST": 10},
    },
    "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.01},
    "DATALOADER": {"NUM_WORKERS": 0},
}
_numbers = count()


def write_coco(folder: Path, boxes: list[list[tuple[int, int]]], side: int) -> dict[str, str]:
    """Square images, each with rectangles of these widths and heights; their catalog entry."""
    folder.mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    for i, rectangles in enumerate(boxes):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((side, side, 3), 40 * i + 20, np.uint8))
        for w, h in rectangles:
            outline = [2, 2, 2 + w, 2, 2 + w, 2 + h, 2, 2 + h]
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": i, "category_id": 1, "iscrowd": 0, "area": w * h}
                | {"bbox": [2, 2, w, h], "segmentation": [[float(v) for v in outline]]}
            )
    images = [
        {"id": i, "file_name": f"{i}.png", "height": side, "width": side} for i in range(len(boxes))
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    return {"format": "coco", "annotations": f"{folder.name}/coco.json", "image_root": folder.name}


@pytest.fixture
def base(tmp_path: Path, repository: Path) -> Path:
    """A tiny base, beside which a config can be written."""
    content = {"_BASE_": str(repository / "configs/shapes/Base-shapes.yaml"), **TINY}
    path = tmp_path / "tiny base.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def catalog(tmp_path: Path) -> Callable[..., Path]:
    """catalog(boxes, side=64) -> a catalog of two such datasets, in a folder with a space."""

    def make(boxes: list[list[tuple[int, int]]], side: int = 64) -> Path:
        number = next(_numbers)  # detectron2's catalogs outlive a test
        folder = tmp_path / f"my data {number}"
        entries = {
            f"set{number}_{part}": write_coco(folder / part, boxes, side)
            for part in ("train", "val")
        }
        (folder / "my.yaml").write_text(yaml.safe_dump(entries))
        return folder / "my.yaml"

    return make


@pytest.fixture
def make(
    base: Path, catalog: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[Path, CfgNode]]:
    """make(boxes, side=64, *flags) -> the file that is written, and the config it gives."""

    def run(
        boxes: list[list[tuple[int, int]]], side: int = 64, *flags: str
    ) -> tuple[Path, CfgNode]:
        output = tmp_path / "my config.yaml"
        data = ["--catalog", str(catalog(boxes, side)), "--base", str(base)]
        make_config([*data, "-o", str(output), *flags])
        cfg = load_config(str(output))
        cfg = fit_config(cfg).resolve(cfg)
        return output, cfg

    return run
