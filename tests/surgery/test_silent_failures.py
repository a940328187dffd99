"""What detectron2 does without a word, and the error that a user gets instead.

The numbers are those of the list of silent failures that this project began with.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.hook import transfer_weights

MASK = "COCO-InstanceSegmentation/mask_rcnn_"
Build = Callable[..., nn.Module]
SCORE = "roi_heads.box_predictor.cls_score.weight"


def save(model: nn.Module, tmp_path: Path, classes: list[str] | None = None) -> str:
    content: dict[str, Any] = {"model": model.state_dict()}
    if classes:
        content["transfer_maskrcnn"] = {"thing_classes": classes}
    torch.save(content, tmp_path / "source.pth")
    return str(tmp_path / "source.pth")


def refused(model: nn.Module, weights: str, **arguments: Any) -> str:
    """The error's text. The model must be as it was."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(TransferPlanError) as caught:
        transfer_weights(model, weights, **arguments)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(caught.value)


def test_1_no_weights_with_a_frozen_stem(build: Build) -> None:
    full = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
    model = build(f"{MASK}R_50_FPN_3x", 3, [*full, "MODEL.RESNETS.WIDTH_PER_GROUP", 64])
    text = refused(model, "")
    assert "MODEL.WEIGHTS is empty" in text
    assert "222,400 random parameters are about to be frozen" in text
    assert "backbone.bottom_up.stem, backbone.bottom_up.res2" in text
    assert "53 FrozenBN layers have no statistics" in text
    assert "FREEZE_AT 0" in text


@pytest.mark.parametrize("freeze_at", [0, 2])
def test_8_random_weights_under_frozen_norms_overflow(freeze_at: int, build: Build) -> None:
    """Even with nothing frozen, FrozenBN with no statistics and PIXEL_STD 1 diverge."""
    model = build(f"{MASK}R_50_FPN_3x", 3, ["MODEL.BACKBONE.FREEZE_AT", freeze_at])
    text = refused(model, "", keep="random_init")
    assert "the loss may overflow at once" in text
    assert "MODEL.PIXEL_STD [57.375, 57.12, 58.395]" in text
    fair = ["MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.NORM", "BN"]
    transfer_weights(build(f"{MASK}R_50_FPN_3x", 3, fair), "", keep="random_init")


def test_2_equal_class_counts_with_other_names(build: Build, tmp_path: Path) -> None:
    weights = save(build(f"{MASK}R_50_FPN_3x", 3), tmp_path, ["cat", "dog", "owl"])
    model = build(f"{MASK}R_50_FPN_3x", 3, seed=1)
    mine = ["date", "fig", "owl"]
    text = refused(model, weights, keep="roi_heads,backbone", target_classes=mine)
    assert "'cat', 'dog', 'owl'" in text
    assert "'date', 'fig', 'owl'" in text
    assert "class_rows" in text
    # the default leaves the predictors alone, class_rows moves the owl
    built = model.state_dict()[SCORE].clone()
    transfer_weights(model, weights, target_classes=mine)
    assert torch.equal(model.state_dict()[SCORE], built)
    transfer_weights(model, weights, keep="class_rows", target_classes=mine)
    source = torch.load(weights, weights_only=True)["model"][SCORE]
    assert torch.equal(model.state_dict()[SCORE][2:], source[2:])
    assert torch.equal(model.state_dict()[SCORE][:2], built[:2])


def test_3_no_matching_key(build: Build, tmp_path: Path) -> None:
    torch.save({f"encoder.{i}.w": torch.ones(3) for i in range(4)}, tmp_path / "other.pth")
    text = refused(build(f"{MASK}R_50_FPN_3x", 3), str(tmp_path / "other.pth"))
    assert "No tensor of" in text
    assert "encoder.0.w" in text
    assert "backbone.fpn_lateral2.weight" in text


def test_4_a_shape_mismatch(build: Build, tmp_path: Path) -> None:
    weights = save(build(f"{MASK}R_50_FPN_3x", 3), tmp_path)
    wider = build(f"{MASK}R_50_FPN_3x", 3, ["MODEL.ROI_BOX_HEAD.FC_DIM", 24])
    text = refused(wider, weights)
    assert (
        "box_head.fc1.weight: shapes differ: [16, 392] in the source, [24, 392] in the target"
        in text
    )
    assert "asks for box head, but all of its 4 tensors stay initialised" in text


# the other backbone's options, words of the error
BACKBONES = [
    ([], "R_101_FPN_3x", ["depth (ResNet-50 in the source, ResNet-101", "MODEL.RESNETS.DEPTH 50"]),
    (
        ["MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 8],
        "R_50_FPN_3x",
        ["block width (8 channels in the source, 16", "RES2_OUT_CHANNELS 8", "WIDTH_PER_GROUP 4"],
    ),
    (
        ["MODEL.RESNETS.STEM_OUT_CHANNELS", 6],
        "R_50_FPN_3x",
        ["stem width (4 ", "STEM_OUT_CHANNELS 4"],
    ),
    (
        ["MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RESNETS.WIDTH_PER_GROUP", 2],
        "R_50_FPN_3x",
        ["width of a group (4"],
    ),
]


@pytest.mark.parametrize(("opts", "config", "words"), BACKBONES)
def test_4_another_backbone(
    opts: list[Any], config: str, words: list[str], build: Build, tmp_path: Path
) -> None:
    weights = save(build(f"{MASK}R_50_FPN_3x", 3), tmp_path)
    text = refused(build(f"{MASK}{config}", 3, opts), weights)
    assert "The source's backbone is another one" in text
    assert all(word in text for word in words), text


# options of the target, preset, words: layouts of predictors that do not correspond
LAYOUTS = [
    (["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True], "class_rows", "CLS_AGNOSTIC_BBOX_REG"),
    (["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True], "class_rows", "mask_head.predictor.weight"),
]


@pytest.mark.parametrize(("opts", "keep", "words"), LAYOUTS)
def test_9_layouts_of_predictors(
    opts: list[Any], keep: str, words: str, build: Build, tmp_path: Path
) -> None:
    names = ["cat", "dog", "owl"]
    weights = save(build(f"{MASK}R_50_FPN_3x", 3), tmp_path, names)
    text = refused(build(f"{MASK}R_50_FPN_3x", 3, opts), weights, keep=keep, target_classes=names)
    assert "cannot move with the classifier's" in text
    assert words in text


def test_9_a_cascade_is_no_plain_head(build: Build, tmp_path: Path) -> None:
    weights = save(build(f"{MASK}R_50_FPN_3x", 3), tmp_path)
    text = refused(build("Misc/cascade_mask_rcnn_R_50_FPN_3x", 3), weights)
    assert "asks for box head, but all of its 12 tensors stay initialised" in text


def test_all_of_it_is_a_warning_where_the_asker_says_so(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        transfer_weights(build(f"{MASK}R_50_FPN_3x", 3), "", strict=False)
    assert [r.getMessage()[:22] for r in caplog.records] == [
        "MODEL.WEIGHTS is empty",
        caplog.records[1].getMessage()[:22],
    ]
    assert "about to be frozen" in caplog.records[1].getMessage()
