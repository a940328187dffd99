"""Frozen parts do not move, by no back door either, and cost no more than they must."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import repeat
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.freezing import FreezeSchedule, freeze, names_of
from transfer_maskrcnn.modeling.rcnn import CertainMatcher, TransferRPN
from transfer_maskrcnn.surgery.names import part_of

ALL = {"backbone", "FPN", "RPN", "box head", "predictors"}
PROPOSALS = 17  # in training; 5 in evaluation


@pytest.fixture
def detector() -> Callable[..., nn.Module]:
    """detector(*opts) -> a Mask R-CNN of few channels with random weights, in training mode."""

    def build(*opts: Any) -> nn.Module:
        cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
        tiny = [
            *("MODEL.DEVICE", "cpu", "MODEL.MASK_ON", False, "MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.PIXEL_STD", [58.0, 58.0, 58.0], "MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
            *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", PROPOSALS, "MODEL.RPN.POST_NMS_TOPK_TEST", 5),
        ]
        cfg.merge_from_list([*tiny, "MODEL.PROPOSAL_GENERATOR.NAME", TransferRPN.__name__, *opts])
        torch.manual_seed(0)
        return build_model(cfg).train()

    return build


def images() -> list[dict[str, Any]]:
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    pixels = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    return [{"image": pixels, "instances": instances, "height": 64, "width": 64}]


def losses_of(model: nn.Module) -> dict[str, Tensor]:
    with EventStorage():
        return model(images())


def trained_parts(model: nn.Module) -> set[str]:
    return {part_of(name) for name, p in model.named_parameters() if p.requires_grad}


# value of MODEL.TRANSFER.FREEZE, the parts that it freezes whole
SPECS = [
    ("", set()),
    ("random_init", set()),
    ("backbone", {"backbone"}),
    ("backbone_fpn", {"backbone", "FPN"}),
    ("backbone_fpn_rpn", {"backbone", "FPN", "RPN"}),
    ("all_but_predictors", {"backbone", "FPN", "RPN", "box head"}),
    # as a module, the backbone holds the FPN, too
    ("backbone, roi_heads.box_head", {"backbone", "FPN", "box head"}),
    ("proposal_generator.", {"RPN"}),
]


@pytest.mark.parametrize(("spec", "parts"), SPECS)
def test_what_a_value_freezes(
    spec: str, parts: set[str], detector: Callable[..., nn.Module]
) -> None:
    model = detector()
    freeze(model, spec)
    assert trained_parts(model) == ALL - parts


# value, words of the error
MISTAKES = [
    ("roi_heads.box_hed", r"no module 'roi_heads\.box_hed'.*did you mean 'roi_heads\.box_head'"),
    ("backbone_fpm", r"did you mean 'backbone_fpn'"),
    ("backbone_fpn,roi_heads", r"'backbone_fpn' \(a preset stands alone\)"),
    ("all_but_new_row", "did you mean 'all_but_novel_rows'"),
    ("class_rows", "nothing is left to train"),
    ("backbone,proposal_generator,roi_heads", "nothing is left to train"),
    (7, "7 is no text"),
]


@pytest.mark.parametrize(("spec", "words"), MISTAKES)
def test_mistakes(spec: Any, words: str, detector: Callable[..., nn.Module]) -> None:
    model = detector()
    with pytest.raises(ConfigError, match=rf"MODEL\.TRANSFER\.FREEZE.*{words}"):
        freeze(model, spec)
    assert trained_parts(model) == ALL, "an error changes nothing"


def test_what_is_frozen_already_counts_and_stays(detector: Callable[..., nn.Module]) -> None:
    model = detector()
    model.roi_heads.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing is left to train"):
        freeze(model, "backbone_fpn_rpn")
    freeze(model, "backbone")
    assert trained_parts(model) == {"FPN", "RPN"}


def test_a_prefix_that_ends_in_a_name() -> None:
    names = ["backbone.fpn_output2.weight", "backbone.bottom_up.stem.conv1.weight"]
    assert names_of("backbone.fpn_", names, "KEY") == {names[0]}


# norm of the backbone, whether its scale and shift are learnt
@pytest.mark.parametrize("affine", [True, False])
def test_statistics_of_frozen_norms_do_not_move(affine: bool) -> None:
    model = nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=affine)),
            "head": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        }
    )
    freeze(model, "backbone")
    for _ in range(2):
        model.eval()
        model.train()
        model["head"](model["backbone"](torch.randn(8, 3) + 5))
    assert model["backbone"][1].running_mean.abs().max() == 0
    assert model["backbone"][1].num_batches_tracked == 0
    assert model["head"][1].num_batches_tracked == 2


def test_a_frozen_rpn_only_proposes(
    detector: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = detector()
    proposed: list[list[Instances]] = []
    graphs: list[bool] = []
    model.roi_heads.register_forward_pre_hook(lambda _, inputs: proposed.append(inputs[2]))
    head = model.proposal_generator.rpn_head
    head.register_forward_hook(lambda _, __, outputs: graphs.append(outputs[0][0].requires_grad))
    before = losses_of(model)
    freeze(model, "proposal_generator")

    def never(*_: Any) -> None:
        raise AssertionError("anchors are labelled")

    with monkeypatch.context() as patched:
        patched.setattr(CertainMatcher, "__call__", never)
        after = losses_of(model)
    assert before.keys() - after.keys() == {"loss_rpn_cls", "loss_rpn_loc"}
    assert torch.equal(proposed[0][0].proposal_boxes.tensor, proposed[1][0].proposal_boxes.tensor)
    assert graphs == [True, False]
    sum(after.values()).backward()
    assert model.backbone.bottom_up.stem.conv1.weight.grad.abs().max() > 0
    with torch.no_grad():
        assert "loss_rpn_cls" in losses_of(model), "validation losses stay comparable"
    model.eval()
    assert len(model.proposal_generator(*rpn_inputs(model))[0][0]) == 5


def rpn_inputs(model: Any) -> tuple[Any, Any]:
    inputs = model.preprocess_image(images())
    return inputs, model.backbone(inputs.tensor)


def test_a_frozen_rpn_gives_the_training_number(detector: Callable[..., nn.Module]) -> None:
    model: Any = detector()
    freeze(model, "backbone_fpn_rpn")
    proposals, losses = model.proposal_generator(*rpn_inputs(model), [images()[0]["instances"]])
    assert (len(proposals[0]), losses) == (PROPOSALS, {})


def test_a_copy_of_a_frozen_detector_is_its_own(detector: Callable[..., nn.Module]) -> None:
    model = detector()
    freeze(model, "backbone_fpn_rpn")
    copied: Any = copy.deepcopy(model)
    copied.proposal_generator.requires_grad_(True)
    assert "loss_rpn_cls" in losses_of(copied)
    assert "loss_rpn_cls" not in losses_of(model)


def test_a_frozen_backbone_builds_no_graph(detector: Callable[..., nn.Module]) -> None:
    model: Any = detector()
    freeze(model, "backbone_fpn")
    features = model.backbone(torch.rand(1, 3, 64, 64))
    assert all(feature.grad_fn is None for feature in features.values())
    assert {"loss_rpn_cls", "loss_cls"} <= losses_of(model).keys()


def test_an_rpn_gives_losses_again_after_its_phase(detector: Callable[..., nn.Module]) -> None:
    model = detector()
    trainer = SimpleTrainer(model, repeat(images()), torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([FreezeSchedule([(1, "backbone_fpn_rpn")])])
    trainer.train(0, 1)
    assert "loss_rpn_cls" not in losses_of(model)
    trainer.train(1, 2)
    assert "loss_rpn_cls" in losses_of(model)
