"""Random numbers that depend on place alone."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch
from detectron2.utils.env import seed_all_rng

from transfer_maskrcnn.data.loader import derive_seed, seeded
from transfer_maskrcnn.engine.hooks.record import StepSeed


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002


def test_a_block_draws_its_own_numbers_and_leaves_the_others_alone() -> None:
    seed_all_rng(1)
    undisturbed = [draw(), draw()]
    seed_all_rng(1)
    first = draw()
    with seeded(7):
        inside = draw()
    assert [first, draw()] == undisturbed
    with seeded(7):
        assert draw() == inside
    with seeded(8):
        assert draw() != inside


def test_the_generators_come_back_after_an_error() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    try:
        with seeded(0):
            raise KeyError
    except KeyError:
        assert torch.rand(1) == expected


def test_a_step_draws_the_same_whatever_came_before() -> None:
    hook = StepSeed(5)
    hook.trainer = SimpleNamespace(iter=12)  # type: ignore[assignment]
    hook.before_step()
    expected = torch.rand(3)
    torch.rand(99)  # an evaluation, say
    hook.before_step()
    assert torch.equal(torch.rand(3), expected)
    hook.trainer.iter = 13
    hook.before_step()
    assert not torch.equal(torch.rand(3), expected)


def test_near_numbers_give_different_seeds() -> None:
    assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900
