"""What the engine writes down for the explanation of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from transfer_maskrcnn.engine import evaluation as facts
from transfer_maskrcnn.engine.evaluation import (
    evaluate_model,
    print_summary,
    settings,
    untrained_parts,
)
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.modeling.build import build_model


def test_fresh_parts_are_told_from_trained_ones(toy: Callable[..., CfgNode]) -> None:
    model = build_model(toy())
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
    results = evaluate_model(cfg, fit_config(cfg, eval_only=True), build_model(cfg))
    folder = Path(cfg.OUTPUT_DIR, "inference", cfg.DATASETS.TEST[0])
    written = json.loads((folder / "settings.json").read_text())
    assert written["score_threshold"] == 0.1
    assert written["nms_threshold"] == cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
    assert "proposal_generator" in written["untrained"]
    assert written["min_size_train"] == list(cfg.INPUT.MIN_SIZE_TRAIN)
    rpn = cfg.MODEL.RPN
    limits = [written[f"rpn_{key}"] for key in ("pre_nms_topk", "post_nms_topk", "nms_threshold")]
    assert limits == [rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST, rpn.NMS_THRESH]
    assert written["rpn_levels"] == len(rpn.IN_FEATURES)
    recall = json.loads((folder / "proposals.json").read_text())
    assert recall["objects"]["all"] == 4
    sentence = json.loads((folder / "explanation.json").read_text())["segm"]["sentence"]
    assert "were never trained, or did not load" in sentence
    capsys.readouterr()
    print_summary(cfg, results)
    assert " ".join(sentence.split()) in " ".join(capsys.readouterr().out.split())


def test_biases_that_are_not_trained_prove_nothing(toy: Callable[..., CfgNode]) -> None:
    cfg = toy("SOLVER.BIAS_LR_FACTOR", 0.0)
    assert settings(cfg, build_model(cfg))["untrained"] == []


def test_a_failure_to_explain_is_a_warning(
    toy: Callable[..., CfgNode],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = toy()
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    name = cfg.DATASETS.TEST[0]
    older = Path(cfg.OUTPUT_DIR, "inference", name, "explanation.json")
    older.parent.mkdir(parents=True)
    older.write_text('{"segm": {"sentence": "of another model"}}')

    def fail(folder: Path) -> None:
        raise ValueError("a planted failure")

    monkeypatch.setattr(facts, "explain_folder", fail)
    results = evaluate_model(cfg, fit_config(cfg, eval_only=True), build_model(cfg))
    assert "segm" in results[name]
    (record,) = [r for r in caplog.records if "explained" in r.getMessage()]
    assert record.getMessage() == f"AP on {name} is not explained: ValueError: a planted failure"
    print_summary(cfg, results)
    assert "of another model" not in capsys.readouterr().out
