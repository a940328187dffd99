"""A built model has detectron2's tensors, draws and losses, whatever its heads, and our parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.build import TransferOutputLayers, build_model
from transfer_maskrcnn.modeling.rcnn import TransferRCNN, TransferRPN

Toy = Callable[..., CfgNode]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"]
AGNOSTIC = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
C4 = [
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32, 64]]),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.ROI_BOX_HEAD.NAME", "", "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
]
FED = ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True]
POINTS = [
    *("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""),
    *("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True, "MODEL.ROI_MASK_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.NUM_FC", 2, "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION", 7),
    *("MODEL.POINT_HEAD.NUM_CLASSES", 1),
]
ARCHITECTURES = {
    "standard": [],
    "cascade": CASCADE + AGNOSTIC,
    "C4": C4,
    "one score a class": FED,
    "PointRend": POINTS,
}


def configured(toy: Toy, opts: list[Any]) -> CfgNode:
    cfg = toy()
    cfg.merge_from_list(opts)
    return cfg


def batch() -> list[dict[str, Any]]:
    objects = Instances((64, 64))
    objects.gt_boxes = Boxes(torch.tensor([[6.0, 6.0, 30.0, 40.0]]))
    objects.gt_classes = torch.tensor([0])
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 6:40, 6:30] = True
    objects.gt_masks = BitMasks(mask)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    return [{"image": image, "height": 64, "width": 64, "instances": objects}]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tensors_draws_losses_and_detections_are_detectron2s(name: str, toy: Toy) -> None:
    cfg = configured(toy, ARCHITECTURES[name])
    written = cfg.dump()
    torch.manual_seed(0)
    ours: Any = build_model(cfg)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    stock: Any = modeling.build_model(cfg)
    assert torch.equal(drawn, torch.rand(1)), "as many random numbers are drawn"
    assert cfg.dump() == written, "a saved config has the user's names"
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert all(torch.equal(t, ours.state_dict()[k]) for k, t in stock.state_dict().items())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in stock.named_parameters()]
    assert type(ours) is TransferRCNN and type(ours.proposal_generator) is TransferRPN
    predictors = [m for m in ours.modules() if isinstance(m, FastRCNNOutputLayers)]
    assert predictors and all(type(p) is TransferOutputLayers for p in predictors)
    found = []
    for model in (ours, stock):
        with EventStorage():
            torch.manual_seed(1)
            losses = model.train()(batch())
        with torch.no_grad():
            instances = model.eval()(batch())[0]["instances"]
        found.append((losses, instances))
    (mine, detected), (theirs, expected) = found
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert len(expected) and torch.equal(detected.scores, expected.scores)
    assert torch.equal(detected.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize("name", ["standard", "cascade", "C4"])
def test_a_spec_says_how_classes_are_scored(name: str, toy: Toy) -> None:
    cfg = configured(toy, [*ARCHITECTURES[name], "MODEL.ROI_HEADS.NUM_CLASSES", 3])
    model = build_model(cfg, RunSpec(("a", "b", "c"), tasks=(2, 1)))
    predictors = [m for m in model.modules() if isinstance(m, TransferOutputLayers)]
    assert {tuple(p.tasks) for p in predictors} == {(2, 1)}
    logits = torch.tensor([[0.0, 1.0, 9.0, 0.5]])
    scores = predictors[0].predict_probs((logits, torch.zeros(1, 12)), [Instances((9, 9), x=[0])])
    alone = logits[:, [0, 1, 3]].softmax(dim=1)
    assert torch.equal(scores[0][:, :2], alone[:, :2])


class OwnPredictor(FastRCNNOutputLayers):
    """A user's."""


def test_a_predictor_of_ones_own_stays(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling.roi_heads.roi_heads, "FastRCNNOutputLayers", OwnPredictor)
    model: Any = build_model(toy())
    assert type(model.roi_heads.box_predictor) is OwnPredictor
    cosine = configured(toy, ["MODEL.ROI_BOX_HEAD.COSINE_SCALE", 20.0])
    with pytest.raises(ConfigError, match="COSINE_SCALE"):
        build_model(cosine)


# keys that detectron2 takes one by one, and that make no model together
CONTRADICTIONS = [
    ["MODEL.FPN.IN_FEATURES", ["res2", "res7"]],
    ["MODEL.BACKBONE.NAME", "no_such_backbone"],
    ["MODEL.RESNETS.DEPTH", 49],
    ["MODEL.ROI_HEADS.IN_FEATURES", ["p9"]],
]


@pytest.mark.parametrize("keys", CONTRADICTIONS, ids=lambda keys: keys[0])
def test_a_config_that_makes_no_model(keys: list[Any], toy: Toy) -> None:
    cfg = toy()
    cfg.merge_from_list(keys)
    with pytest.raises(ConfigError, match="cannot build a model of this config"):
        build_model(cfg)
