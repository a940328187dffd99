"""Each loss says by how much the student is off, and asks nothing where it should not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from transfer_maskrcnn.incremental.distillation_losses import (
    BaseClasses,
    background_may_be,
    box_loss,
    class_loss,
    mask_loss,
    objectness_loss,
)

CLASSES = [
    # student, teacher, (row in the student, row in the teacher)
    (["a", "b", "novel"], ["a", "b"], [(0, 0), (1, 1)]),
    (["a", "b", "novel"], ["b", "a"], [(1, 0), (0, 1)]),  # by name
    (["a", "b", "novel"], ["a", "", "b", ""], [(0, 0), (1, 2)]),  # rows without a class
    (["a", "b", "novel"], ["a", "b", "a"], [(0, 0), (1, 1)]),  # one name twice
    (["b", "novel"], ["a", "b"], [(0, 1)]),  # one that the student lacks
]


@pytest.mark.parametrize(("student", "teacher", "rows"), CLASSES)
def test_classes_are_matched_by_name(
    student: list[str], teacher: list[str], rows: list[tuple[int, int]]
) -> None:
    base = BaseClasses.of(student, teacher)
    assert list(zip(base.student.tolist(), base.teacher.tolist(), strict=True)) == rows


BASE = BaseClasses.of(["a", "b", "novel", "newer"], ["b", "", "a"])


def logits(**shares: float) -> Tensor:
    """One box of the student's, from shares of a, b, novel, newer and bg that sum to 1."""
    return torch.tensor([[shares.get(k, 0.0) for k in ("a", "b", "novel", "newer", "bg")]]).log()


TEACHER = torch.tensor([[0.3, 0.0, 0.5, 0.2]]).log()  # b, a row without a class, a, background
CLASS_CASES = [
    # the student's shares, the loss
    ({"a": 0.5, "b": 0.3, "bg": 0.2}, 0.0),
    # what was background may be novel, in any part
    ({"a": 0.5, "b": 0.3, "novel": 0.15, "newer": 0.05}, 0.0),
    ({"a": 0.5, "b": 0.3, "novel": 0.2}, 0.0),
    # what was a base class may not
    (
        {"a": 0.25, "b": 0.3, "novel": 0.25, "bg": 0.2},
        0.5 * math.log(2) + 0.2 * math.log(0.2 / 0.45),
    ),
    # nor another base class
    ({"a": 0.3, "b": 0.5, "bg": 0.2}, 0.5 * math.log(5 / 3) + 0.3 * math.log(3 / 5)),
]


@pytest.mark.parametrize(("shares", "expected"), CLASS_CASES)
def test_novel_classes_count_as_background(shares: dict[str, float], expected: float) -> None:
    assert class_loss(logits(**shares), TEACHER, BASE).item() == pytest.approx(expected, abs=1e-6)


def test_a_row_without_a_class_has_no_share() -> None:
    unnamed = torch.tensor([[0.15, 0.5, 0.25, 0.1]]).log()  # otherwise as TEACHER
    student = logits(a=0.5, b=0.3, bg=0.2)
    assert class_loss(student, unnamed, BASE).item() == pytest.approx(0, abs=1e-6)


def test_boxes_are_smooth_l1() -> None:
    student = torch.tensor([[0.0, 0.0, 0.5, 3.0], [0.0] * 4])
    expected = (0.5**2 / 2 + (3 - 0.5)) / 8
    assert box_loss(student, torch.zeros(2, 4)).item() == pytest.approx(expected)


def test_masks_are_compared_as_probabilities() -> None:
    teacher = torch.zeros(1, 2, 2)
    assert mask_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-7)
    student = torch.full((1, 2, 2), math.log(3))  # 3/4 instead of 1/2
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert mask_loss(student, teacher).item() == pytest.approx(expected)


OBJECTNESS = [
    # student, teacher, loss
    ([0.0, 1.0], [0.0, 1.0], 0.0),
    ([5.0, 9.0], [0.0, 1.0], 0.0),  # a novel object may score as high as it likes
    ([0.0, 1.0], [2.0, 1.0], 1.5 / 2),  # below the teacher
    ([-9.0, 1.0], [-3.0, 1.0], 0.0),  # where the teacher is not sure, nothing is asked
    ([-9.0, -9.0], [-3.0, -3.0], 0.0),  # it is sure of nothing
]


@pytest.mark.parametrize(("student", "teacher", "expected"), OBJECTNESS)
def test_objectness_may_only_rise(
    student: list[float], teacher: list[float], expected: float
) -> None:
    loss = objectness_loss(torch.tensor([student]), torch.tensor([teacher]))
    assert loss.item() == pytest.approx(expected)


EMPTY: list[Callable[[Tensor], Tensor]] = [
    lambda x: class_loss(x.expand(0, 5), torch.zeros(0, 4), BASE),
    lambda x: box_loss(x.expand(0, 4), torch.zeros(0, 4)),
    lambda x: mask_loss(x.expand(0, 7, 7), torch.zeros(0, 7, 7)),
    lambda x: objectness_loss(x.expand(1, 3), torch.full((1, 3), -9.0)),
]


@pytest.mark.parametrize("loss", EMPTY)
def test_without_boxes_they_are_zero_and_can_be_differentiated(
    loss: Callable[[Tensor], Tensor],
) -> None:
    x = torch.ones((), requires_grad=True)
    value = loss(x)
    value.backward()
    assert value.item() == 0 and x.grad is not None and x.grad.item() == 0


numbers = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


@settings(deadline=None)
@given(numbers, numbers)
def test_none_is_negative_and_gradients_are_bounded(mine: list[float], theirs: list[float]) -> None:
    student = torch.tensor([mine], requires_grad=True)
    teacher = torch.tensor([theirs])
    for loss in (
        class_loss(student, teacher[:, :4], BASE),
        mask_loss(student[None], teacher[None]),
        objectness_loss(student, teacher),
    ):
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() >= -1e-5
        assert gradient.abs().max() <= 1 + 1e-5


def test_half_precision_goes_in_and_float32_comes_out() -> None:
    student = logits(a=0.4, b=0.4, novel=0.1, newer=0.05, bg=0.05).bfloat16().requires_grad_()
    loss = class_loss(student, TEACHER.clamp(min=-9).bfloat16(), BASE)
    assert loss.dtype == torch.float32
    loss.backward()
    assert student.grad is not None and student.grad.dtype == torch.bfloat16


def test_background_may_be_a_hidden_class() -> None:
    """Class by class: -log of background and hidden together, where the label is background."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([4, 4, 0, 1, 2, 4])  # 4 is background
    hidden = torch.tensor([1, 3])
    merged = background_may_be(hidden, logits, labels)
    losses = F.cross_entropy(merged, labels, reduction="none")
    probability = logits.softmax(dim=1)
    for row, label in enumerate(labels.tolist()):
        counted = [1, 3, 4] if label == 4 else [label]
        expected = -probability[row, counted].sum().log()
        assert torch.isclose(losses[row], expected), row
    losses.sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    # whoever sees a hidden class where the label is background need not forget it
    sees = torch.tensor([[0.0, 9.0, 0.0, 0.0, 0.0]], requires_grad=True)
    F.cross_entropy(
        background_may_be(hidden, sees, torch.tensor([4])), torch.tensor([4])
    ).backward()
    assert sees.grad is not None and sees.grad.abs().max() < 1e-3


def test_nothing_hidden_is_the_stock_loss() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(0, dtype=torch.int64)
    assert torch.allclose(background_may_be(none, logits, torch.tensor([4] * 6)), logits)
