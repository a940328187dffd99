"""The average of the weights: by the formula, through a resume, into the model and out of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer
from torch import Tensor, nn

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.hooks.weights import WeightAverage
from transfer_maskrcnn.errors import ConfigError

DECAY = 0.4  # reached at the fifth iteration
DECAYS = [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4]


class Net(nn.Module):
    """A frozen layer, a norm and a trained one: 3 numbers in, 2 out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)
        self.backbone[0].requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.head(self.backbone(x)) - 1).square().mean()}


class Record(HookBase):
    """The weights after the surgery and after every iteration."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def before_train(self) -> None:
        self.states.append(copy.deepcopy(self.trainer.model.state_dict()))

    after_step = before_train


class Surgery(HookBase):
    """Stands for the hook that moves weights in before the first iteration."""

    def before_train(self) -> None:
        nn.init.constant_(self.trainer.model.head.weight, 2.0)


def batches() -> Iterator[Tensor]:
    return iter(torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(7)))


def build_trainer(start: int = 0) -> tuple[SimpleTrainer, WeightAverage, Record]:
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9
    )
    trainer = SimpleTrainer(model, islice(batches(), start, None), optimizer)
    average, record = WeightAverage(DECAY), Record()
    trainer.register_hooks([Surgery() if start == 0 else None, average, record])
    return trainer, average, record


def averaged(average: WeightAverage) -> dict[str, Tensor]:
    with average.applied():
        return copy.deepcopy(average.trainer.model.state_dict())


def test_it_follows_the_formula() -> None:
    trainer, average, record = build_trainer()
    trainer.train(0, 6)
    expected = record.states[0]
    assert (expected["head.weight"] == 2).all(), "it begins after the surgery"
    for decay, state in zip(DECAYS, record.states[1:], strict=True):
        expected = {
            name: decay * expected[name] + (1 - decay) * tensor for name, tensor in state.items()
        }
    found = averaged(average)
    for name in ("head.weight", "head.bias", "backbone.1.weight", "backbone.1.running_mean"):
        assert torch.allclose(found[name], expected[name], atol=1e-6), name
        assert not torch.allclose(found[name], record.states[-1][name], atol=1e-3), name
    assert found["backbone.1.num_batches_tracked"] == 6


def test_frozen_weights_do_not_drift() -> None:
    trainer, average, record = build_trainer()
    trainer.train(0, 6)
    found = averaged(average)
    assert torch.equal(found["backbone.0.weight"], record.states[0]["backbone.0.weight"])


def test_a_resumed_run_continues_it(tmp_path: Path) -> None:
    straight, expected, _ = build_trainer()
    straight.train(0, 6)
    first, _, _ = build_trainer()
    first.train(0, 3)
    DetectionCheckpointer(first.model, str(tmp_path), trainer=first).save("model_0000002")
    second, resumed, _ = build_trainer(start=3)
    DetectionCheckpointer(second.model, str(tmp_path), trainer=second).resume_or_load("")
    second.train(3, 6)
    for wanted, found in (
        (averaged(expected), averaged(resumed)),
        (straight.model.state_dict(), second.model.state_dict()),
    ):
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_checkpoint_without_an_average(caplog: pytest.LogCaptureFixture) -> None:
    trainer, average, record = build_trainer(start=3)
    with caplog.at_level("INFO"):
        trainer.train(3, 3)
    assert "it begins with the weights of iteration 3" in caplog.text
    found = averaged(average)
    assert all(torch.equal(found[name], tensor) for name, tensor in record.states[0].items())


def test_the_model_gets_its_own_weights_back() -> None:
    trainer, average, _ = build_trainer()
    trainer.train(0, 3)
    weight = trainer.model.head.weight
    trained, mean = weight.detach().clone(), averaged(average)["head.weight"]
    with pytest.raises(RuntimeError, match="evaluation"), average.applied():
        assert torch.equal(weight, mean)
        with average.applied():
            assert torch.equal(weight, mean)
        assert torch.equal(weight, mean), "an inner block takes nothing out"
        raise RuntimeError("evaluation")
    assert torch.equal(weight, trained)
    assert torch.equal(averaged(average)["head.weight"], mean)


def test_before_the_first_iteration_there_is_nothing_to_apply() -> None:
    trainer, average, _ = build_trainer()
    before = trainer.model.head.weight.detach().clone()
    with average.applied():
        assert torch.equal(trainer.model.head.weight, before)


@pytest.mark.parametrize("decay", [-0.5, 1.0, 1.5, float("nan")])
def test_a_decay_that_cannot_be(decay: float) -> None:
    cfg = load_config("")
    cfg.SOLVER.EMA_DECAY = decay
    with pytest.raises(ConfigError, match=r"SOLVER\.EMA_DECAY is .*; expected 0 \(no average\)"):
        WeightAverage.check(cfg)
