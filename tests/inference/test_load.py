"""From configs and checkpoints to a Model that finds what an evaluation finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.engine.manifest import own_config
from transfer_maskrcnn.engine.run import evaluate
from transfer_maskrcnn.errors import ConfigError, TransferError, WeightFileError
from transfer_maskrcnn.inference.load import (
    build_trained,
    config_of,
    find_weights,
    load_model,
    predict,
)
from transfer_maskrcnn.inference.outputs import JSON
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.load import UNTRAINED_KEY
from transfer_maskrcnn.surgery.read import METADATA_KEY

Toy = Callable[..., CfgNode]
SIZES = [(64, 64), (48, 96), (96, 48), (64, 64)]


def write_model(cfg: CfgNode, path: Path, metadata: dict[str, Any]) -> Path:
    """Random weights whose scores and masks are never alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, tensor in model.state_dict().items():
        if "mask_head.predictor" in name or name.endswith("cls_score.weight"):
            tensor.copy_(torch.randn(tensor.shape))
    torch.save(
        {"model": model.state_dict(), **({METADATA_KEY: metadata} if metadata else {})}, path
    )
    return path


def own_results(cfg: CfgNode, weights: Path, folder: Path, batch: int) -> list[dict[str, Any]]:
    """predictions.json of the training images, with the dataset's ids."""
    records = {r["file_name"]: r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])}
    model = build_trained(cfg.clone(), str(weights), score=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST)
    folder.mkdir()
    paths = [Path(name) for name in records]
    options = {"kinds": [JSON], "command": "", "batch": batch}
    predict(model, paths, folder, **options, report=lambda line: pytest.fail(line))
    images = json.loads((folder / "images.json").read_text())["images"]
    ids = {image["id"]: records[image["file_name"]]["image_id"] for image in images}
    results = json.loads((folder / "predictions.json").read_text())
    return [{**result, "image_id": ids[result["image_id"]]} for result in results]


