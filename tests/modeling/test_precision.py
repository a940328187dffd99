"""SOLVER.AMP.ENABLED: what it means on each machine, and that it trains, is saved and resumed."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import detectron2.engine
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from safetensors.torch import load_file
from torch import Tensor, nn

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine import trainer as trainer_module
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling import build as build_module
from transfer_maskrcnn.modeling import precision
from transfer_maskrcnn.modeling.precision import (
    AutocastTrainer,
    autocast_dtype,
    cpu_has_bf16,
    describe_precision,
    prepare_layout,
)

Toy = Callable[..., CfgNode]
Train = Callable[..., Any]
AMP = ("SOLVER.AMP.ENABLED", True)

CPUS = [
    # a line of /proc/cpuinfo, whether it multiplies bf16
    ("flags\t\t: fpu sse2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", True),  # Intel AMX
    ("flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni", True),  # AMD Zen 4
    ("flags\t\t: fpu vme sse2 ht syscall avx avx2 sha_ni", False),  # AMD Zen 2
    ("flags\t\t: fpu sse2 avx512f avx512bw avx512_vnni", False),  # Intel Cascade Lake
    ("Features\t: fp asimd sve asimdhp bf16 i8mm", True),  # VARIANT Neoverse V1
    ("Features\t: fp asimd sve svebf16", True),
    ("Features\t: fp asimd evtstrm aes crc32", False),  # VARIANT Cortex-A72
    ("model name\t: a CPU with bf16", False),
    ("", False),
]


@pytest.mark.parametrize(("line", "expected"), CPUS)
def test_which_cpus_have_bf16(
    line: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvmx flags\t: bf16\n{line}\npower management:\n" * 2)
    monkeypatch.setattr(precision, "_CPUINFO", cpuinfo)
    assert cpu_has_bf16() is expected
    cpuinfo.unlink()
    assert not cpu_has_bf16(), "elsewhere than on Linux it is not known"


MEANINGS = [
    # SOLVER.AMP.ENABLED, device, bf16 on this CPU, compute capability of the card, the type, words
    (False, "cpu", True, None, None, "fp32"),
    (False, "cuda", True, (9, 0), None, "fp32"),
    (True, "cpu", True, None, torch.bfloat16, "bf16 autocast"),
    (
        *(True, "cpu", False, None, None),
        "fp32 (SOLVER.AMP.ENABLED, but this CPU has no bf16 instructions)",
    ),
    (True, "cuda", False, (8, 0), torch.bfloat16, "bf16 autocast"),
    (True, "cuda:1", False, (9, 0), torch.bfloat16, "bf16 autocast"),
    (True, "cuda", True, (7, 5), torch.float16, "fp16 autocast"),
]


@pytest.mark.parametrize(("enabled", "device", "bf16", "capability", "dtype", "words"), MEANINGS)
def test_what_it_means(
    enabled: bool,
    device: str,
    bf16: bool,
    capability: tuple[int, int] | None,
    dtype: torch.dtype | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cfg = load_config("", ["SOLVER.AMP.ENABLED", str(enabled), "MODEL.DEVICE", device])
    assert autocast_dtype(cfg) == dtype
    assert describe_precision(cfg) == words
    model = nn.Conv2d(3, 4, 3)
    prepare_layout(cfg, model)
    assert model.weight.is_contiguous(memory_format=torch.channels_last) is (dtype is not None)


def forced(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    """Whether autocast runs must not depend on the machine that runs the tests."""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: bf16)


def test_without_amp_it_is_detectron2s_own_step(
    toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = train(toy("SOLVER.MAX_ITER", 3))
    monkeypatch.setattr(trainer_module, "step_trainer", lambda cfg, stock: stock)
    monkeypatch.setattr(build_module, "prepare_layout", lambda cfg, model: None)
    stock = train(toy("SOLVER.MAX_ITER", 3))
    assert type(ours.trainer._trainer) is type(stock.trainer._trainer) is SimpleTrainer
    assert ours.losses == stock.losses


def test_a_cpu_without_bf16_trains_in_fp32_and_says_so_once(
    toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forced(monkeypatch, False)
    plain = train(toy("SOLVER.MAX_ITER", 3))
    assert "precision" not in [record.module for record in caplog.records]
    amp = train(toy("SOLVER.MAX_ITER", 3, *AMP))
    assert type(amp.trainer._trainer) is SimpleTrainer
    assert amp.losses == plain.losses
    said = [r for r in caplog.records if r.module == "precision"]
    assert [(r.levelno, r.getMessage()) for r in said] == [
        (logging.WARNING, f"the model runs in {describe_precision(amp.trainer.cfg)}")
    ]


class Gradients(HookBase):
    """Whether all of them are finite, and which parameters have one."""

    def after_step(self) -> None:
        gradients = [p.grad for p in self.trainer.model.parameters()]
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        self.number = len(gradients)


def test_bf16_losses_are_near_those_of_fp32(
    toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch, True)
    gradients = Gradients()
    one = ("SOLVER.MAX_ITER", 1)
    plain, amp = train(toy(*one)), train(toy(*one, *AMP), gradients)
    assert isinstance(amp.trainer._trainer, AutocastTrainer)
    assert gradients.number > 100
    for name, value in plain.losses[0].items():
        assert amp.losses[0][name] == pytest.approx(value, rel=0.02), name
    assert amp.losses != plain.losses, "or nothing was cast"


def layout(tensor: Tensor) -> list[int]:
    """The strides that say where a number lies: not those of sides of one number."""
    return [n for n, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def check_layouts(trainer: Any) -> None:
    """Momentum lies in memory as its parameter does, most of them in channels_last."""
    state = trainer.optimizer.state
    assert len(state) > 100
    assert all(layout(p) == layout(s["momentum_buffer"]) for p, s in state.items())
    rows = [p for p in state if p.ndim == 4 and not p.is_contiguous()]
    assert len(rows) > 20
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in rows)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_and_loads_into_a_stock_model(
    toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch, True)
    straight = train(toy("SOLVER.MAX_ITER", 6, *AMP))
    cfg = toy("SOLVER.MAX_ITER", 3, *AMP)
    first = train(cfg)
    assert straight.losses[:3] == first.losses

    stock = build_model(cfg)
    DetectionCheckpointer(stock).load(str(Path(cfg.OUTPUT_DIR, "model_final.pth")))
    exported = load_file(Path(cfg.OUTPUT_DIR, "model_final.safetensors"))
    trained = first.trainer.model.state_dict()
    assert all(p.is_contiguous() for p in stock.parameters())
    for weights in (stock.state_dict(), exported):
        assert all(torch.equal(weights[name], tensor) for name, tensor in trained.items())

    longer = cfg.clone()
    longer.SOLVER.MAX_ITER = 6
    resumed = train(longer, resume=True)
    assert resumed.losses == straight.losses[3:]
    check_layouts(straight.trainer)
    check_layouts(resumed.trainer)


# what a checkpoint of a machine of another precision holds for the scaler
@pytest.mark.parametrize("before", [None, {}, {"scale": 8.0}])
def test_a_run_goes_on_in_another_precision(
    before: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, scaler = fp16_trainer(monkeypatch)
    state = SimpleTrainer.state_dict(trainer)
    if before is not None:
        state["grad_scaler"] = before and {**scaler.state_dict(), **before}
    trainer.load_state_dict(copy.deepcopy(state))
    assert scaler.get_scale() == (8.0 if before else 1024.0)


class Line(nn.Module):
    """A loss whose gradient is the images' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * images).mean()}


