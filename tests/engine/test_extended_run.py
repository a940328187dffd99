"""The shapes detector, extended with the shapes that it does not know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data.shapes import SOURCE_CLASSES, TARGET_CLASSES, ShapesSplit, write_split
from transfer_maskrcnn.engine.evaluation import build_validation_loader
from transfer_maskrcnn.engine.run import check_start, evaluate
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.inference.load import build_trained, find_weights
from transfer_maskrcnn.surgery.load import load_weights

ALL = [*SOURCE_CLASSES, "star", "heart"]  # ring is known
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 0),
    *("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True),
    *("MODEL.TRANSFER.NEW_CLASS_INIT", [["star", "triangle"], ["heart", "mean"]]),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
    *("SOLVER.WARMUP_ITERS", 1, "SOLVER.BASE_LR", 1e-4),
    *("TEST.EVAL_ITERS", [0], "TEST.VAL_LOSS", True),
]


@pytest.fixture
def make(repository: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """make(*opts) -> the unfitted config of two iterations on four images."""
    for name, classes in (("novel", TARGET_CLASSES), ("base", SOURCE_CLASSES)):
        write_split(ShapesSplit(name, classes, 4, 5), tmp_path / name)
        register_dataset(
            f"{name}_{tmp_path.name}",
            format="coco",
            annotations=tmp_path / name / "annotations.json",
            image_root=tmp_path / name / "images",
        )

    def config(*opts: Any) -> CfgNode:
        novel, base = f"novel_{tmp_path.name}", f"base_{tmp_path.name}"
        weights = str(repository / "configs/shapes/shapes_source.pth")
        places = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "output")]
        places += ["DATASETS.TRAIN", (novel,), "DATASETS.TEST", (novel, base)]
        base = str(repository / "configs/shapes/Base-shapes.yaml")
        return load_config(base, [*TINY, *places, *opts])

    return config


@pytest.mark.slow
def test_train_evaluate_resume_predict(
    make: Callable[..., CfgNode], train: Callable[..., Any], tmp_path: Path
) -> None:
    cfg, output = make(), tmp_path / "output"
    assert list(fit_config(cfg).classes) == ALL
    train(cfg)
    (output / "config.yaml").write_text(cfg.dump())
    plan = json.loads((output / "transfer_plan.json").read_text())
    assert [(row["target"], row["source"]) for row in plan["classes"]] == [
        *((name, name) for name in SOURCE_CLASSES),
        *(("star", "triangle"), ("heart", None)),
    ]
    for file in ("model_final.pth", "model_final.safetensors"):
        assert (load_weights(output / file).metadata or {})["thing_classes"] == ALL
    initial = load_weights(output / "model_initial.safetensors").tensors
    source = load_weights(cfg.MODEL.WEIGHTS).tensors
    rows = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(initial[rows][:8], source[rows][:8])
    trained = json.loads((output / "evaluation.json").read_text())
    assert list(trained) == [*cfg.DATASETS.TEST, "extension"]
    assert [{k for k in trained[n]["segm"] if k.startswith("AP-")} for n in cfg.DATASETS.TEST] == [
        {f"AP-{name}" for name in classes} for classes in (TARGET_CLASSES, SOURCE_CLASSES)
    ]
    base = trained[cfg.DATASETS.TEST[1]]["segm"]
    assert base["AP"] > 5, "it still knows what it knew, by the right names"

    for again in (make(), load_config(str(output / "config.yaml"))):
        (output / "evaluation.json").unlink()
        spec = fit_config(again, eval_only=True)
        evaluate(spec.resolve(again), spec, None)
        assert json.loads((output / "evaluation.json").read_text()) == trained

    longer = make("SOLVER.MAX_ITER", 3)
    longer = fit_config(longer).resolve(longer)
    assert len(train(longer, resume=True).losses) == 1
    run = load_config(str(output / "config.yaml"))
    model = build_trained(run, find_weights(run))
    assert list(model.names) == ALL


def test_losses_are_of_the_extended_classes(make: Callable[..., CfgNode]) -> None:
    """In training and validation, a star is class 8: the dataset's own number, 0, is circle."""
    cfg = make()
    cfg = fit_config(cfg).resolve(cfg)
    trainer = TransferTrainer(cfg)
    batch = next(iter(trainer.data_loader))
    found = {int(k) for image in batch for k in image["instances"].gt_classes}
    assert found <= {ALL.index(name) for name in TARGET_CLASSES}
    validation = build_validation_loader(cfg, trainer.spec, cfg.DATASETS.TEST[0])
    seen = {int(k) for [image] in validation for k in image["instances"].gt_classes}
    assert seen <= {ALL.index(name) for name in TARGET_CLASSES} and 8 in seen


def test_the_source_is_opened_once(
    make: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever asks: the classes, the checks before a run, the surgery."""
    weights = shutil.copy(make().MODEL.WEIGHTS, tmp_path / "source.pth")
    opened, load = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda file, **options: opened.append(str(file)) or load(file, **options)
    )
    cfg = make("MODEL.WEIGHTS", str(weights))
    spec = fit_config(cfg)
    cfg = spec.resolve(cfg)
    check_start(cfg, spec)
    trainer = TransferTrainer(cfg, spec)
    trainer.resume_or_load(resume=False)
    trainer.surgery.before_train()
    assert trainer.surgery.plan is not None
    assert opened == [str(weights)]
