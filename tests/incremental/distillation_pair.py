"""A tiny student and its teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import train_loader
from transfer_maskrcnn.incremental.distillation import Distillation
from transfer_maskrcnn.incremental.distillation_losses import BaseClasses
from transfer_maskrcnn.modeling.build import build_model

BASE = BaseClasses.of(["a", "b", "novel", "newer"], ["b", "", "a"])


class Pair:
    """A tiny teacher of random weights, its student of the same ones, and a batch.

    Novel rows never win. The batch's images hold one object each, the first of a novel class.
    """

    def __init__(self, cfg: CfgNode, weight: float = 1.0):
        self.teacher: Any = _build(cfg, 3).requires_grad_(False).eval()
        self.student: Any = _build(cfg, 4).train()
        _teach(self.teacher, self.student)
        self.distillation = Distillation(self.student, self.teacher, BASE, weight)
        self.batch = next(iter(train_loader(cfg, fit_config(cfg))))
        self.batch[0]["instances"].gt_classes[:] = 3

    def losses(self) -> dict[str, Tensor]:
        torch.manual_seed(1)
        with EventStorage():
            losses: dict[str, Tensor] = self.student(self.batch)
        return losses

    def distilled(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.losses().items() if k.startswith("loss_distill_")}

    def stir(self) -> None:
        """Move the student away from the teacher."""
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in self.student.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.abs().mean() * 0.3)
            self.student.proposal_generator.rpn_head.objectness_logits.bias -= 1


def _build(cfg: CfgNode, classes: int) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    torch.manual_seed(0)
    return build_model(cfg)


def _teach(teacher: nn.Module, student: nn.Module) -> None:
    own, given = student.state_dict(), teacher.state_dict()
    for name in (
        "roi_heads.box_predictor.bbox_pred.weight",
        "roi_heads.mask_head.predictor.weight",
    ):
        given[name].mul_(100)  # as drawn, they are all but zero
    for name, tensor in given.items():
        if own[name].shape == tensor.shape:
            own[name].copy_(tensor)
    predictor = "roi_heads.box_predictor"
    for name in (
        f"{predictor}.cls_score",
        f"{predictor}.bbox_pred",
        "roi_heads.mask_head.predictor",
    ):
        for kind in ("weight", "bias"):
            mine, theirs = own[f"{name}.{kind}"], given[f"{name}.{kind}"]
            if mine.shape == theirs.shape:
                continue
            size = 4 if "bbox" in name else 1
            mine, theirs = mine.unflatten(0, (-1, size)), theirs.unflatten(0, (-1, size))
            mine[BASE.student] = theirs[BASE.teacher]
            if "cls_score" in name:
                mine[-1] = theirs[-1]
    own[f"{predictor}.cls_score.bias"][2:4] = -1e4


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """The arguments and the output of each call of ``module`` within the block."""
    calls: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    try:
        yield calls
    finally:
        handle.remove()
