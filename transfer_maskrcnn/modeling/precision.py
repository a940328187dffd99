"""What ``SOLVER.AMP.ENABLED`` means on each device, and the training step that does it."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import nn

from transfer_maskrcnn.errors import ConfigError

logger = logging.getLogger(__name__)

_CPUINFO = Path("/proc/cpuinfo")
# As it names them. Without one of them oneDNN emulates bf16, ten times slower than fp32.
_CPU_BF16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type of ``torch.autocast`` that the config asks for; None is fp32, as detectron2 ships.

    With ``SOLVER.AMP.ENABLED``: bf16 on CPUs with bf16 instructions and on CUDA cards from Ampere
    on, fp16 (with a loss scaler) on older cards, and fp32 on CPUs that would only emulate bf16.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        ampere = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if ampere else torch.float16
    return torch.bfloat16 if cpu_has_bf16() else None


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; False where that cannot be found out."""
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""  # Linux
    flags = (line for line in text.splitlines() if line.startswith(("flags", "Feat")))
    return not _CPU_BF16.isdisjoint(next(flags, "").split())


def describe_precision(cfg: CfgNode) -> str:
    """For logs and ``run.json``: "fp32", "bf16 autocast" ..."""
    if dtype := autocast_dtype(cfg):
        return f"{'bf16' if dtype == torch.bfloat16 else 'fp16'} autocast"
    why = " (SOLVER.AMP.ENABLED, but this CPU has no bf16 instructions)"
    return f"fp32{why if cfg.SOLVER.AMP.ENABLED else ''}"


def prepare_layout(cfg: CfgNode, model: nn.Module) -> None:
    """Convolution weights in channels_last for autocast, whose kernels want it; in place.

    Warns where ``SOLVER.AMP.ENABLED`` asks for what the CPU does not have.

    Raises:
        ConfigError: a pooler that has no bf16 on CPUs.
    """
    if autocast_dtype(cfg) is None:
        if cfg.SOLVER.AMP.ENABLED:
            logger.warning("the model runs in %s", describe_precision(cfg))
        return
    for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD"):
        pooler, device = cfg.MODEL[head].POOLER_TYPE, torch.device(cfg.MODEL.DEVICE).type
        if device == "cpu" and pooler not in ("ROIAlign", "ROIAlignV2", ""):
            raise ConfigError(
                f"MODEL.{head}.POOLER_TYPE {pooler} cannot work in bf16 on a CPU; use ROIAlignV2, "
                "or set SOLVER.AMP.ENABLED False"
            )
    model.to(memory_format=torch.channels_last)


def step_trainer(cfg: CfgNode, stock: SimpleTrainer) -> SimpleTrainer:
    """What runs a step in the precision of ``cfg``: detectron2's own AMPTrainer knows CUDA only."""
    if not cfg.SOLVER.AMP.ENABLED:
        return stock
    parts = stock.model, stock.data_loader, stock.optimizer
    dtype = autocast_dtype(cfg)
    return AutocastTrainer(*parts, dtype) if dtype else SimpleTrainer(*parts)


class AutocastTrainer(SimpleTrainer):
    """What detectron2's AMPTrainer does, on any device, in bf16 or fp16."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype,
    ):
        """
        Args:
            dtype: of autocast. Only fp16 needs its gradients scaled: bf16 has fp32's range.
        """
        super().__init__(model, data_loader, optimizer)
        scaler_type = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # torch < 2.3
        self.grad_scaler = scaler_type(enabled=dtype == torch.float16)
        self._autocast = partial(torch.autocast, next(model.parameters()).device.type, dtype)

    def run_step(self) -> None:
        started = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - started
        with self._autocast():
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state.get("grad_scaler"):  # a run on a device of another precision leaves none
            self.grad_scaler.load_state_dict(state["grad_scaler"])
