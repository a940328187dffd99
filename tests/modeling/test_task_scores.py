"""Novel classes take nothing from old ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data.shapes import NOVEL_CLASSES, SOURCE_CLASSES, ShapesSplit, write_split
from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.modeling.build import build_model, class_probabilities, tasks_of
from transfer_maskrcnn.surgery.load import load_weights


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 5), st.integers(0, 99))
def test_class_probabilities(generations: list[int], boxes: int, seed: int) -> None:
    """Of each generation, what the model would have said that had no younger ones: bit by bit."""
    total = sum(generations)
    logits = torch.randn(boxes, total + 1, generator=torch.Generator().manual_seed(seed)) * 5
    found = class_probabilities(logits, generations)
    assert found.shape == logits.shape
    for count in range(1, len(generations) + 1):
        known = sum(generations[:count])
        at_the_time = torch.cat([logits[:, :known], logits[:, -1:]], dim=1).softmax(dim=1)
        mine = slice(known - generations[count - 1], known)
        assert torch.equal(found[:, mine], at_the_time[:, mine])
    joint = logits.softmax(dim=1)
    assert torch.equal(found[:, -1], joint[:, -1])
    assert torch.equal(found[:, total - generations[-1] :], joint[:, total - generations[-1] :])


METADATA = [
    (None, []),
    ({}, []),
    ({"config": None}, []),
    ({"tasks": [8, 2]}, [8, 2]),
]


@pytest.mark.parametrize(("metadata", "expected"), METADATA)
def test_tasks_of(metadata: Any, expected: list[int]) -> None:
    assert tasks_of(metadata) == expected


TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 0),
    *("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", ()),
    *("SOLVER.WARMUP_ITERS", 1, "SOLVER.BASE_LR", 0.5, "TEST.DETECTIONS_PER_IMAGE", 5),
]


@pytest.fixture
def make(repository: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """make(classes, weights, *opts) -> the fitted config of three iterations on four images."""

    def config(classes: tuple[str, ...], weights: Path, *opts: Any) -> CfgNode:
        names = [f"{'_'.join(classes)}_{tmp_path.name}", f"old_{tmp_path.name}"]
        for name, split in zip(names, (classes, SOURCE_CLASSES), strict=True):
            folder = tmp_path / name
            if not folder.exists():
                write_split(ShapesSplit(name, split, 4, 5), folder)
                json_file, images = folder / "annotations.json", folder / "images"
                register_dataset(name, format="coco", annotations=json_file, image_root=images)
        places: list[Any] = ["MODEL.WEIGHTS", str(weights), "DATASETS.TRAIN", (names[0],)]
        places += ["DATASETS.TEST", (names[0],), "DATASETS.TEST_BASE", (names[1],)]
        places += ["OUTPUT_DIR", str(tmp_path / names[0] / "output")]
        base = str(repository / "configs/shapes/Base-shapes.yaml")
        cfg = load_config(base, [*TINY, *places, *opts])
        return fit_config(cfg).resolve(cfg)

    return config


def results(cfg: CfgNode) -> list[Any]:
    """The base classes' detections, in the order of image and score."""
    folder = Path(cfg.OUTPUT_DIR, "inference", cfg.DATASETS.TEST_BASE[0])
    found = json.loads((folder / "coco_instances_results.json").read_text())
    return sorted(found, key=lambda r: (r["image_id"], r["category_id"], -r["score"]))


@pytest.mark.slow
def test_what_only_new_rows_learn_changes_no_old_detection(
    make: Callable[..., CfgNode], train: Callable[..., Any], repository: Path
) -> None:
    """At whatever learning rate, and through a second extension: bit by bit.

    Images have more than DETECTIONS_PER_IMAGE, so that novel classes could crowd out old ones.
    """
    weights = repository / "configs/shapes/shapes_source.pth"
    frozen = ("MODEL.TRANSFER.FREEZE", "all_but_novel_rows")
    cfg = make(("star",), weights, *frozen)
    before_training = make(("star",), weights, *frozen, "SOLVER.BASE_LR", 0.0)
    assert fit_config(cfg).tasks == (8, 1)
    train(before_training)
    before = results(before_training)
    train(cfg)
    assert results(cfg) == before and len(before) > 8
    extension = json.loads(Path(cfg.OUTPUT_DIR, "evaluation.json").read_text())["extension"]
    assert extension["segm"]["forgetting"]["ap"] == 0.0, "against the source model itself"

    first = Path(cfg.OUTPUT_DIR, "model_final.safetensors")
    again = make(("heart",), first, *frozen)
    spec = fit_config(again)
    assert spec.tasks == (8, 1, 1)
    assert spec.classes == (*SOURCE_CLASSES, *NOVEL_CLASSES)
    train(again)
    assert results(again) == before
    final = Path(again.OUTPUT_DIR, "model_final.safetensors")
    assert tasks_of(load_weights(final).metadata) == [8, 1, 1]


@pytest.mark.slow
def test_a_file_says_how_its_classes_are_scored(
    make: Callable[..., CfgNode], train: Callable[..., Any], repository: Path
) -> None:
    """Also where the config does not know that the model was extended."""
    weights = repository / "configs/shapes/shapes_source.pth"
    cfg = make(NOVEL_CLASSES, weights, "SOLVER.BASE_LR", 1e-4)
    trained = train(cfg).trainer.model.eval()
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.TRANSFER.EXTEND = False
    model = build_model(plain)
    file = str(Path(cfg.OUTPUT_DIR, "model_final.safetensors"))
    load_trained_model(model.eval(), file, fit_config(cfg).classes)
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        one, other = (m([{"image": image}])[0]["instances"] for m in (trained, model))
    assert len(one) and torch.equal(one.scores, other.scores)
