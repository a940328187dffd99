"""Nothing is learnt from a doubtful object, and everything from the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.freezing import freeze
from transfer_maskrcnn.modeling.rcnn import CertainMatcher

CERTAIN, DOUBTFUL = [6.0, 6.0, 26.0, 26.0], [34.0, 30.0, 58.0, 56.0]  # XYXY in a 64 x 64 image


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_labels_that_do_not_depend_on_the_doubtful(
    objects: int, anchors: int, low_quality: bool, random: Any
) -> None:
    """Against two matchings: one in which the doubtful objects are there, one in which not."""
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    quality = torch.tensor(
        [
            [random.choice([0.05, 0.1, 0.3, 0.5, 0.7, 0.9]) for _ in range(anchors)]
            for _ in range(objects)
        ]
    ).reshape(objects, anchors)
    doubtful = torch.tensor([random.random() < 0.5 for _ in range(objects)], dtype=torch.bool)
    matched, labels = match_anchors(matcher, quality, doubtful)
    there, absent = matcher(quality)[1], matcher(quality[~doubtful])
    for i, label in enumerate(labels.tolist()):
        if label == 0:
            assert there[i] == absent[1][i] == 0, "background either way"
        elif label == 1:
            assert absent[1][i] == 1, "a certain object's"
            assert not doubtful[matched[i]]
            assert quality[matched[i], i] == quality[~doubtful][absent[0][i], i]
        else:
            assert absent[1][i] == -1 or (there[i] != 0 and absent[1][i] == 0)


def test_without_doubtful_objects_it_is_the_stock_matcher() -> None:
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    quality = torch.rand(5, 50, generator=torch.Generator().manual_seed(0))
    ours = match_anchors(matcher, quality, torch.zeros(5, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(ours, matcher(quality), strict=True))


def match_anchors(matcher: Matcher, quality: Tensor, doubtful: Tensor) -> tuple[Tensor, Tensor]:
    ours = CertainMatcher(matcher)
    ours.doubtful = doubtful
    return ours(quality)


def batch(classes: list[int], boxes: list[list[float]]) -> list[dict[str, Any]]:
    """One 64 x 64 image; its objects are rectangles."""
    masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    objects = Instances((64, 64))
    objects.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    objects.gt_classes = torch.tensor(classes, dtype=torch.int64)
    objects.gt_masks = BitMasks(masks)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    return [{"image": image, "height": 64, "width": 64, "instances": objects}]


@pytest.fixture
def model(toy: Callable[..., CfgNode]) -> nn.Module:
    # so many anchors and proposals that all are sampled
    cfg = toy(
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 999
    )
    torch.manual_seed(0)
    return build_model(cfg).train()


class Seen:
    """What a training step looks at: the RPN's predictions, and the proposals of each head."""

    def __init__(self, model: Any):
        self.logits: list[Tensor] = []
        self.anchors: list[Boxes] = []
        self.proposals: Instances | None = None
        self.masked: Instances | None = None
        model.proposal_generator.rpn_head.register_forward_hook(self._keep_logits)
        model.proposal_generator.anchor_generator.register_forward_hook(self._keep_anchors)
        model.roi_heads.mask_head.register_forward_pre_hook(self._keep_masked)
        sample = model.roi_heads.label_and_sample_proposals

        def keep(*args: Any) -> Any:
            found = sample(*args)
            (self.proposals,) = found
            return found

        model.roi_heads.label_and_sample_proposals = keep

    def _keep_logits(self, module: Any, inputs: Any, output: Any) -> None:
        self.logits = [tensor for tensors in output for tensor in tensors]
        for tensor in self.logits:
            tensor.retain_grad()

    def _keep_anchors(self, module: Any, inputs: Any, output: Any) -> None:
        self.anchors = output

    def _keep_masked(self, module: Any, inputs: Any) -> None:
        (self.masked,) = inputs[1]

    def touched(self) -> Tensor:
        """(anchors,) whether the loss has a gradient at the anchor's logit or deltas."""
        levels = len(self.logits) // 2
        found = []
        for logits, deltas in zip(self.logits[:levels], self.logits[levels:], strict=True):
            count = logits.shape[1]
            of_logit = logits.grad.permute(0, 2, 3, 1).flatten() != 0
            of_box = deltas.grad.view(1, count, 4, *deltas.shape[2:]).permute(0, 3, 4, 1, 2)
            found.append(of_logit | (of_box.flatten(0, 3) != 0).any(dim=1))
        return torch.cat(found)


