"""The real files of ../shared, where they are: a COCO detector and an ImageNet backbone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from transfer_maskrcnn.surgery.diff import diff_weights
from transfer_maskrcnn.surgery.hook import transfer_weights
from transfer_maskrcnn.surgery.load import load_weights

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
THIN = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 128),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.FPN.OUT_CHANNELS", 128),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 512),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 128),
]
# file, preset, tensors kept and with rows
FILES = [
    ("coco549_thin_r50_fpn.pth", "all_but_predictors", 301, 0),
    ("coco549_thin_r50_fpn.pth", "class_rows", 301, 6),
    # a zoo-format backbone without prefixes finds backbone.bottom_up
    ("thin_r50_imagenet_open_nsfw.pkl", "all_but_predictors", 265, 0),
    ("thin_r50_imagenet_open_nsfw.pkl", "backbone", 265, 0),
]


@pytest.mark.parametrize(("name", "keep", "kept", "rows"), FILES)
def test_real_file(
    name: str, keep: str, kept: int, rows: int, shared: Path, build: Callable[..., nn.Module]
) -> None:
    model = build(MASK, 2, THIN)
    plan = transfer_weights(
        model,
        str(shared / "weights" / name),
        keep=keep,
        source_classes=["coco_2017_val"] if rows else None,
        target_classes=["persons", "nucleus"],
    )
    totals = plan.totals()
    assert (totals["kept"]["tensors"], totals["rows"]["tensors"]) == (kept, rows)


def test_what_training_on_coco_changed(shared: Path) -> None:
    """FREEZE_AT 2: stem and res2 are the backbone's, as far as half precision goes."""
    backbone = load_weights(str(shared / "weights" / "thin_r50_imagenet_open_nsfw.pkl"))
    detector = load_weights(str(shared / "weights" / "coco549_thin_r50_fpn.pth"))
    groups = diff_weights(backbone, detector).groups()
    for part in ("stem", "res2"):
        assert groups[f"backbone.bottom_up.{part}"]["changed"] == 0
    assert groups["backbone.bottom_up.res5"]["distance"] > 5e-3
    assert groups["roi_heads.mask_head"]["only in b"] == 10
    assert all(torch.isfinite(t).all() for t in detector.tensors.values())
