"""What a step of training adds, whom it moves, and that no more than that is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import distributed, nn

from transfer_maskrcnn.incremental import distillation
from transfer_maskrcnn.incremental.distillation import Distillation

from .distillation_pair import BASE, Pair, calls_of

Toy = Callable[..., CfgNode]
PARTS = {"loss_distill_cls", "loss_distill_box", "loss_distill_mask", "loss_distill_rpn"}
FROZEN_NORMS = ("MODEL.RESNETS.NORM", "FrozenBN")  # others differ in training and evaluation
RES5: list[Any] = [
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]]),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.ROI_BOX_HEAD.NAME", "", "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
]
AGNOSTIC: list[Any] = [
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
]


@pytest.fixture
def make(toy: Toy) -> Callable[..., Pair]:
    """make(*opts, weight=1.0) -> a Pair with distillation attached."""

    def pair(*opts: Any, weight: float = 1.0) -> Pair:
        made = Pair(toy(*FROZEN_NORMS, *opts), weight)
        made.distillation.attach()
        return made

    return pair


@pytest.mark.parametrize("opts", [[], RES5, AGNOSTIC], ids=["FPN", "Res5", "agnostic"])
def test_nothing_is_lost_at_first(make: Callable[..., Pair], opts: list[Any]) -> None:
    pair = make(*opts)
    with_teacher = pair.losses()
    distilled = {k: with_teacher.pop(k).item() for k in PARTS}
    assert distilled == pytest.approx(dict.fromkeys(PARTS, 0.0), abs=1e-6)
    pair.distillation.detach()
    alone = pair.losses()
    assert {k: v.item() for k, v in with_teacher.items()} == {k: v.item() for k, v in alone.items()}


@pytest.mark.parametrize("opts", [[], RES5, AGNOSTIC], ids=["FPN", "Res5", "agnostic"])
def test_whom_it_moves(make: Callable[..., Pair], opts: list[Any]) -> None:
    pair = make(*opts)
    pair.stir()
    losses = pair.distilled()
    assert losses.keys() == PARTS and all(loss.item() > 1e-6 for loss in losses.values())
    backbone = next(p for n, p in pair.student.named_parameters() if "res4" in n)
    heads = pair.student.roi_heads
    hidden = next(p for n, p in heads.named_parameters() if "fc1" in n or "res5" in n)
    for name, loss in losses.items():
        reached = torch.autograd.grad(
            loss, (backbone, hidden), retain_graph=True, allow_unused=True
        )
        assert reached[0] is not None and reached[0].abs().sum() > 0, name
        only_boxes = name in ("loss_distill_cls", "loss_distill_box") or bool(opts == RES5)
        reaches = reached[1] is not None and bool(reached[1].abs().sum() > 0)
        assert reaches == (only_boxes and name != "loss_distill_rpn"), name
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in pair.teacher.parameters())


ROWS = [
    # loss, layer, numbers a class has in it
    ("loss_distill_box", "box_predictor.bbox_pred", 4),
    ("loss_distill_mask", "mask_head.predictor", 1),
]


@pytest.mark.parametrize(("name", "layer", "size"), ROWS)
def test_boxes_and_masks_leave_novel_rows_alone(
    make: Callable[..., Pair], name: str, layer: str, size: int
) -> None:
    pair = make()
    pair.stir()
    weight = pair.student.roi_heads.get_submodule(layer).weight
    (gradient,) = torch.autograd.grad(pair.distilled()[name], weight)
    moved = gradient.flatten(1).abs().sum(dim=1).view(-1, size).sum(dim=1)
    assert moved[2:].tolist() == [0, 0] and moved[:2].sum() > 0


def test_the_weight_scales_each_loss(make: Callable[..., Pair]) -> None:
    single, triple = make(), make(weight=3.0)
    single.stir(), triple.stir()
    expected = {name: 3 * loss.item() for name, loss in single.distilled().items()}
    found = {name: loss.item() for name, loss in triple.distilled().items()}
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_no_part_of_the_student(make: Callable[..., Pair]) -> None:
    pair = make()
    plain = _build_keys(pair)
    pair.losses()
    assert (list(pair.student.state_dict()), len(list(pair.student.parameters()))) == plain
    pair.distillation.detach()
    assert pair.student.more_losses is None
    assert not pair.student.proposal_generator.rpn_head._forward_hooks


def _build_keys(pair: Pair) -> tuple[list[str], int]:
    pair.distillation.detach()
    keys = list(pair.student.state_dict()), len(list(pair.student.parameters()))
    pair.distillation.attach()
    return keys


def test_each_backbone_runs_once_a_step_and_the_teachers_in_training_alone(
    make: Callable[..., Pair],
) -> None:
    pair = make()
    with calls_of(pair.teacher.backbone) as asked, calls_of(pair.student.backbone) as ran:
        pair.losses()
        assert (len(asked), len(ran)) == (1, 1)
        assert asked[0][0][0] is ran[0][0][0], "the same padded images"
        with torch.no_grad():
            assert not PARTS & pair.losses().keys()
        pair.student.eval()
        pair.student(pair.batch)
        assert (len(asked), len(ran)) == (1, 3)


@pytest.mark.parametrize("preset", ["backbone", "backbone_fpn"])
def test_a_frozen_part_in_common_is_not_run_again(make: Callable[..., Pair], preset: str) -> None:
    pair = make("MODEL.TRANSFER.FREEZE", preset)
    with calls_of(pair.teacher.backbone.bottom_up.stem) as stem:
        assert max(loss.item() for loss in pair.distilled().values()) < 1e-6
        assert not stem
    assert list(pair.teacher.state_dict()) == list(pair.student.state_dict())


def test_a_frozen_part_that_was_trained_before_is_not_in_common(make: Callable[..., Pair]) -> None:
    pair = make("MODEL.TRANSFER.FREEZE", "backbone")
    with torch.no_grad():
        pair.student.backbone.bottom_up.stem.conv1.weight.mul_(1.5)
    with calls_of(pair.teacher.backbone.bottom_up.stem) as stem:
        assert pair.distilled()["loss_distill_box"].item() > 0
        assert len(stem) == 1


def test_a_part_that_a_phase_sets_free_is_run_again(make: Callable[..., Pair]) -> None:
    pair = make("MODEL.TRANSFER.FREEZE", "backbone")
    with calls_of(pair.teacher.backbone.bottom_up.stem) as stem:
        pair.losses()
        pair.student.backbone.requires_grad_(True)
        pair.losses()
        assert len(stem) == 1
        pair.student.backbone.requires_grad_(False)
        pair.losses()
        assert len(stem) == 1
        pair.student.backbone.requires_grad_(True)
        pair.losses()
        pair.stir()
        pair.student.backbone.requires_grad_(False)
        pair.losses()
        assert len(stem) == 3, "it came back changed"


def test_maps_of_a_larger_canvas_are_compared_with_maps_of_that_canvas(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a feature cache gives them, here for a backbone that the teacher does not have."""
    pair = make("MODEL.TRANSFER.FREEZE", "backbone")
    monkeypatch.setattr(distillation, "_same_weights", lambda *modules: False)
    backbone = pair.student.backbone.bottom_up
    compute = backbone.forward
    monkeypatch.setattr(
        backbone, "forward", lambda x: compute(nn.functional.pad(x, (0, 32, 0, 64)))
    )
    assert max(loss.item() for loss in pair.distilled().values()) < 1e-6


