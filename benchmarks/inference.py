"""Sides that detect, and encode the masks as COCO results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pairs import Side
from benchmarks.training import ZOO
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.run import keep_freed_memory
from transfer_maskrcnn.evaluation.coco import coco_results
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.modeling import build
from transfer_maskrcnn.modeling.precision import autocast_dtype


class InferenceSide(Side):
    """One image through the model and into COCO results."""

    def __init__(self, model: nn.Module, image: torch.Tensor, height: int, width: int):
        self._model = model
        self._inputs = [{"image": image, "height": height, "width": width, "image_id": 1}]

    @torch.no_grad()
    def run(self) -> None:
        self._results = self.encode(self._model(self._inputs)[0]["instances"])

    def encode(self, instances: Any) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = instances_to_coco_json(instances.to("cpu"), 1)
        return results

    def facts(self) -> dict[str, Any]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self._model(self._inputs)
        return {"detections": len(self._results), "flops": counter.get_total_flops()}


class FastSide(InferenceSide):
    def encode(self, instances: Any) -> list[dict[str, Any]]:
        return coco_results(instances, 1)


def _input(size: int) -> torch.Tensor:
    """The same image for both sides: uint8 (3, size, size * 4 / 3), with structure."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (3, size // 16, size // 12), dtype=np.uint8)
    return torch.from_numpy(blocks.repeat(16, axis=1).repeat(16, axis=2))


def _common(cfg: CfgNode, device: str) -> None:
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = device
    cfg.MODEL.PIXEL_STD = [58.0, 57.0, 57.0]  # else random weights overflow
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # random weights are sure of nothing


def stock(size: int, height: int, width: int, device: str) -> Side:
    """Stock detectron2, as its COCOEvaluator uses it."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(ZOO))
    _common(cfg, device)
    torch.manual_seed(0)
    return InferenceSide(build_model(cfg).eval(), _input(size), height, width)


def ours(size: int, height: int, width: int, device: str) -> Side:
    """This project, as its evaluation does it."""
    if device == "cpu":
        keep_freed_memory()
    cfg = load_config(model_zoo.get_config_file(ZOO))
    _common(cfg, device)
    cfg.SOLVER.AMP.ENABLED = True
    torch.manual_seed(0)
    model = build.build_model(cfg)
    return FastSide(FastInference(model, autocast_dtype(cfg)).eval(), _input(size), height, width)
