"""What the engine writes down for the explanation of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from transfer_maskrcnn.engine.facts import untrained_parts
from transfer_maskrcnn.engine.run import print_summary
from transfer_maskrcnn.engine.trainer import TransferTrainer


def test_fresh_parts_are_told_from_trained_ones(toy: Callable[..., CfgNode]) -> None:
    model = TransferTrainer.build_model(toy())
    fresh = ["proposal_generator", *(f"roi_heads.{part}" for part in (
        "box_head", "box_predictor", "mask_head"))]  # fmt: skip
    assert untrained_parts(model) == fresh
    with torch.no_grad():
        model.roi_heads.mask_head.predictor.bias += 1e-6
    assert untrained_parts(model) == fresh[:-1]


def test_an_evaluation_explains_itself(
    toy: Callable[..., CfgNode], capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = toy("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1)
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    torch.manual_seed(0)
    results = TransferTrainer.test(cfg, TransferTrainer.build_model(cfg))
    folder = Path(cfg.OUTPUT_DIR, "inference", cfg.DATASETS.TEST[0])
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["score_threshold"] == 0.1
    assert settings["nms_threshold"] == cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
    assert "proposal_generator" in settings["untrained"]
    recall = json.loads((folder / "proposals.json").read_text())
    assert recall["objects"]["all"] == 4
    sentence = json.loads((folder / "explanation.json").read_text())["segm"]["sentence"]
    assert "were never trained, or did not load" in sentence
    capsys.readouterr()
    print_summary(cfg, results)
    assert " ".join(sentence.split()) in " ".join(capsys.readouterr().out.split())


def test_another_evaluator_is_not_explained(toy: Callable[..., CfgNode]) -> None:
    cfg = toy()
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    evaluator = TransferTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
    TransferTrainer.test(cfg, TransferTrainer.build_model(cfg), [evaluator])
    assert not list(Path(cfg.OUTPUT_DIR).glob("inference/*/explanation.json"))
