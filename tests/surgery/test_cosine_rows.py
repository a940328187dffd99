"""Rows between a linear classifier and one that has no bias (COSINE_SCALE)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.plan import apply_plan, plan_transfer

Tiny = Callable[..., nn.Module]
SCORE = "roi_heads.box_predictor.cls_score"
OLD = ("cat", "dog", "owl")
NEW = ("owl", "newt")


def without_bias(model: nn.Module) -> nn.Module:
    model.get_submodule(SCORE).bias = None  # type: ignore[assignment]
    return model


# whether source and target score by cosine; fate and reason of the bias, None where it moves
PAIRS = [
    (False, True, "dropped", "the model scores by cosine (COSINE_SCALE), which has no bias"),
    (True, False, "initialised", "the source scores by cosine (COSINE_SCALE), which has no bias"),
    (True, True, None, ""),
]


@pytest.mark.parametrize(("there", "here", "fate", "reason"), PAIRS)
def test_rows_move_without_a_bias(
    there: bool, here: bool, fate: str | None, reason: str, tiny: Tiny
) -> None:
    old, new = tiny(3), tiny(2, seed=1)
    old, new = without_bias(old) if there else old, without_bias(new) if here else new
    source = SourceWeights(old.state_dict(), "source.pth", OLD)
    plan = plan_transfer(source, new, keep="class_rows", target_classes=NEW)
    assert plan.check() == (), "nothing that strict mode refuses"
    biases = [t for t in plan.tensors if f"{SCORE}.bias" in (t.target, t.source)]
    assert [t.fate for t in biases] == ([fate] if fate else [])
    assert all(t.reason.startswith(reason) for t in biases)
    assert ("COSINE_SCALE" in plan.table()) == bool(fate)
    before = new.state_dict()[f"{SCORE}.weight"].clone()
    apply_plan(plan, source, new)
    rows, theirs = new.state_dict()[f"{SCORE}.weight"], old.state_dict()[f"{SCORE}.weight"]
    assert torch.equal(rows[[0, 2]], theirs[[2, 3]]), "owl and the background"
    assert torch.equal(rows[1], before[1])


def test_other_presets_start_the_classifier_anew(tiny: Tiny) -> None:
    source = SourceWeights(tiny(3).state_dict(), "source.pth", OLD)
    plan = plan_transfer(source, without_bias(tiny(2)), target_classes=NEW)
    assert plan.check() == ()
    assert {t.fate for t in plan.tensors if t.target == f"{SCORE}.weight"} == {"initialised"}