def test_a_frozen_rpn_learns_nothing_from_it(make: Callable[..., Pair]) -> None:
    pair = make("MODEL.TRANSFER.FREEZE", "backbone_fpn_rpn")
    assert pair.distilled().keys() == PARTS - {"loss_distill_rpn"}


NEW = [
    # gt_classes, whether it is a novel object
    (0, False),  # a base class that is annotated, or pseudo-labelled
    (1, False),
    (2, True),
    (3, True),
    (-1, False),  # a doubtful base one
]


@pytest.mark.parametrize(("number", "is_novel"), NEW)
def test_proposals_on_annotated_novel_objects_are_passed_over(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, number: int, is_novel: bool
) -> None:
    pair = make()
    asked: list[Any] = []
    stock = distillation.ask

    def spying(*given: Any) -> Any:
        asked.append(given[-1])
        return stock(*given)

    monkeypatch.setattr(distillation, "ask", spying)
    instances = pair.batch[0]["instances"]
    instances.gt_classes[:] = number
    pair.losses()
    expected = instances.gt_boxes.tensor if is_novel else torch.zeros(0, 4)
    assert torch.equal(asked[0][0].tensor, expected)


def test_a_batch_without_any_proposal_to_compare(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make()
    pair.stir()
    stock = distillation.ask

    def nothing(*given: Any) -> Any:
        everywhere = stock(*given).proposals
        return stock(*given[:-1], everywhere)

    monkeypatch.setattr(distillation, "ask", nothing)
    losses = pair.distilled()
    assert losses.pop("loss_distill_rpn").item() > 0
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0)
    sum(losses.values()).backward()  # type: ignore[union-attr]


def test_under_autocast_the_losses_are_float32(make: Callable[..., Pair]) -> None:
    pair = make()
    with torch.autocast("cpu", torch.bfloat16):
        losses = pair.distilled()
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert max(loss.item() for loss in losses.values()) < 1e-3


def test_in_a_parallel_model_gradients_are_the_same(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair = make()
    pair.stir()
    sum(pair.losses().values()).backward()  # type: ignore[union-attr]
    alone = [p.grad for p in pair.student.parameters()]
    pair.student.zero_grad(set_to_none=True)
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(pair.student)
        torch.manual_seed(1)
        with EventStorage():
            sum(parallel(pair.batch).values()).backward()
    finally:
        distributed.destroy_process_group()
    for own, (name, parameter) in zip(alone, pair.student.named_parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, own, msg=name)


def test_hidden_classes_may_be_background(toy: Toy) -> None:
    """``loss_cls`` is smaller, nothing else changes, and evaluation is left alone."""
    pair = Pair(toy(*FROZEN_NORMS))
    pair.distillation.attach()
    plain = pair.losses()
    pair.distillation.detach()
    hidden = Distillation(pair.student, pair.teacher, BASE, 1.0, hidden=BASE.student.tolist())
    hidden.attach()
    merged = pair.losses()
    assert merged["loss_cls"] < plain["loss_cls"]
    assert all(torch.equal(merged[k], plain[k]) for k in plain if k != "loss_cls")
    with torch.no_grad():
        measured = pair.losses()
    assert measured == {k: v for k, v in plain.items() if k not in PARTS}, "nothing is learnt there"
    hidden.detach()
    assert pair.student.more_losses is None
    assert pair.student.roi_heads.box_predictor.before_loss is None
