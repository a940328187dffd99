"""The rules of initialisation against models that detectron2 has just built."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from transfer_maskrcnn.surgery.apply import fresh_tensor

MASK = "COCO-InstanceSegmentation/mask_rcnn_"
GN = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
]
CONFIGS = [
    (f"{MASK}R_50_FPN_3x", []),
    (f"{MASK}R_50_C4_3x", []),
    (f"{MASK}R_50_FPN_3x", ["MODEL.RESNETS.NORM", "SyncBN"]),
    ("Misc/mask_rcnn_R_50_FPN_3x_gn", GN),
    ("Misc/cascade_mask_rcnn_R_50_FPN_3x", []),
    ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x", []),
    ("pointrend", []),
]


@pytest.mark.parametrize(("config", "opts"), CONFIGS)
def test_as_detectron2_would(
    config: str, opts: list[Any], make_cfg: Callable[..., CfgNode]
) -> None:
    torch.manual_seed(0)
    state = build_model(make_cfg(config, 20, opts)).state_dict()
    for name, built in state.items():
        fresh = fresh_tensor(name, state)
        assert fresh is not None, name
        assert fresh.shape == built.shape
        if built.numel() < 2 or not built.float().std() > 0:
            assert torch.equal(fresh, built.float()), name
        elif built.numel() > 500:
            assert fresh.mean() == pytest.approx(built.mean().item(), abs=0.2 * built.std().item())
            assert fresh.std() == pytest.approx(built.std().item(), rel=0.2), name
            # normal and uniform numbers of one spread differ in their largest
            assert fresh.abs().max() == pytest.approx(built.abs().max().item(), rel=0.6), name


def test_the_same_in_every_process_and_another_for_every_name() -> None:
    generator = torch.get_rng_state()
    state = {f"roi_heads.mask_head.mask_fcn{i}.weight": torch.zeros(4, 4, 3, 3) for i in (1, 2)}
    first, second = (fresh_tensor(name, state) for name in state)
    assert first is not None
    assert torch.equal(first, fresh_tensor(next(iter(state)), state))
    assert not torch.equal(first, second)
    assert torch.equal(generator, torch.get_rng_state())


def test_no_rule() -> None:
    assert fresh_tensor("backbone.pos_embed", {"backbone.pos_embed": torch.ones(1, 2, 3)}) is None
    assert fresh_tensor("head.weight", {"head.weight": torch.ones(2, 3)}) is None