def losses(model: nn.Module, inputs: list[dict[str, Any]], seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    with EventStorage():
        found: dict[str, Tensor] = model(inputs)
    return found


def test_doubtful_objects_have_no_gradient(model: Any) -> None:
    seen = Seen(model)
    sum(losses(model, batch([0, -1], [CERTAIN, DOUBTFUL])).values()).backward()  # type: ignore[union-attr]
    anchors = Boxes.cat(seen.anchors)
    certain, doubtful = (
        pairwise_iou(anchors, Boxes(torch.tensor([b])))[:, 0] for b in (CERTAIN, DOUBTFUL)
    )
    touched = seen.touched()
    uncertain = (doubtful >= 0.3) & (certain < 0.3)
    assert uncertain.sum() > 10, "there are anchors that it matters for"
    assert not touched[uncertain].any()
    clear = (doubtful < 0.3) & (certain < 0.3) & (doubtful < doubtful.max())
    assert touched[clear].all(), "all others are learnt from, near it as well"
    assert touched[certain >= 0.7].all()

    assert seen.proposals is not None and seen.masked is not None
    for proposals in (seen.proposals, seen.masked):
        iou = pairwise_iou(proposals.proposal_boxes, Boxes(torch.tensor([CERTAIN, DOUBTFUL])))
        assert not ((iou[:, 1] >= 0.5) & (iou[:, 1] >= iou[:, 0])).any()
        assert (proposals.gt_classes >= 0).all()
    assert len(seen.masked), "the certain object's"


def test_they_would_have_been_background(model: Any) -> None:
    """The control: where nobody knows of the doubtful object, training says it is not there."""
    seen = Seen(model)
    sum(losses(model, batch([0], [CERTAIN])).values()).backward()  # type: ignore[union-attr]
    anchors = Boxes.cat(seen.anchors)
    certain, doubtful = (
        pairwise_iou(anchors, Boxes(torch.tensor([b])))[:, 0] for b in (CERTAIN, DOUBTFUL)
    )
    assert seen.touched()[(doubtful >= 0.3) & (certain < 0.3)].all()


def test_masks_of_doubtful_objects_do_not_count(model: nn.Module) -> None:
    first = batch([0, -1], [CERTAIN, DOUBTFUL])
    other = batch([0, -1], [CERTAIN, DOUBTFUL])
    other[0]["instances"].gt_masks.tensor[1] = False
    one, two = losses(model, first), losses(model, other)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_doubtful_objects_losses_are_stock(model: Any) -> None:
    inputs = batch([0, 0], [CERTAIN, DOUBTFUL])
    ours = losses(model, inputs)
    rpn = model.proposal_generator
    rpn.__class__, rpn.anchor_matcher = RPN, rpn.anchor_matcher.matcher
    stock = losses(model, inputs)
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@pytest.mark.parametrize("classes", [[], [-1]])
def test_images_of_nothing_certain(model: nn.Module, classes: list[int]) -> None:
    found = losses(model, batch(classes, [DOUBTFUL] * len(classes)))
    assert all(torch.isfinite(loss) for loss in found.values())
    sum(found.values()).backward()  # type: ignore[union-attr]


def test_a_frozen_rpn_and_doubtful_objects(model: Any) -> None:
    freeze(model, "backbone_fpn_rpn")
    found = losses(model, batch([0, -1], [CERTAIN, DOUBTFUL]))
    assert not any("rpn" in name for name in found)


def test_cascades_are_refused(toy: Callable[..., CfgNode]) -> None:
    cfg = toy()
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"])
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True])
    build_model(cfg)
    cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED = True
    with pytest.raises(ConfigError, match="PSEUDO_LABELS with CascadeROIHeads"):
        build_model(cfg)
