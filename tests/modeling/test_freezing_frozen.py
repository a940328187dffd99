"""What counts as frozen: no weight that learns, no statistics that follow, nothing at random."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torchvision.ops import StochasticDepth

from transfer_maskrcnn.modeling.freezing import freeze, is_frozen


class DropPath(nn.Module):
    """As timm's, which detectron2's ViT and Swin use."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob


CASES: list[tuple[Any, bool, bool]] = [
    # a layer, whether it is frozen with requires_grad_(False), and with freeze()
    (nn.Conv2d(4, 4, 1), True, True),
    (nn.GroupNorm(2, 4), True, True),
    (nn.LayerNorm(4), True, True),
    (FrozenBatchNorm2d(4), True, True),
    # statistics that model.train() would set free
    (nn.BatchNorm2d(4), False, True),
    (nn.BatchNorm2d(4, affine=False), False, True),
    (nn.SyncBatchNorm(4), False, True),
    (NaiveSyncBatchNorm(4), False, True),
    (nn.InstanceNorm2d(4, track_running_stats=True), False, True),
    # of each image by itself
    (nn.InstanceNorm2d(4), True, True),
    # of the batch, whatever the mode
    (nn.BatchNorm2d(4, track_running_stats=False), False, False),
    (nn.Dropout(0.1), False, False),
    (nn.Dropout2d(0.1), False, False),
    (nn.AlphaDropout(0.1), False, False),
    (nn.Dropout(0.0), True, True),
    (DropPath(0.1), False, False),
    (DropPath(0.0), True, True),
    (StochasticDepth(0.1, "row"), False, False),
]


@pytest.mark.parametrize(("layer", "by_hand", "with_freeze"), CASES)
@pytest.mark.parametrize("evaluated", [False, True])
def test_is_frozen(layer: nn.Module, by_hand: bool, with_freeze: bool, evaluated: bool) -> None:
    """In training, and between an evaluation and the ``train()`` that follows it."""
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), copy.deepcopy(layer))
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(4, 2)})
    model.train(not evaluated)
    assert not is_frozen(backbone)
    backbone.requires_grad_(False)
    assert is_frozen(backbone) is by_hand
    freeze(model, "backbone")
    assert is_frozen(backbone) is with_freeze
    model.train()
    assert is_frozen(backbone) is with_freeze
    assert not is_frozen(model)


def test_what_is_frozen_gives_the_same_in_any_company() -> None:
    """The point of it, for the layers that freeze() holds."""
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(4, 2)})
    freeze(model, "backbone")
    model.train()
    images = torch.rand(3, 3, 8, 8)
    together = backbone(images)
    assert torch.allclose(backbone(images[:1]), together[:1], atol=1e-6)
