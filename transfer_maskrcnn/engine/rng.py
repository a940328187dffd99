"""Random numbers that depend on where a run stands, so that a resumed run draws the same ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm


def derive_seed(*numbers: int) -> int:
    """One 32-bit seed from several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def draw_seed() -> int:
    """One that all processes of a run draw together."""
    return int(comm.shared_random_seed() % 2**31)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed ``random``, numpy and torch on the CPU inside the block; outside, they go on as before.

    The generators of CUDA devices are left alone: data loaders use none.
    """
    # detectron2's samplers and augmentations draw from numpy's global generator
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


class StepSeed(HookBase):
    """Seeds torch before each iteration from (seed, process, iteration).

    What the model draws (anchors, proposals, dropout) then depends neither on what came before,
    such as an evaluation, nor on how often the run was interrupted.
    """

    def __init__(self, seed: int):
        self._seed = seed

    def before_step(self) -> None:
        torch.manual_seed(derive_seed(self._seed, comm.get_rank(), self.trainer.iter))
