"""Learning rates by part beside stock detectron2's, and L2-SP against steps computed by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import solver
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.solver import L2SP, LatePullSGD, part_factors
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import CheckpointError, ConfigError
from transfer_maskrcnn.modeling.freezing import FreezeSchedule
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.plan import plan_transfer
from transfer_maskrcnn.surgery.read import write_weights

RATE, MOMENTUM, DECAY, ALPHA = 0.1, 0.9, 0.01, 0.5


class Net(nn.Module):
    """Three parts and a norm: 3 numbers in, 2 out."""

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


BACKBONE, FPN, SCORE = (
    "backbone.bottom_up.0.weight",
    "backbone.fpn_output2.weight",
    "cls_score.weight",
)
CLIPPED = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3]
BY_NORM = [*CLIPPED, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    return Net()


def config(*opts: Any) -> CfgNode:
    cfg = load_config("")
    rates = ["SOLVER.BASE_LR", RATE, "SOLVER.MOMENTUM", MOMENTUM, "SOLVER.WEIGHT_DECAY", DECAY]
    cfg.merge_from_list([*rates, *opts])
    return cfg


def plain(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**g, "params": [id(p) for p in g["params"]]} for g in groups]


# options under which our optimizer is detectron2's
STOCK: list[list[Any]] = [
    [],
    ["SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0],
    ["SOLVER.WEIGHT_DECAY_NORM", 0.5, "SOLVER.NESTEROV", True],
    CLIPPED,
    [*BY_NORM, "SOLVER.L2_SP", 0.1],
    ["SOLVER.LR_MULTIPLIERS", [["backbone", 1.0]]],
]


@pytest.mark.parametrize("opts", STOCK)
def test_the_groups_are_detectron2s(opts: list[Any], model: nn.Module) -> None:
    cfg = config(*opts)
    model.cls_score.requires_grad_(False)
    stock, own = solver.build_optimizer(cfg, model), TransferTrainer.build_optimizer(cfg, model)
    assert plain(own.param_groups) == plain(stock.param_groups)
    assert isinstance(own, LatePullSGD) == (cfg.SOLVER.L2_SP > 0)
    for optimizer in (stock, own):
        for parameter in model.backbone.parameters():
            parameter.grad = torch.full_like(parameter, 5.0)
        optimizer.step()
    clipped = [float(p.grad.norm()) < 1 for p in model.backbone.parameters()]
    assert set(clipped) == {cfg.SOLVER.CLIP_GRADIENTS.ENABLED}


# SOLVER.LR_MULTIPLIERS, factors of the backbone's, the FPN's and the predictor's weight
FACTORS: list[tuple[list[Any], tuple[float, float, float]]] = [
    ([["backbone", 0.1]], (0.1, 1, 1)),
    ([["backbone_fpn", 0.1]], (0.1, 0.1, 1)),
    ([["cls_score", 10]], (1, 1, 10)),
    ([["all_but_predictors", 0.1], ["backbone.fpn_", 0.5]], (0.1, 0.5, 1)),
    # the last that fits wins, however narrow the first was
    ([["backbone.fpn_output2", 0.5], ["backbone_fpn", 0.1]], (0.1, 0.1, 1)),
    ([["backbone.bottom_up,cls_score", 3]], (3, 1, 3)),
]


@pytest.mark.parametrize(("lr_multipliers", "factors"), FACTORS)
def test_factors(lr_multipliers: list[Any], factors: tuple[float, ...], model: nn.Module) -> None:
    """Biases have their own factor, which multiplies the part's; the schedule multiplies all."""
    cfg = config("SOLVER.LR_MULTIPLIERS", lr_multipliers, "SOLVER.BIAS_LR_FACTOR", 2.0)
    cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (1,)])
    optimizer = TransferTrainer.build_optimizer(cfg, model)
    schedule = solver.build_lr_scheduler(cfg, optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    for scale in (1.0, 0.1):
        rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
        assert len(rates) == len(names)
        for weight, factor in zip((BACKBONE, FPN, SCORE), factors, strict=True):
            assert rates[weight] == pytest.approx(scale * RATE * factor)
            bias = weight.replace("weight", "bias")
            assert rates[bias] == pytest.approx(scale * RATE * factor * 2)
        optimizer.step()
        schedule.step()


# an entry of SOLVER.LR_MULTIPLIERS, words of the error
BAD_PARTS: list[tuple[Any, str]] = [
    (["backbon", 0.1], "no module 'backbon'.*did you mean 'backbone'"),
    (["backbone", 0], "factor of 'backbone' is 0; expected a number above 0"),
    (["backbone", -1.0], "is -1.0"),
    (["backbone", float("inf")], "is inf"),
    (["backbone", "0.1"], "is '0.1'"),
    (["backbone", True], "is True"),
    (["backbone"], r"\['backbone'\] is no pair"),
    ("backbone", "'backbone' is no pair"),
]


@pytest.mark.parametrize(("entry", "words"), BAD_PARTS)
def test_parts_that_cannot_be(entry: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"SOLVER\.LR_MULTIPLIERS.*{words}"):
        part_factors([entry], [BACKBONE, FPN, SCORE])


@pytest.fixture
def output_dir(model: nn.Module, tmp_path: Path) -> Path:
    """What a run leaves before its first iteration: backbone kept, FPN by rows, the rest new."""
    state = model.state_dict()
    plan = plan_transfer(SourceWeights(state), model, keep="backbone_fpn")
    fates = [replace(t, fate="rows") if "fpn_" in str(t.target) else t for t in plan.tensors]
    (tmp_path / "transfer_plan.json").write_text(replace(plan, tensors=tuple(fates)).to_json())
    write_weights(tmp_path / "model_initial.safetensors", state, {"thing_classes": ["cat"]})
    return tmp_path


def batches(start: int = 0) -> Iterator[Tensor]:
    stream = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(7))
    return iter(stream[start:])


