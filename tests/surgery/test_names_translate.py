"""Other projects' names, each against the other project's own forward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import TORCHVISION_EXPECTS, translate
from transfer_maskrcnn.surgery.plan import TransferPlan, apply_plan, plan_transfer

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
Build = Callable[..., nn.Module]
# torchvision's bottleneck is as wide as its stage, a quarter of the stage's output
WIDE = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 256),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 64),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False),
    *("INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", TORCHVISION_EXPECTS["MODEL.PIXEL_MEAN"]),
    *("MODEL.PIXEL_STD", TORCHVISION_EXPECTS["MODEL.PIXEL_STD"]),
]


def shaken(model: nn.Module) -> nn.Module:
    """Random numbers in every bias and statistic, so that none can be swapped unnoticed."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or (".bn" in f".{name}" and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.3)
        elif name.endswith(("bias", "running_mean")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.eval()


def moved(state: dict[str, Tensor], target: nn.Module, **arguments: Any) -> TransferPlan:
    tensors, naming, renamed, expects = translate(state)
    classes = arguments.pop("classes", None)
    source = SourceWeights(tensors, "tv.pth", classes, naming, None, renamed, expects)
    plan = plan_transfer(source, target, **arguments)
    plan.check()
    apply_plan(plan, source, target)
    return plan


@torch.no_grad()
def test_torchvision_detector_forward(build: Build) -> None:
    """Backbone, FPN, RPN, box head, predictor and mask head, each on the other's features."""
    torch.manual_seed(0)
    backbone = torchvision.models.resnet50(
        weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d
    )
    theirs: Any = shaken(MaskRCNN(_resnet_fpn_extractor(backbone, 3), num_classes=6))
    channels = ["MODEL.FPN.OUT_CHANNELS", 256, "MODEL.ROI_BOX_HEAD.FC_DIM", 1024]
    ours: Any = build(MASK, 5, [*WIDE, *channels, "MODEL.ROI_MASK_HEAD.CONV_DIM", 256])
    classes = ("a", "b", "c", "d", "e")
    plan = moved(
        theirs.state_dict(), ours, keep="class_rows", classes=classes, target_classes=classes
    )
    assert plan.totals()["initialised"]["tensors"] == plan.totals()["dropped"]["tensors"] == 0
    assert "POOLER_TYPE ROIAlign" in " ".join(map(str, plan.notes))

    image = torch.randn(1, 3, 64, 64)
    old, new = theirs.backbone(image), ours.backbone(image)
    for a, b in zip(("0", "1", "2", "3", "pool"), ("p2", "p3", "p4", "p5", "p6"), strict=True):
        torch.testing.assert_close(new[b], old[a], rtol=1e-4, atol=1e-4)
    features = [feature / 10 for feature in old.values()]
    for a, b in zip(
        theirs.rpn.head(features), ours.proposal_generator.rpn_head(features), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    boxes = torch.randn(2, 256, 7, 7)
    scores, deltas = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(boxes))
    found, found_deltas = ours.roi_heads.box_predictor(ours.roi_heads.box_head(boxes))
    torch.testing.assert_close(
        found, torch.cat([scores[:, 1:], scores[:, :1]], 1), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(found_deltas, deltas[:, 4:], rtol=1e-4, atol=1e-4)
    masks = torch.randn(2, 256, 14, 14)
    logits = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(masks))
    torch.testing.assert_close(
        ours.roi_heads.mask_head.layers(masks), logits[:, 1:], rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_torchvision_or_timm_backbone_forward(norm: str, build: Build) -> None:
    torch.manual_seed(0)
    theirs: Any = shaken(torchvision.models.resnet50(weights=None))
    ours: Any = build(MASK, 2, [*WIDE, "MODEL.RESNETS.NORM", norm])
    plan = moved(theirs.state_dict(), ours, keep="backbone")
    assert plan.naming == "torchvision backbone"
    lost = {t.source for t in plan.tensors if t.fate == "dropped" and "num_batches" not in t.source}
    assert lost == {"fc.weight", "fc.bias"}
    image = torch.randn(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    found = ours.backbone.bottom_up(image)
    stages = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
    for name, layer in stages.items():
        x = getattr(theirs, layer)(x)
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-4)


# settings of the model, words of the problem
INPUTS = [
    (["MODEL.RESNETS.STRIDE_IN_1X1", True], "STRIDE_IN_1X1 False"),
    (["INPUT.FORMAT", "BGR"], "INPUT.FORMAT RGB"),
    (["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]], "MODEL.PIXEL_STD [58.395,57.12,57.375]"),
]


@pytest.mark.parametrize(("opts", "words"), INPUTS)
def test_torchvision_weights_need_their_own_input(
    opts: list[Any], words: str, build: Build
) -> None:
    tensors, naming, _, expects = translate(torchvision.models.resnet50(weights=None).state_dict())
    source = SourceWeights(tensors, "r50.pth", naming=naming, expects=expects)
    plan = plan_transfer(source, build(MASK, 2, [*WIDE, *opts]))
    assert [p.code for p in plan.problems] == ["input_differs"]
    assert words in plan.problems[0].remedy
    assert plan_transfer(source, build(MASK, 2, WIDE)).problems == ()


# name in the file -> detectron2's: torchvision's releases differ; basic blocks; DataParallel
NAMES = [
    ({"backbone.body.bn1.weight": "backbone.bottom_up.stem.conv1.norm.weight"}),
    (
        {
            "backbone.body.conv1.weight": "backbone.bottom_up.stem.conv1.weight",
            "backbone.fpn.inner_blocks.0.weight": "backbone.fpn_lateral2.weight",
            "backbone.fpn.layer_blocks.3.bias": "backbone.fpn_output5.bias",
            "rpn.head.conv.weight": "proposal_generator.rpn_head.conv.weight",
            "roi_heads.mask_head.mask_fcn1.weight": "roi_heads.mask_head.mask_fcn1.weight",
        }
    ),
    (
        {
            "backbone.fpn.inner_blocks.0.0.weight": "backbone.fpn_lateral2.weight",
            "rpn.head.conv.0.0.weight": "proposal_generator.rpn_head.conv.weight",
            "roi_heads.mask_head.0.0.weight": "roi_heads.mask_head.mask_fcn1.weight",
        }
    ),
    (
        {
            "layer1.0.conv2.weight": "res2.0.conv2.weight",
            "layer4.1.downsample.0.weight": "res5.1.shortcut.weight",
            "layer4.1.downsample.1.running_var": "res5.1.shortcut.norm.running_var",
            "bn1.bias": "stem.conv1.norm.bias",
            "fc.weight": "fc.weight",
        }
    ),
    (
        {
            "module.layer1.0.conv1.weight": "res2.0.conv1.weight",
            "module.conv1.weight": "stem.conv1.weight",
        }
    ),
    ({"module.backbone.stem.conv1.weight": "backbone.stem.conv1.weight"}),
]


@pytest.mark.parametrize("names", NAMES)
def test_names(names: dict[str, str]) -> None:
    tensors, _, renamed, _ = translate({name: torch.ones(6, 1) for name in names})
    assert list(tensors) == list(names.values())
    assert renamed == {new: old for old, new in names.items() if new != old}


def test_caffe2_names_as_detectron2_converts_them(build: Build) -> None:
    """Against the stock heuristics, on the names of a Detectron 1 detector."""
    c2 = {
        "conv1_w": (4, 3, 7, 7),
        "res_conv1_bn_s": (4,),
        "res2_0_branch1_w": (8, 4, 1, 1),
        "res2_0_branch2a_w": (4, 4, 1, 1),
        "res2_0_branch2a_bn_b": (4,),
        "fpn_inner_res5_2_sum_w": (8, 64, 1, 1),
        "fpn_res5_2_sum_b": (8,),
        "conv_rpn_fpn2_w": (8, 8, 3, 3),
        "fc6_w": (16, 8 * 49),
        "cls_score_w": (81, 16),
        "bbox_pred_b": (4 * 81,),
        "_[mask]_fcn1_w": (8, 8, 3, 3),
        "mask_fcn_logits_w": (81, 8, 1, 1),
    }
    generator = torch.Generator().manual_seed(0)
    raw = {k: torch.rand(shape, generator=generator) for k, shape in c2.items()}
    target = build(MASK, 80, seed=1)
    stock = align_and_update_state_dicts(target.state_dict(), dict(raw))
    tensors, naming, renamed, _ = translate(raw)
    assert naming == "caffe2"
    assert sorted(renamed.values()) == sorted(c2)
    source = SourceWeights(tensors, "c2.pkl", None, "caffe2", None, renamed)
    plan = plan_transfer(source, target, keep=["backbone", "proposal_generator", "roi_heads"])
    apply_plan(plan, source, target)
    assert sum(t.fate == "kept" for t in plan.tensors) == len(c2)
    for name, tensor in stock.items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_two_names_of_one_tensor() -> None:
    with pytest.raises(ValueError, match=r"conv1.weight and stem.conv1.weight both mean"):
        translate(
            {
                k: torch.ones(1)
                for k in ("layer1.0.conv1.weight", "conv1.weight", "stem.conv1.weight")
            }
        )
