"""The config.yaml of a finished run: detectron2 predicts with it, and we still know its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor

from transfer_maskrcnn import add_transfer_config, load_config, load_model
from transfer_maskrcnn.engine.manifest import check_same_run, config_hash
from transfer_maskrcnn.engine.run import check_start
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import WeightFileError

Toy = Callable[..., CfgNode]
SHORT: list[Any] = ["SOLVER.MAX_ITER", 3, "SOLVER.BASE_LR", 0.05]


def stock(folder: Path, *opts: Any) -> CfgNode:
    """As a script of detectron2's reads a config."""
    cfg = get_cfg()
    add_transfer_config(cfg)
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.merge_from_list(["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05, *opts])
    return cfg


def finished(toy: Toy, train: Callable[..., Any], *opts: Any, best: bool = False) -> Path:
    cfg = toy(*SHORT, *opts)
    if best:
        cfg.DATASETS.TEST, cfg.TEST.BEST_METRIC = cfg.DATASETS.TRAIN, "segm/AP"
        cfg.TEST.EVAL_PERIOD = 1
    train(cfg)
    return Path(cfg.OUTPUT_DIR)


RUNS: list[tuple[list[Any], bool, set[str]]] = [
    # options, whether the best is kept, which file may be named
    ([], False, {"model_final.pth"}),
    (["SOLVER.EMA_DECAY", 0.9], False, {"model_average.pth"}),
    ([], True, {"model_best.pth", "model_final.pth"}),
    (["SOLVER.EMA_DECAY", 0.9], True, {"model_best.pth", "model_average.pth"}),
]


@pytest.mark.parametrize(("opts", "best", "names"), RUNS)
def test_default_predictor_finds_what_load_model_finds(
    opts: list[Any], best: bool, names: set[str], toy: Toy, train: Callable[..., Any]
) -> None:
    folder = finished(toy, train, *opts, best=best)
    cfg = stock(folder)
    assert Path(cfg.MODEL.WEIGHTS).parent == folder and Path(cfg.MODEL.WEIGHTS).name in names
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = DefaultPredictor(cfg)(image)["instances"]
    result = load_model(folder, score=0.05)(image[:, :, ::-1])
    assert len(result) == len(expected) > 0
    order = expected.scores.argsort(descending=True, stable=True)
    assert np.allclose(result.scores, expected.scores[order], atol=1e-5)
    assert np.allclose(result.boxes, expected.pred_boxes.tensor[order], atol=1e-3)
    assert (result.classes == expected.pred_classes[order].numpy()).all()
    assert result.masks is not None
    assert (result.masks == expected.pred_masks[order].numpy()).mean() > 0.999


def test_what_detectron2_would_get_wrong_it_refuses(toy: Toy, train: Callable[..., Any]) -> None:
    """It would build a linear classifier for the rows of a cosine one, and say nothing."""
    folder = finished(toy, train, "MODEL.ROI_BOX_HEAD.COSINE_SCALE", 20.0)
    with pytest.raises(AssertionError, match=r"only transfer_maskrcnn\.load_model .* not found"):
        DefaultPredictor(stock(folder))
    assert load_model(folder).names == ["x"]
    assert load_config(str(folder / "config.yaml")).MODEL.WEIGHTS == ""


def test_the_run_knows_what_it_started_from(
    toy: Toy, train: Callable[..., Any], tmp_path: Path
) -> None:
    start = finished(toy, train) / "model_final.safetensors"
    opts = ["MODEL.WEIGHTS", str(start), "MODEL.TRANSFER.ENABLED", True]
    folder = finished(toy, train, *opts)
    file = str(folder / "config.yaml")
    assert str(folder / "model_final.pth") == stock(folder).MODEL.WEIGHTS
    cfg = load_config(file)
    assert (str(start), []) == (cfg.MODEL.WEIGHTS, cfg.MODEL.TRANSFER.TRAINED_FROM)
    again = toy(*SHORT, *opts)
    assert config_hash(cfg) == config_hash(again), "another run of it is the same run"
    check_same_run(cfg)
    check_start(cfg, fit_config(cfg))
    # what is stated wins
    assert load_config(file, ["MODEL.WEIGHTS", "other.pth"]).MODEL.WEIGHTS == "other.pth"
    derived = tmp_path / "derived.yaml"
    derived.write_text(f"_BASE_: {file}\nMODEL:\n  WEIGHTS: third.pth\n")
    assert load_config(str(derived)).MODEL.WEIGHTS == "third.pth"
    derived.write_text(f"_BASE_: {file}\nOUTPUT_DIR: elsewhere\n")
    assert str(start) == load_config(str(derived)).MODEL.WEIGHTS


def test_a_run_that_goes_on_or_begins_anew_keeps_its_source(
    toy: Toy, train: Callable[..., Any]
) -> None:
    start = finished(toy, train) / "model_final.safetensors"
    folder = finished(toy, train, "MODEL.WEIGHTS", str(start), "MODEL.TRANSFER.ENABLED", True)
    longer = load_config(str(folder / "config.yaml"), ["SOLVER.MAX_ITER", "4"])
    run = train(fit_config(longer).resolve(longer), resume=True)
    assert len(run.losses) == 1
    metadata = run.trainer.checkpointer.metadata
    assert metadata["transfer"]["source"] == str(start)
    assert str(start) == load_config(str(folder / "config.yaml")).MODEL.WEIGHTS


def test_before_the_end_it_names_the_source(toy: Toy, train: Callable[..., Any]) -> None:
    from detectron2.engine import HookBase

    class Stop(HookBase):
        def after_step(self) -> None:
            raise KeyboardInterrupt

    cfg = toy(*SHORT)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, Stop())
    assert not Path(cfg.OUTPUT_DIR, "config.yaml").exists()  # nor a model that it would name
    with pytest.raises(WeightFileError, match="holds no trained model"):
        load_model(cfg.OUTPUT_DIR)


def test_images_of_a_run_in_every_form(toy: Toy, train: Callable[..., Any], tmp_path: Path) -> None:
    """A photo, its pixels in RGB, and what OpenCV reads of it turned round, are one."""
    folder = finished(toy, train)
    file = next(tmp_path.glob("images*/0.png"))
    model = load_model(folder, score=0.05)
    read = cv2.imread(str(file))
    expected = DefaultPredictor(stock(folder))(read)["instances"]
    for image in (file, read[:, :, ::-1]):
        assert np.allclose(model(image).scores, expected.scores, atol=1e-5)
