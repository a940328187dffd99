"""The two stages of configs/shapes/*few_shot*, on subsets that make_few_shot has written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode

from transfer_maskrcnn.commands.make_few_shot import make_few_shot
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.shapes import NOVEL_CLASSES, SOURCE_CLASSES, ShapesSplit, write_split
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.surgery.load import load_weights

SCORE = "roi_heads.box_predictor.cls_score.weight"
SHORT: list[Any] = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 0, "SOLVER.MAX_ITER", 2),
    *("SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 1, "TEST.DETECTIONS_PER_IMAGE", 10),
]


@pytest.fixture
def stage(repository: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """stage(config's name, weights, named datasets to train on) -> its fitted config."""
    entries = {}
    for part, classes, unannotated in (
        ("new", NOVEL_CLASSES, SOURCE_CLASSES[:2]),
        ("old", SOURCE_CLASSES, ()),
    ):
        write_split(ShapesSplit(part, classes, 12, 5, unannotated), tmp_path / part)
        entries[f"{part}_{tmp_path.name}"] = {
            "format": "coco",
            "annotations": f"{part}/annotations.json",
            "image_root": f"{part}/images",
            "classes": list(classes),
        }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(entries))
    new, old = entries

    def config(name: str, weights: Path, *parts: str) -> CfgNode:
        out = tmp_path / f"{name}_{tmp_path.name}"
        sets = [entry for entry in entries if entry.split("_")[0] in parts]
        flags = ["--shots", "1", "--catalog", str(tmp_path / "my.yaml"), "--output", str(out)]
        make_few_shot([*sets, *flags])
        opts = [
            *("MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path / f"run_{name}")),
            *("DATASETS.CATALOG", str(out / "catalog.yaml")),
            *("DATASETS.TRAIN", (f"{out.name}_1shot_seed0",)),
            *("DATASETS.TEST", (new,), "DATASETS.TEST_BASE", (old,)),
        ]
        cfg = load_config(str(repository / f"configs/shapes/{name}.yaml"), [*SHORT, *opts])
        assert list(fit_config(cfg).classes) == [*SOURCE_CLASSES, *NOVEL_CLASSES]
        return cfg

    return config


@pytest.mark.slow
def test_both_stages(
    stage: Callable[..., CfgNode], train: Callable[..., Any], repository: Path
) -> None:
    source = repository / "configs/shapes/shapes_source.pth"
    first = stage("mask_rcnn_few_shot", source, "new")
    train(first)
    weights = Path(first.OUTPUT_DIR, "model_final.safetensors")
    rows, given = (load_weights(path).tensors[SCORE] for path in (weights, source))
    old = len(SOURCE_CLASSES)
    assert torch.equal(rows[:old], given[:old]) and torch.equal(rows[-1], given[-1])
    evaluation = json.loads(Path(first.OUTPUT_DIR, "evaluation.json").read_text())
    assert {*first.DATASETS.TEST, *first.DATASETS.TEST_BASE} <= evaluation.keys()

    second = stage("mask_rcnn_few_shot_balanced", weights, "new", "old")
    train(second)
    folder = Path(second.OUTPUT_DIR)
    start, end = (
        load_weights(folder / f"model_{at}.safetensors").tensors[SCORE]
        for at in ("initial", "final")
    )
    assert torch.equal(start, rows), "it goes on where the first stage ended"
    assert not (start == end).all(1).any(), "and trains the rows of all classes"