def build_trainer(output_dir: Path, *opts: Any, start: int = 0) -> SimpleTrainer:
    torch.manual_seed(3)
    cfg = config("SOLVER.L2_SP", ALPHA, "OUTPUT_DIR", str(output_dir), *opts)
    net = Net()
    trainer = SimpleTrainer(net, batches(start), TransferTrainer.build_optimizer(cfg, net))
    trainer.register_hooks([FreezeSchedule.from_cfg(cfg), L2SP(cfg)])
    return trainer


def move_away(model: nn.Module) -> None:
    """From where it started, so that the pull is far stronger than rounding."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)


@pytest.mark.parametrize("opts", [[], CLIPPED, BY_NORM])
def test_two_steps_by_hand(opts: list[Any], model: nn.Module, output_dir: Path) -> None:
    """Clipping sees the gradient of the loss alone; then comes the pull, or weight decay."""
    trainer = build_trainer(output_dir, *opts)
    start = model.state_dict()
    move_away(trainer.model)
    state = trainer.model.state_dict()
    weights = {name: state[name].clone() for name in (BACKBONE, FPN, SCORE)}
    velocity = dict.fromkeys(weights, torch.zeros(()))
    reference = copy.deepcopy(trainer.model)
    for step, batch in zip(range(2), batches(), strict=False):
        reference.zero_grad()
        reference(batch)["loss"].backward()
        for name, parameter in reference.named_parameters():
            if "CLIP_TYPE" in str(opts):
                nn.utils.clip_grad_norm_(parameter, 1e-3)
            elif opts:
                nn.utils.clip_grad_value_(parameter, 1e-3)
            if name in weights:
                new = name == SCORE
                w = weights[name]
                pull = DECAY * w if new else ALPHA * (w - start[name])
                velocity[name] = MOMENTUM * velocity[name] + parameter.grad + pull
                weights[name] = w - RATE * velocity[name]
        trainer.train(step, step + 1)
        trained = trainer.model.state_dict()
        for name, expected in weights.items():
            assert torch.allclose(trained[name], expected, rtol=1e-5, atol=1e-7), (step, name)
        reference.load_state_dict(trained)


def test_the_amp_scaler_does_not_scale_the_pull(model: nn.Module, output_dir: Path) -> None:
    trainers = [build_trainer(output_dir, *BY_NORM) for _ in range(2)]
    batch = next(batches())
    for trainer, scale in zip(trainers, (1.0, 1024.0), strict=True):
        trainer.train(0, 0)
        move_away(trainer.model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(2):
            trainer.optimizer.zero_grad()
            scaler.scale(trainer.model(batch)["loss"]).backward()
            scaler.step(trainer.optimizer)
            scaler.update()
    plain, scaled = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.allclose(plain[name], scaled[name], atol=1e-6) for name in plain)


FREEZE_SCHEDULE = ["SOLVER.FREEZE_SCHEDULE", [[2, "backbone"], [2, ""]]]


@pytest.mark.parametrize("opts", [[], BY_NORM, FREEZE_SCHEDULE, [*CLIPPED, *FREEZE_SCHEDULE]])
def test_a_resumed_run_pulls_to_the_same_place(opts: list[Any], output_dir: Path) -> None:
    opts = [*opts, "SOLVER.LR_MULTIPLIERS", [["backbone", 0.5]]]
    straight = build_trainer(output_dir, *opts)
    straight.train(0, 6)
    first = build_trainer(output_dir, *opts)
    first.train(0, 3)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    second = build_trainer(output_dir, *opts, start=3)
    second.model.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    second.train(3, 6)
    expected, resumed = straight.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_frozen_parameters_are_not_pulled(output_dir: Path) -> None:
    trainer = build_trainer(output_dir, "SOLVER.FREEZE_SCHEDULE", [[2, "backbone"]])
    move_away(trainer.model)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train(0, 2)
    after = trainer.model.state_dict()
    assert torch.equal(after[BACKBONE], before[BACKBONE])
    assert not torch.equal(after[FPN], before[FPN])


@pytest.mark.parametrize("name", ["model_initial.safetensors", "transfer_plan.json"])
def test_a_starting_point_that_is_gone(name: str, output_dir: Path) -> None:
    (output_dir / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is gone.*without --resume"):
        build_trainer(output_dir).train(0, 1)


def test_an_optimizer_that_cannot_pull(model: nn.Module, output_dir: Path) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    trainer = SimpleTrainer(model, batches(), optimizer)
    trainer.register_hooks([L2SP(config("OUTPUT_DIR", str(output_dir)))])
    with pytest.raises(ConfigError, match=r"SOLVER\.L2_SP: the optimizer is Adam"):
        trainer.train(0, 1)


# options, words of the error
BAD: list[tuple[list[Any], str]] = [
    (["SOLVER.L2_SP", -0.1], r"SOLVER\.L2_SP is -0\.1; expected 0 \(off\)"),
    (["SOLVER.L2_SP", 0.1, "MODEL.TRANSFER.ENABLED", False], r"MODEL\.TRANSFER\.ENABLED is False"),
]


@pytest.mark.parametrize(("opts", "words"), BAD)
def test_configs_that_cannot_be(opts: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        L2SP.check(config(*opts))