@pytest.mark.parametrize("amp", [False, True])
def test_the_same_results_as_an_evaluation(amp: bool, toy: Toy, tmp_path: Path) -> None:
    cfg = toy("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.2, "SOLVER.AMP.ENABLED", amp, sizes=SIZES)
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    weights = write_model(cfg, tmp_path / "model.pth", {"thing_classes": ["x"]})
    evaluate(cfg, RunSpec(("x",)), str(weights))
    folder = Path(cfg.OUTPUT_DIR, "inference", cfg.DATASETS.TEST[0])
    expected = json.loads((folder / "coco_instances_results.json").read_text())
    assert len(expected) > 10
    assert len({r["segmentation"]["counts"] for r in expected}) > 5
    assert own_results(cfg, weights, tmp_path / "alone", 1) == expected
    together = own_results(cfg, weights, tmp_path / "together", 4)
    assert [r["image_id"] for r in together] == [r["image_id"] for r in expected]
    if not amp:  # bf16 rounds otherwise in a batch
        for ours, theirs in zip(together, expected, strict=True):
            assert np.allclose(ours["bbox"], theirs["bbox"], atol=1e-2)
            masks = ([r["segmentation"]] for r in (ours, theirs))
            assert mask_util.iou(*masks, [0])[0, 0] > 0.99


def test_higher_thresholds_leave_the_best_as_they_are(toy: Toy, tmp_path: Path) -> None:
    cfg = toy()
    weights = write_model(cfg, tmp_path / "model.pth", {"thing_classes": ["x"]})
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.2
    low = own_results(cfg, weights, tmp_path / "low", 1)
    middle = sorted(r["score"] for r in low)[len(low) // 2]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = middle
    high = own_results(cfg, weights, tmp_path / "high", 1)
    kept = [r for r in low if r["score"] > middle]
    assert 0 < len(high) < len(low)
    assert [(r["image_id"], r["score"]) for r in high] == [
        (r["image_id"], pytest.approx(r["score"])) for r in kept
    ]


def test_the_score_asked_for_counts_not_the_configs(toy: Toy, tmp_path: Path) -> None:
    cfg = toy("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.99)
    weights = write_model(cfg, tmp_path / "model.pth", {"thing_classes": ["x"]})
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (found,) = build_trained(cfg, str(weights), score=0.9, class_scores={"x": 0.1}).find([image])
    assert found and found[-1].score < 0.99


def test_nothing_of_the_dataset_is_needed(toy: Toy, tmp_path: Path) -> None:
    cfg = toy()
    weights = write_model(cfg, tmp_path / "model.pth", {"thing_classes": ["cat"]})
    cfg.DATASETS.TRAIN, cfg.DATASETS.CATALOG = ("a_set_that_is_gone",), "gone.yaml"
    assert build_trained(cfg, str(weights)).names == ["cat"]


METADATA: list[tuple[dict[str, Any], list[Any], str]] = [
    # other names than the dataset is known by
    ({"thing_classes": ["y"]}, [], r"trained on other classes.*\['y'\].*\['x'\]"),
    # another number of classes than the config states
    ({"thing_classes": ["x", "y"]}, [], "has 2 classes .x, y., but .*NUM_CLASSES is 1"),
    # heads that were never trained
    (
        {"thing_classes": ["x"], UNTRAINED_KEY: ["roi_heads.box_predictor.cls_score.weight"]},
        [],
        "is a starting point: 1 of its tensors were never trained",
    ),
    # another architecture
    ({"thing_classes": ["x"]}, ["MODEL.FPN.OUT_CHANNELS", 64], "not a trained model for this"),
    # no names anywhere
    ({}, ["DATASETS.TRAIN", ("gone",)], r"carries no class names.*SOURCE_CLASSES \"\['cat', 'dog'"),
    # names for another number of classes
    (
        {},
        ["MODEL.TRANSFER.SOURCE_CLASSES", ["a", "b"], "DATASETS.TRAIN", ("gone",)],
        "has 2 classes .a, b., but",
    ),
]


@pytest.mark.parametrize(("metadata", "options", "message"), METADATA)
def test_models_that_do_not_fit(
    metadata: dict[str, Any], options: list[Any], message: str, toy: Toy, tmp_path: Path
) -> None:
    cfg = toy()
    weights = write_model(cfg, tmp_path / "model.pth", metadata)
    cfg.merge_from_list(options)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        build_trained(cfg, str(weights))


FOREIGN: list[tuple[list[Any], list[str]]] = [
    # what the user says comes first
    (["MODEL.TRANSFER.SOURCE_CLASSES", ["owl"]], ["owl"]),
    # then what the dataset is known by
    ([], ["x"]),
    # a run's config, whose SOURCE_CLASSES are those of what it started from
    (["MODEL.TRANSFER.SOURCE_CLASSES", ["a", "b", "c"]], ["x"]),
]


@pytest.mark.parametrize(("options", "classes"), FOREIGN)
def test_names_for_a_file_without(
    options: list[Any], classes: list[str], toy: Toy, tmp_path: Path
) -> None:
    cfg = toy(*options)
    weights = write_model(cfg, tmp_path / "model.pth", {})
    assert build_trained(cfg, str(weights)).names == classes


def test_a_metadata_needs_no_source_classes(toy: Toy, tmp_path: Path) -> None:
    # a run's config.yaml names the classes of the weights that it started from
    cfg = toy("MODEL.TRANSFER.SOURCE_CLASSES", ["a", "b", "c"])
    weights = write_model(cfg, tmp_path / "model.pth", {"thing_classes": ["x"]})
    assert build_trained(cfg, str(weights)).names == ["x"]


FOLDERS: list[tuple[dict[str, str], str]] = [
    # what a run leaves -> what is found
    (
        {"last_checkpoint": "model_final.pth", "model_final.safetensors": ""},
        "model_final.safetensors",
    ),
    ({"last_checkpoint": "model_0000009.pth", "model_final.safetensors": ""}, "model_0000009.pth"),
    ({"model_final.safetensors": ""}, "model_final.safetensors"),
    ({"last_checkpoint": "model_final.pth"}, "model_final.pth"),
]


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(("left", "found"), FOLDERS)
def test_a_run_knows_its_model(
    left: dict[str, str], found: str, moved: bool, tmp_path: Path
) -> None:
    for name, content in left.items():
        (tmp_path / name).write_text(content)
    cfg = load_config("", ["MODEL.WEIGHTS", "start.pth", "OUTPUT_DIR", str(tmp_path)])
    config_file = "configs/any.yaml"
    if moved:
        cfg.OUTPUT_DIR, config_file = str(tmp_path / "gone"), str(tmp_path / "config.yaml")
    assert find_weights(cfg, config_file) == str(tmp_path / found)


def test_without_a_run_it_is_the_configs(tmp_path: Path) -> None:
    cfg = load_config("", ["MODEL.WEIGHTS", "start.pth", "OUTPUT_DIR", str(tmp_path)])
    assert find_weights(cfg, "configs/any.yaml") == "start.pth"
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ConfigError, match="there is no model to predict with: OUTPUT_DIR"):
        find_weights(cfg)


# --------------------------------------------------------------------------------- load_model


def trained(toy: Toy, train: Callable[..., Any], *options: Any) -> Path:
    """The folder of a run that has ended, without its images."""
    cfg = toy("SOLVER.MAX_ITER", 2, *options)
    train(cfg)
    return Path(cfg.OUTPUT_DIR)


def test_a_run_and_each_of_its_files_is_a_model(
    toy: Toy, train: Callable[..., Any], tmp_path: Path
) -> None:
    run, image = trained(toy, train), np.zeros((64, 64, 3), np.uint8)
    expected = load_model(run, score=0.0)(image)
    assert len(expected) and set(expected.names) == {"x"}
    for name in ("model_final.safetensors", "model_final.pth"):
        alone = tmp_path / "elsewhere" / name
        alone.parent.mkdir(exist_ok=True)
        shutil.copy(run / name, alone)
        for source in (alone, str(run / name)):
            assert load_model(source, score=0.0)(image).detections == expected.detections
    limited = load_model(run, score=0.0, class_scores={"x": float(expected.scores[0]) - 1e-6})
    assert len(limited(image)) < len(expected)


def test_the_same_run_elsewhere_writes_the_same_bytes(toy: Toy, train: Callable[..., Any]) -> None:
    one, other = trained(toy, train), trained(toy, train)
    assert one != other
    for name in ("model_final.safetensors",):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_file_that_says_nothing_needs_its_config(toy: Toy, tmp_path: Path) -> None:
    cfg = toy()
    weights = write_model(cfg, tmp_path / "bare" / "model.pth", {"thing_classes": ["x"]})
    with pytest.raises(ConfigError, match="does not say what model its weights are of, and no"):
        load_model(weights)
    cfg.MODEL.DEVICE = "cuda"  # of the machine that it was trained on
    (weights.parent / "config.yaml").write_text(cfg.dump())
    assert load_model(weights, device="cpu").names == ["x"]


UNUSUAL: list[Any] = [
    *("MODEL.TRANSFER.KEEP", "backbone,roi_heads.box_head"),
    *("MODEL.TRANSFER.CLASS_MAP", [["a", "x"]], "MODEL.TRANSFER.NEW_CLASS_INIT", [["x", "mean"]]),
    *("SOLVER.LR_MULTIPLIERS", [["backbone", 0.1]], "SOLVER.EMA_DECAY", 0.9),
    *("SOLVER.FREEZE_SCHEDULE", [[1, "all_but_predictors"]], "INPUT.MIN_SIZE_TRAIN", (48, 64)),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [96]], "MODEL.PIXEL_STD", [57.0] * 3),
    *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0]]),
]


