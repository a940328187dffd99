"""Phases: what moves in each, from whatever iteration a run is resumed, and in two processes."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.freezing import FreezeSchedule, freeze, parse_phases
from transfer_maskrcnn.surgery.names import part_of


class Net(nn.Module):
    """A backbone with a norm, an FPN and a predictor: 3 numbers in, 2 out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "bottom_up": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
                "fpn_output2": nn.Linear(4, 4),
            }
        )
        self.cls_score = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone["fpn_output2"](self.backbone["bottom_up"](x))
        return {"loss": (self.cls_score(features) - 1).square().mean()}


def batches(start: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(7)
    stream = torch.randn(20, 8, 3, generator=generator)
    return iter(stream[start:])


def build_trainer(phases: Sequence[tuple[int, str]], start: int = 0) -> SimpleTrainer:
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    trainer = SimpleTrainer(model, batches(start), optimizer)
    trainer.register_hooks([FreezeSchedule(phases)])
    return trainer


def state_of(trainer: SimpleTrainer) -> dict[str, Tensor]:
    return copy.deepcopy(trainer.model.state_dict())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of which a number changed, statistics included."""
    return {part_of(n) for n in before if not torch.equal(before[n], after[n])}


FREEZE_SCHEDULE = [(2, "backbone_fpn"), (2, "backbone"), (3, ""), (2, "all_but_predictors")]
# iterations done, and what moves in the two after them
ACTIVE = [
    (0, {"predictors"}),
    (2, {"FPN", "predictors"}),
    (4, {"backbone", "FPN", "predictors"}),
    (7, {"predictors"}),  # although the last phase left momentum in the rest
    (9, {"backbone", "FPN", "predictors"}),  # none left: all is trained again
]


@pytest.mark.parametrize("to_none", [True, False])
def test_what_moves_in_each_phase(to_none: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the optimizer keeps gradients as zeros, with which SGD moves a parameter, too."""
    trainer = build_trainer(FREEZE_SCHEDULE)
    trainer.optimizer.zero_grad = partial(trainer.optimizer.zero_grad, set_to_none=to_none)
    done = 0
    with caplog.at_level(logging.INFO, logger="transfer_maskrcnn"):
        for begin, expected in ACTIVE:
            trainer.train(done, begin)
            before = state_of(trainer)
            done = begin + 2
            trainer.train(begin, done)
            assert moved(before, state_of(trainer)) == expected, begin
    assert (
        "iteration 2: training 30 parameters (FPN 20, predictors 10); "
        "frozen: 24 parameters (backbone 24)" in caplog.text
    )


def test_a_part_that_is_trained_again_begins_without_momentum() -> None:
    trainer = build_trainer([(2, ""), (2, "backbone"), (1, "")])
    trainer.train(0, 4)
    weight = trainer.model.backbone["bottom_up"][0].weight
    before = weight.detach().clone()
    trainer.train(4, 5)
    rate, decay = 0.1, 0.1
    assert torch.allclose(weight, before - rate * (weight.grad + decay * before))


@pytest.mark.parametrize("interrupted", [1, 2, 3, 5, 7, 8, 9])
def test_a_resumed_run_is_in_the_right_phase(interrupted: int) -> None:
    straight = build_trainer(FREEZE_SCHEDULE)
    straight.train(0, 10)
    first = build_trainer(FREEZE_SCHEDULE)
    first.train(0, interrupted)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    second = build_trainer(FREEZE_SCHEDULE, start=interrupted)
    second.model.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    second.train(interrupted, 10)
    assert moved(state_of(straight), state_of(second)) == set()


def test_what_was_frozen_before_is_never_trained() -> None:
    trainer = build_trainer([(1, "cls_score")])
    freeze(trainer.model, "backbone")
    before = state_of(trainer)
    trainer.train(0, 3)
    assert moved(before, state_of(trainer)) == {"FPN", "predictors"}


# SOLVER.FREEZE_SCHEDULE, words of the error
BAD_FREEZE_SCHEDULE = [
    ([[200]], r"\[200\] is no pair"),
    ([200, "backbone"], "200 is no pair"),
    ([["backbone", 200]], r"\['backbone', 200\] is no pair"),
    ([[0, "backbone"]], r"\[0, 'backbone'\] is no pair of a positive whole number"),
    ([[2.5, "backbone"]], r"\[2\.5, 'backbone'\] is no pair"),
    ([[True, "backbone"]], r"\[True, 'backbone'\] is no pair"),
    ([[60, "backbone"], [50, ""]], "takes 110 iterations, but SOLVER.MAX_ITER is 100"),
]


@pytest.mark.parametrize(("phases", "words"), BAD_FREEZE_SCHEDULE)
def test_phases_that_cannot_be(phases: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"SOLVER\.FREEZE_SCHEDULE.*{words}"):
        parse_phases(phases, 100)


# what is wrong with a phase that only the model can tell
@pytest.mark.parametrize(
    ("spec", "words"),
    [("backbon", "did you mean 'backbone'"), ("class_rows", "nothing is left to train")],
)
def test_all_phases_are_checked_before_the_first(spec: str, words: str) -> None:
    trainer = build_trainer([(1, "backbone"), (1, spec)])
    with pytest.raises(ConfigError, match=rf"SOLVER\.FREEZE_SCHEDULE.*{words}"):
        trainer.train(0, 1)


def test_from_cfg() -> None:
    cfg = load_config("", ["SOLVER.MAX_ITER", "5", "SOLVER.FREEZE_SCHEDULE", "[[3, 'backbone']]"])
    hook = FreezeSchedule.from_cfg(cfg)
    trainer = build_trainer([])
    trainer.register_hooks([hook])
    before = state_of(trainer)
    trainer.train(0, 3)
    assert moved(before, state_of(trainer)) == {"FPN", "predictors"}


DDP = """
import sys
import torch
from detectron2.engine import SimpleTrainer
from torch import distributed, nn
from transfer_maskrcnn.modeling.freezing import FreezeSchedule

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
    def forward(self, x):
        return {"loss": self.head(self.backbone(x)).square().mean()}

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
generator = torch.Generator().manual_seed(rank)
data = iter(torch.randn(8, 4, 3, generator=generator))
trainer = SimpleTrainer(parallel, data, optimizer)
trainer.register_hooks([FreezeSchedule([(2, "backbone"), (2, "head")])])
trainer.train(0, 6)
assert trainer.model.module is model
torch.save(model.state_dict(), f"{folder}/rank{rank}.pth")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(DDP)
    command = [sys.executable, str(tmp_path / "run.py")]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
