"""Whole runs with the cache have the losses of runs without it, in fp32 and in bf16."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import nn
from torch.nn import functional as F

from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.feature_cache.hook import _resized, canvases, fixed_mappers
from transfer_maskrcnn.modeling import precision
from transfer_maskrcnn.modeling.precision import cpu_has_bf16

Toy = Callable[..., CfgNode]
Train = Callable[..., Any]
FREEZE, CACHE = "MODEL.TRANSFER.FREEZE", "MODEL.TRANSFER.CACHE_FEATURES"
PRESETS = ["backbone", "backbone_fpn", "backbone_fpn_rpn"]
# fp32: convolutions of one image and of two are not summed in the same order
TOLERANCE = 1e-5


def images_cached(log: pytest.LogCaptureFixture) -> bool:
    return "computed once for 8 views of 4 images" in log.text


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.slow
def test_losses_are_those_of_a_run_without_cache(
    preset: str, toy: Toy, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="transfer_maskrcnn")
    plain = train(toy(FREEZE, preset, CACHE, "off"))
    assert not images_cached(caplog)
    for mode in ("memory", "disk", "auto"):
        caplog.clear()
        cached = train(toy(FREEZE, preset, CACHE, mode))
        assert images_cached(caplog)
        assert cached.difference(plain) < TOLERANCE, mode


def test_batches_of_one_orientation(toy: Toy, train: Train) -> None:
    """Wide images and upright ones, each kind of one size."""
    sizes = [(64, 96), (96, 64), (64, 96), (96, 64)]
    opts = (FREEZE, "backbone_fpn", "SOLVER.MAX_ITER", 8)
    plain = train(toy(*opts, CACHE, "off", sizes=sizes))
    assert train(toy(*opts, CACHE, "memory", sizes=sizes)).difference(plain) < TOLERANCE


# whether batches hold images of one orientation
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.slow
def test_images_of_different_sizes_are_as_if_padded_alike(
    grouped: bool, toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(64, 80), (96, 64), (64, 96), (70, 64), (64, 128), (128, 64)]
    opts = ("DATALOADER.ASPECT_RATIO_GROUPING", grouped, "SOLVER.MAX_ITER", 8, FREEZE, "backbone")
    cached = train(toy(*opts, CACHE, "memory", sizes=sizes))
    cfg = toy(*opts, CACHE, "off", sizes=sizes)
    view = fixed_mappers(CheckedDatasetMapper(cfg, is_train=True))[0]
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    canvas = canvases(records, [_resized(r, view) for r in records], 32, grouped)
    ordinary = GeneralizedRCNN.preprocess_image

    def padded(model: nn.Module, inputs: Any) -> ImageList:
        images = ordinary(model, inputs)
        height, width = canvas.of(images.image_sizes[0])
        below, right = height - images.tensor.shape[2], width - images.tensor.shape[3]
        return ImageList(F.pad(images.tensor, (0, right, 0, below)), images.image_sizes)

    assert cached.difference(train(cfg)) > 1e-3, "padding matters, or this test says nothing"
    monkeypatch.setattr(GeneralizedRCNN, "preprocess_image", padded)
    assert cached.difference(train(cfg)) < TOLERANCE


CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
C4 = (  # without FPN: the backbone is the whole backbone
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.RPN.IN_FEATURES", ["res4"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32, 64]], "MODEL.ROI_BOX_HEAD.NAME", ""),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
)


@pytest.mark.parametrize("opts", [CASCADE, C4])
def test_other_detectors(
    opts: tuple[Any, ...], toy: Toy, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="transfer_maskrcnn")
    opts = (*opts, FREEZE, "backbone_fpn_rpn", "SOLVER.MAX_ITER", 6)
    plain = train(toy(*opts, CACHE, "off"))
    assert train(toy(*opts, CACHE, "memory")).difference(plain) < TOLERANCE
    assert images_cached(caplog)


BF16 = [
    # MODEL.TRANSFER.FREEZE, whether autocast runs without bf16 instructions, too: slowly, but alike
    ("backbone", False),
    *((preset, True) for preset in PRESETS),
]


@pytest.mark.parametrize(("preset", "forced"), BF16)
@pytest.mark.slow
def test_bf16(
    preset: str, forced: bool, toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit for batches of one image: the same kernels see the same tensors in the same
    layout. With two images, a kernel may sum in another order, and an fp32 sum that lies between
    two bf16 numbers round to the other: 2**-8 of it, once a layer."""
    if forced:
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    elif not cpu_has_bf16():
        pytest.skip("this CPU has no bf16 instructions")
    for batch, tolerance in ((1, 0.0), (2, 2e-2)):
        opts = (FREEZE, preset, "SOLVER.IMS_PER_BATCH", batch, "SOLVER.AMP.ENABLED", True)
        plain, cached = (train(toy(*opts, "SOLVER.MAX_ITER", 6, CACHE, m)) for m in ("off", "disk"))
        assert cached.difference(plain) <= tolerance