def test_the_config_that_a_file_carries_is_the_runs(toy: Toy, train: Callable[..., Any]) -> None:
    run = trained(toy, train, *UNUSUAL)
    own = load_config(str(run / "config.yaml"))
    carried = config_of(str(run / "model_final.safetensors"))
    expected = {k: v for k, v in own_config(own).items() if not k.startswith("DATASETS.")}
    assert len(expected) > 20
    assert own_config(carried) == expected
    again = config_of(str(run), ["INPUT.MIN_SIZE_TEST", 32])
    assert again.INPUT.MIN_SIZE_TEST == 32, "what is asked for wins"


DAMAGED: list[dict[Any, Any]] = [
    # of a newer version, or no config at all
    {"MODEL.NO_SUCH_KEY": 1},
    {"MODEL.FPN.OUT_CHANNELS": {"a": 1}},
    {"MODEL.FPN.OUT_CHANNELS": "many"},
    {1: 2},
    {"MODEL": 7},
]


@pytest.mark.parametrize("config", DAMAGED)
def test_a_config_that_makes_no_sense(config: dict[Any, Any], toy: Toy, tmp_path: Path) -> None:
    weights = write_model(toy(), tmp_path / "a.pth", {"thing_classes": ["x"], "config": config})
    with pytest.raises(ConfigError):
        load_model(weights)


SOURCES: list[tuple[str, type[TransferError], str]] = [
    ("model.onnx", ConfigError, "model.onnx is an exported model, .* takes the OUTPUT_DIR"),
    ("gone", WeightFileError, "gone: no such weight file"),
    (".", WeightFileError, "a folder that holds no trained model"),
    ("", ConfigError, "name a model: a run's folder or its file"),
    ("run/config.yaml", ConfigError, "takes the OUTPUT_DIR of a run, .* of it: run$"),
    ("run/model_initial.safetensors", ConfigError, "before any training; load_model takes the"),
    ("mask_rcnn_R_50_FPN_3x", ConfigError, "is to start from, .* finetune"),
]


@pytest.mark.parametrize(("source", "kind", "message"), SOURCES)
def test_what_is_no_model(
    source: str,
    kind: type[TransferError],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(kind, match=message):
        load_model(source)


@pytest.mark.parametrize("device", ["", "gpu", "mps", "cuda:", 99])
def test_devices_that_are_not_there(device: Any, toy: Toy, tmp_path: Path) -> None:
    metadata = {"thing_classes": ["x"], "config": own_config(toy())}
    weights = write_model(toy(), tmp_path / "a.pth", metadata)
    with pytest.raises(ConfigError, match=r"no device '|sees no CUDA device"):
        load_model(weights, device=device)
