"""What the teacher is asked, and where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn

from transfer_maskrcnn.incremental import distillation_losses
from transfer_maskrcnn.incremental.distillation_losses import Answers, BaseClasses, ask, of_class

Toy = Callable[..., CfgNode]
BASE = BaseClasses.of(["b", "a", "novel"], ["", "a", "b"])
SIZES = [(64, 64), (48, 64)]


class Teacher:
    """A tiny model with random weights, that is sure of everything, and a batch of two images."""

    def __init__(self, cfg: CfgNode):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
        torch.manual_seed(0)
        self.model: Any = build_model(cfg).eval()
        self.images = ImageList(torch.randn(2, 3, 64, 64), SIZES)
        with torch.no_grad():
            self.features = self.model.backbone(self.images.tensor)

    def answers(self, *novel_objects: Boxes) -> Answers:
        given = novel_objects or (Boxes(torch.zeros(0, 4)),) * 2
        return ask(self.model, BASE, self.images, self.features, given)


@pytest.fixture
def teacher(toy: Toy) -> Teacher:
    return Teacher(toy("MODEL.RPN.POST_NMS_TOPK_TEST", 30))


def test_each_box_has_its_answers(teacher: Teacher) -> None:
    answers = teacher.answers()
    boxes, masks = sum(map(len, answers.proposals)), sum(map(len, answers.mask_boxes))
    assert boxes > 0 and answers.class_logits.shape == (boxes, 4)
    assert answers.sure.tolist() == list(range(boxes)), "random weights give each class about 1/4"
    best = answers.class_logits[:, 1:3].argmax(dim=1)
    assert torch.equal(answers.classes, best) and answers.deltas.shape == (boxes, 4)
    assert answers.masks is not None and answers.masks.shape == (masks, 28, 28)
    together = Boxes.cat(answers.proposals).tensor[answers.sure[answers.sure_of_masks]]
    assert torch.equal(together, Boxes.cat(answers.mask_boxes).tensor)
    assert answers.objectness.shape == (2, 3 * (16**2 + 8**2 + 4**2 + 2**2 + 1))
    assert not any(t.requires_grad for t in vars(answers).values() if isinstance(t, Tensor))


def test_the_surest_boxes_of_each_image_get_masks(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation_losses, "PROPOSALS", 6)
    monkeypatch.setattr(distillation_losses, "MASKS", 2)
    answers = teacher.answers()
    assert [len(boxes) for boxes in answers.proposals] == [6, 6]
    probability = answers.class_logits[:, 1:].softmax(dim=1)[:, :2].amax(dim=1)
    first, second = probability[:6].topk(2).indices, probability[6:].topk(2).indices + 6
    assert answers.sure_of_masks.tolist() == [*first.tolist(), *second.tolist()]


def test_proposals_on_novel_objects_are_passed_over(teacher: Teacher) -> None:
    free = teacher.answers()
    on_object = Boxes(free.proposals[0].tensor[:1])
    answers = teacher.answers(on_object, Boxes(torch.zeros(0, 4)))
    gone = {tuple(box.tolist()) for box in on_object}
    assert gone.isdisjoint(tuple(box.tolist()) for box in answers.proposals[0])
    assert torch.equal(answers.proposals[1].tensor, free.proposals[1].tensor)
    assert len(answers.class_logits) == sum(map(len, answers.proposals))


def test_where_all_is_novel_nothing_is_asked(teacher: Teacher) -> None:
    answers = teacher.answers(*teacher.answers().proposals)
    assert len(answers.class_logits) == len(answers.sure) == len(answers.sure_of_masks) == 0
    assert answers.masks is not None and len(answers.masks) == 0


def test_what_the_teacher_holds_for_background_is_not_compared(teacher: Teacher) -> None:
    nn.init.constant_(teacher.model.roi_heads.box_predictor.cls_score.bias[3:], 9)
    answers = teacher.answers()
    assert len(answers.class_logits) > 0
    assert len(answers.sure) == len(answers.deltas) == sum(map(len, answers.mask_boxes)) == 0


def test_a_model_without_masks(toy: Toy) -> None:
    assert Teacher(toy("MODEL.MASK_ON", False)).answers().masks is None


def test_class_agnostic_outputs_serve_every_class() -> None:
    outputs = torch.arange(6.0).view(3, 2, 1)
    assert of_class(outputs, torch.tensor([1, 0, 1])).flatten().tolist() == [1, 2, 5]
    assert of_class(outputs[:, :1], torch.tensor([1, 0, 1])).flatten().tolist() == [0, 2, 4]