class StubAutocast:
    """Stands for torch.autocast of a card that has no bf16."""

    entered: list[tuple[str, torch.dtype]] = []

    def __init__(self, *arguments: Any):
        self.entered.append(arguments)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


def fp16_trainer(
    monkeypatch: pytest.MonkeyPatch, *images: float
) -> tuple[AutocastTrainer, torch.amp.GradScaler]:
    scaler = partial(torch.amp.GradScaler, "cpu", init_scale=1024.0)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    monkeypatch.setattr(torch, "autocast", StubAutocast)
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    data: Any = [torch.tensor([value]) for value in images]
    trainer = AutocastTrainer(model, data, optimizer, torch.float16)
    return trainer, trainer.grad_scaler


def test_fp16_scales_and_passes_over_steps_that_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, scaler = fp16_trainer(monkeypatch, 3.0, 1e36, 1.0)
    seen: list[tuple[float, float]] = []
    with EventStorage():
        for trainer.iter in range(3):
            trainer.run_step()
            seen.append((trainer.model.weight.item(), scaler.get_scale()))
    # 2 - 0.5 * 3; 1e36 times the scale is infinite; half a step less
    assert seen == [(0.5, 1024.0), (0.5, 512.0), (0.0, 512.0)]
    assert StubAutocast.entered[-3:] == [("cpu", torch.float16)] * 3
    assert trainer.state_dict()["grad_scaler"]["scale"] == 512.0


def test_bf16_is_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, "cpu"))
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    data: Any = [torch.tensor([3.0])]
    trainer = AutocastTrainer(model, data, optimizer, torch.bfloat16)
    assert not trainer.grad_scaler.is_enabled()


@pytest.mark.parametrize("pooler", ["ROIPool", "ROIAlignRotated"])
def test_a_pooler_without_bf16_is_refused(pooler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    opts = ["MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "True"]
    prepare_layout(load_config("", opts), nn.Linear(1, 1))
    cfg = load_config("", [*opts, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", pooler])
    with pytest.raises(ConfigError, match=f"POOLER_TYPE {pooler}.*AMP.ENABLED False"):
        prepare_layout(cfg, nn.Linear(1, 1))


class OldTrainer(TrainerBase):
    """The face of SimpleTrainer in detectron2 0.6: no ``after_backward``, no further arguments."""

    after_backward: Any = None  # calling it would fail

    def __init__(self, model: nn.Module, data_loader: Any, optimizer: torch.optim.Optimizer):
        super().__init__()
        self.model = model.train()
        self.data_loader, self.optimizer = data_loader, optimizer
        self._data_loader_iter = iter(data_loader)
        self.written: list[float] = []

    def _write_metrics(
        self, loss_dict: dict[str, Tensor], data_time: float, prefix: str = ""
    ) -> None:
        self.written.append(sum(loss_dict.values()).item())  # type: ignore[union-attr]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}


def test_it_trains_with_the_trainer_of_detectron2_0_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron2.engine, "SimpleTrainer", OldTrainer)
    found = importlib.util.spec_from_file_location("precision_on_0_6", precision.__file__)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = module.AutocastTrainer(model, [torch.tensor([3.0])], optimizer, torch.bfloat16)
    assert isinstance(trainer, OldTrainer)
    trainer.run_step()
    assert trainer.written == [6.0]
    assert model.weight.item() == 0.5
    assert {"optimizer", "grad_scaler"} <= trainer.state_dict().keys()
