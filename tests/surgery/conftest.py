"""Detectors of the model zoo with their channels cut down, and what their heads say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import Boxes
from torch import Tensor, nn

MASK = "COCO-InstanceSegmentation/mask_rcnn_"
POINTREND = "pointrend"

# half a percent of the zoo's channels; pixels scaled so that random weights stay finite
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.WEIGHTS", ""),
    *("MODEL.PIXEL_STD", [58.0, 58.0, 58.0]),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8, 8]),
]
X101 = ["MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RESNETS.WIDTH_PER_GROUP", 2]


def tiny_cfg(config: str, classes: int, opts: list[Any] | None = None) -> CfgNode:
    """``config`` is a zoo path without .yaml, or "pointrend" (whose configs the zoo lacks)."""
    cfg = model_zoo.get_config(
        f"{MASK}R_50_FPN_3x.yaml" if config == POINTREND else f"{config}.yaml"
    )
    cfg.merge_from_list(TINY + (X101 if "X_101" in config else []))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    if config == POINTREND:
        add_pointrend_config(cfg)
        cfg.MODEL.ROI_HEADS.NAME = "PointRendROIHeads"
        cfg.MODEL.ROI_MASK_HEAD.NAME = "PointRendMaskHead"
        cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
        cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
        cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 16
        cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = True
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = classes
        cfg.MODEL.POINT_HEAD.FC_DIM = 8
    cfg.merge_from_list(opts or [])
    return cfg


def _build(config: str, classes: int, opts: list[Any] | None = None, seed: int = 0) -> nn.Module:
    """Random weights everywhere, biases and norms too, small enough for finite activations."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(tiny_cfg(config, classes, opts)).eval()
        for name, tensor in model.state_dict().items():
            if name.endswith(("norm.weight", "running_var")):
                tensor.copy_(torch.rand(tensor.shape) * 0.5 + 0.2)
            elif name.endswith(("bias", "running_mean")):
                tensor.copy_(torch.randn(tensor.shape) * 0.1)
    return model


def _tiny(classes: int, agnostic: bool = False, seed: int = 0, width: int = 2) -> nn.Module:
    """The names and layouts of a Mask R-CNN in 400 numbers, none of them 0."""
    boxes, masks = (1, 1) if agnostic else (classes, classes)
    tree = {
        "backbone": {
            "bottom_up": {
                "stem": {"conv1": nn.Conv2d(3, width, 1)},
                "res2": {"0": {"conv1": nn.Conv2d(width, width, 1)}},
            },
            "fpn_lateral2": nn.Conv2d(width, width, 1),
        },
        "proposal_generator": {"rpn_head": {"conv": nn.Conv2d(width, width, 1)}},
        "roi_heads": {
            "box_head": {"fc1": nn.Linear(width, width)},
            "box_predictor": {
                "cls_score": nn.Linear(width, classes + 1),
                "bbox_pred": nn.Linear(width, 4 * boxes),
            },
            "mask_head": {
                "mask_fcn1": nn.Conv2d(width, width, 1),
                "predictor": nn.Conv2d(width, masks, 1),
            },
        },
    }
    model = _module(tree)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


def _module(tree: dict[str, Any]) -> nn.Module:
    return nn.ModuleDict({k: _module(v) if isinstance(v, dict) else v for k, v in tree.items()})


@pytest.fixture(scope="session")
def tiny() -> Callable[..., nn.Module]:
    """tiny(classes, agnostic=False, seed=0, width=2) -> a module with a detector's names."""
    return _tiny


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """build(config, classes, opts=None, seed=0) -> a tiny detector in eval mode."""
    return _build


@pytest.fixture(scope="session")
def make_cfg() -> Callable[..., CfgNode]:
    """make_cfg(config, classes, opts=None) -> the config of a tiny detector."""
    return tiny_cfg


@pytest.fixture(scope="session")
def coco() -> tuple[str, ...]:
    """COCO's 80 class names."""
    return tuple(MetadataCatalog.get("coco_2017_val").thing_classes)


@pytest.fixture(scope="session")
def heads() -> Callable[[nn.Module], dict[str, list[Tensor]]]:
    """heads(model) -> logits, box deltas and mask logits of fixed proposals on a fixed image."""
    return _heads


@torch.no_grad()
def _heads(model: nn.Module) -> dict[str, list[Tensor]]:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 4 - 2
    boxes = [Boxes(torch.tensor([[2.0, 3.0, 40.0, 50.0], [10.0, 5.0, 63.0, 30.0]]))]
    features = model.backbone(image)
    heads: Any = model.roi_heads
    objectness, deltas = model.proposal_generator.rpn_head(
        [features[f] for f in model.proposal_generator.in_features]
    )
    out: dict[str, list[Tensor]] = {"rpn": [*objectness, *deltas]}
    if hasattr(heads, "res5"):
        x = heads._shared_roi_transform([features[f] for f in heads.in_features], boxes)
        predicted = [heads.box_predictor(x.mean(dim=[2, 3]))]
        masks = [heads.mask_head.layers(x)]
    else:
        inputs = [features[f] for f in heads.box_in_features]
        x = heads.box_pooler(inputs, boxes)
        stages = isinstance(heads.box_predictor, nn.ModuleList)
        pairs = (
            zip(heads.box_head, heads.box_predictor, strict=True)
            if stages
            else [(heads.box_head, heads.box_predictor)]
        )
        predicted = [predictor(head(x)) for head, predictor in pairs]
        masks = _masks(heads, features, boxes)
    out["logits"] = [scores for scores, _ in predicted]
    out["deltas"] = [deltas for _, deltas in predicted]
    out["masks"] = masks
    if getattr(heads, "keypoint_on", False):
        x = heads.keypoint_pooler([features[f] for f in heads.keypoint_in_features], boxes)
        out["keypoints"] = [heads.keypoint_head.layers(x)]
    return out


def _masks(heads: Any, features: dict[str, Tensor], boxes: list[Boxes]) -> list[Tensor]:
    if not getattr(heads, "mask_on", False):
        return []
    inputs = {f: features[f] for f in heads.mask_in_features}
    if hasattr(heads.mask_head, "coarse_head"):
        coarse = heads.mask_head.coarse_head(heads.mask_head._roi_pooler(inputs, boxes))
        points = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(2))
        fine = heads.mask_head._point_pooler(inputs, boxes, points)
        return [coarse, heads.mask_head._get_point_logits(fine, points, coarse)]
    return [heads.mask_head.layers(heads.mask_pooler(list(inputs.values()), boxes))]
