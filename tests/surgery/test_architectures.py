"""Each architecture: 80 COCO classes into three, one of which they share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import part_of
from transfer_maskrcnn.surgery.plan import TransferPlan, apply_plan, plan_transfer

MASK = "COCO-InstanceSegmentation/mask_rcnn_"
MINE = ("nucleus", "Traffic_Lights", "date")
SHARED, THERE = 1, "traffic light"

# GroupNorm wants multiples of 32 channels
GN = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
]
# config, options of both sides, {fate: tensors with that fate at class_rows}, per-class predictors
FPN_ROWS = {"rows": 6}
CASES = [
    pytest.param(f"{MASK}R_50_FPN_3x", [], {"kept": 301, **FPN_ROWS}, id="R50-FPN"),
    pytest.param(f"{MASK}R_101_FPN_3x", [], {"kept": 556, **FPN_ROWS}, id="R101-FPN"),
    pytest.param(f"{MASK}X_101_32x8d_FPN_3x", [], {"kept": 556, **FPN_ROWS}, id="X101-FPN"),
    # res4 in the backbone, res5 in the RoI heads, a mask head of one layer
    pytest.param(f"{MASK}R_50_C4_3x", [], {"kept": 273, **FPN_ROWS}, id="R50-C4"),
    pytest.param(f"{MASK}R_50_DC5_3x", [], {"kept": 285, **FPN_ROWS}, id="R50-DC5"),
    # one box and one mask for all classes: kept whole, only the classifier has rows
    pytest.param(
        f"{MASK}R_50_FPN_3x",
        [
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
            True,
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK",
            True,
        ],
        {"kept": 305, "rows": 2},
        id="class-agnostic",
    ),
    # three classifiers, boxes class-agnostic
    pytest.param("Misc/cascade_mask_rcnn_R_50_FPN_3x", [], {"kept": 315, "rows": 8}, id="Cascade"),
    # no mask head; keypoints do not depend on classes
    pytest.param(
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x", [], {"kept": 297, "rows": 4}, id="Keypoint"
    ),
    # coarse head, point head, and point layers that read the coarse masks of all classes
    pytest.param("pointrend", [], {"kept": 300, "rows": 11}, id="PointRend"),
    pytest.param("Misc/mask_rcnn_R_50_FPN_3x_gn", GN, {"kept": 214, **FPN_ROWS}, id="GN"),
    pytest.param("Misc/mask_rcnn_R_50_FPN_3x_syncbn", [], {"kept": 424, **FPN_ROWS}, id="SyncBN"),
]

Build = Callable[..., nn.Module]
Heads = Callable[[nn.Module], dict[str, list[Tensor]]]


def transfer(
    source: nn.Module, target: nn.Module, classes: tuple[str, ...], keep: str
) -> TransferPlan:
    weights = SourceWeights(source.state_dict(), "source.pth", classes)
    plan = plan_transfer(weights, target, keep=keep, target_classes=MINE)
    plan.check()
    apply_plan(plan, weights, target)
    return plan


def of_class(values: Tensor, index: int, classes: int) -> Tensor:
    """The slice of a head's output (R, K * n, ...) that belongs to one class."""
    per_class = values.shape[1] // classes
    return values[:, index * per_class : (index + 1) * per_class]


@pytest.mark.parametrize(("config", "opts", "expected"), CASES)
def test_class_rows(
    config: str,
    opts: list,
    expected: dict[str, int],
    build: Build,
    heads: Heads,
    coco: tuple[str, ...],
) -> None:
    source, target = build(config, 80, opts, seed=0), build(config, 3, opts, seed=1)
    plan = transfer(source, target, coco, "class_rows")
    found = {fate: total["tensors"] for fate, total in plan.totals().items() if total["tensors"]}
    assert found == expected
    old, new = heads(source), heads(target)
    there = coco.index(THERE)
    for a, b in zip(
        old["rpn"] + old.get("keypoints", []), new["rpn"] + new.get("keypoints", []), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for a, b in zip(old["logits"], new["logits"], strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a[:, [there, -1]], b[:, [SHARED, -1]], atol=1e-5, rtol=0)
    # PointRend's points read the coarse masks of all classes, so only its coarse mask can agree
    masks = slice(1) if config == "pointrend" else slice(None)
    for kind in ("deltas", "masks"):
        for a, b in zip(old[kind][masks], new[kind][masks], strict=True):
            if a.shape != b.shape:
                a, b = of_class(a, there, 80), of_class(b, SHARED, 3)
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("config", "opts", "expected"), CASES)
@pytest.mark.slow
def test_default_preset(
    config: str, opts: list, expected: dict[str, int], build: Build, coco: tuple[str, ...]
) -> None:
    """Predictors stay as built even where every shape fits; everything else is the source's."""
    source, target = build(config, 3, opts, seed=0), build(config, 3, opts, seed=1)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    transfer(source, target, coco[:3], "all_but_predictors")
    for name, tensor in target.state_dict().items():
        if part_of(name) == "predictors":
            assert torch.equal(tensor, before[name]), name
        elif ".point_head." in name and name.endswith("weight"):
            assert torch.equal(tensor[:, :-3], source.state_dict()[name][:, :-3]), name
            assert torch.equal(tensor[:, -3:], before[name][:, -3:]), name
        else:
            assert torch.equal(tensor, source.state_dict()[name]), name


def test_pointrend_points_agree_when_classes_are_permuted(build: Build, heads: Heads) -> None:
    """All classes present in another order: rows and columns are permuted, and nothing is lost."""
    source, target = build("pointrend", 3, seed=0), build("pointrend", 3, seed=1)
    transfer(source, target, ("date", "nucleus", "traffic light"), "class_rows")
    for a, b in zip(heads(source)["masks"], heads(target)["masks"], strict=True):
        torch.testing.assert_close(a[:, [1, 2, 0]], b, atol=1e-5, rtol=0)


def test_faster_rcnn_into_mask_rcnn(build: Build, coco: tuple[str, ...]) -> None:
    source = build("COCO-Detection/faster_rcnn_R_50_FPN_3x", 80)
    target = build(f"{MASK}R_50_FPN_3x", 3, seed=1)
    plan = transfer(source, target, coco, "class_rows")
    fates = {t.target: t for t in plan.tensors}
    masks = [t for name, t in fates.items() if name and ".mask_head." in name]
    assert len(masks) == 12
    assert {t.fate for t in masks} == {"initialised"}
    assert fates["roi_heads.mask_head.deconv.weight"].reason == "the source has no mask head"


def test_fpn_backbone_into_c4(build: Build, coco: tuple[str, ...]) -> None:
    """A backbone finds its place in another kind of detector, also C4's res5 in the RoI heads."""
    source = build(f"{MASK}R_50_FPN_3x", 80)
    target = build(f"{MASK}R_50_C4_3x", 3, seed=1)
    plan = transfer(source, target, coco, "backbone")
    assert torch.equal(
        target.state_dict()["roi_heads.res5.2.conv3.weight"],
        source.state_dict()["backbone.bottom_up.res5.2.conv3.weight"],
    )
    assert plan.totals()["kept"]["tensors"] == 265
