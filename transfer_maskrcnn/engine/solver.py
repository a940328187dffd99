"""A learning rate of its own for each part, and L2-SP regularisation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.solver.build import reduce_param_groups
from torch import Tensor, nn

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.engine.hooks.record import INITIAL_FILE
from transfer_maskrcnn.errors import CheckpointError, ConfigError, refuse
from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.modeling.freezing import names_of
from transfer_maskrcnn.surgery.hook import PLAN_FILE
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.names import grouped, unwrapped

LR_MULTIPLIERS_KEY = "SOLVER.LR_MULTIPLIERS"

logger = logging.getLogger(__name__)


class LatePullSGD(torch.optim.SGD):
    """SGD that calls ``pull`` when nothing but its own update is left to do.

    By then the gradients are unscaled (AMP) and clipped; a step pre-hook of torch comes before
    detectron2's clipping, which is a subclass.

    Attributes:
        pull: changes the gradients in place.
    """

    pull: Callable[[], None] | None = None

    def step(self, closure: Any = None) -> Any:  # detectron2 has no closures
        if self.pull is not None:
            self.pull()
        return super().step(closure)


def with_rates(
    groups: Sequence[dict[str, Any]], model: nn.Module, lr_multipliers: Sequence[Any]
) -> list[dict[str, Any]]:
    """Split an optimizer's groups so that every parameter has its part's learning rate."""
    named = dict(model.named_parameters())
    factor_of = part_factors(lr_multipliers, list(named))
    names = {id(parameter): name for name, parameter in named.items()}
    single = [
        {**group, "params": [p], "lr": group["lr"] * factor_of.get(names[id(p)], 1.0)}
        for group in groups
        for p in group["params"]
    ]
    shown = ", ".join(
        f"{rate} for {sum(group['params'][0].numel() for group in own):,} parameters"
        for rate, own in grouped(single, lambda group: f"{group['lr']:g}").items()
    )
    logger.info("%s: learning rate %s", LR_MULTIPLIERS_KEY, shown)
    return reduce_param_groups(single)


def part_factors(lr_multipliers: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    """Parameter name -> factor, for the names that an entry of ``SOLVER.LR_MULTIPLIERS`` speaks of.

    Args:
        lr_multipliers: [preset of KEEP or module prefixes, factor] pairs; the last that fits wins.
        names: of the model's parameters.

    Raises:
        ConfigError: no such pair or part, or a factor that is no number above 0.
    """
    factors: dict[str, float] = {}
    for pair in lr_multipliers:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ConfigError(
                f"{LR_MULTIPLIERS_KEY}: {pair!r} is no pair of a part and a factor; for example "
                '[["backbone", 0.1]]'
            )
        part, factor = pair
        if type(factor) not in (int, float) or not 0 < factor < math.inf:
            raise ConfigError(
                f"{LR_MULTIPLIERS_KEY}: the factor of {part!r} is {factor!r}; expected a number "
                "above 0. MODEL.TRANSFER.FREEZE keeps a part as it is"
            )
        factors.update(dict.fromkeys(names_of(part, names, LR_MULTIPLIERS_KEY), float(factor)))
    return factors


class L2SP(HookBase):
    """L2-SP (https://arxiv.org/abs/1802.01483): pulls transferred weights to where they started.

    To the gradient of each weight ``w`` it adds ``alpha * (w - start)``, the paper's penalty, and
    takes weight decay out again; weights that were initialised keep their weight decay towards
    zero. Where a tensor received some rows only, it is pulled as a whole. Like weight decay, the
    pull comes after gradient clipping and the AMP scaler, and does not touch parameters that have
    no gradient.

    The start is read from what a run writes before its first iteration, so that a resumed run pulls
    to the same place.
    """

    def __init__(self, cfg: CfgNode):
        """From ``SOLVER.L2_SP`` and ``OUTPUT_DIR``, with ``model_initial.safetensors`` and
        ``transfer_plan.json``."""
        self._alpha = cfg.SOLVER.L2_SP
        self._folder = Path(cfg.OUTPUT_DIR)

    @staticmethod
    def check(cfg: CfgNode, spec: RunSpec | None = None) -> None:
        """Raise ConfigError for a strength that cannot be, or where nothing is transferred."""
        alpha = cfg.SOLVER.L2_SP
        refuse(
            (
                not 0 < alpha < math.inf,
                f"SOLVER.L2_SP is {alpha}; expected 0 (off) or a number above it",
            ),
            (
                not cfg.MODEL.TRANSFER.ENABLED,
                f"SOLVER.L2_SP {alpha} pulls transferred weights towards where they started, but "
                "MODEL.TRANSFER.ENABLED is False; set it True, or SOLVER.L2_SP 0",
            ),
        )

    def before_train(self) -> None:
        """
        Raises:
            CheckpointError: the run's starting point is gone.
            ConfigError: the optimizer is not that of ``TransferTrainer.build_optimizer``, or trains
                nothing that was transferred.
        """
        optimizer = self.trainer.optimizer
        if not isinstance(optimizer, LatePullSGD):
            raise ConfigError(
                f"SOLVER.L2_SP: the optimizer is {type(optimizer).__name__}; expected that of "
                "TransferTrainer.build_optimizer with SOLVER.L2_SP above 0"
            )
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        starts, named = self._read_starts(), unwrapped(self.trainer.model).named_parameters()
        self._pulled = [
            (parameter, starts[name].to(parameter), group_of[id(parameter)])
            for name, parameter in named
            if name in starts and id(parameter) in group_of
        ]
        if not self._pulled:
            raise ConfigError(
                f"SOLVER.L2_SP {self._alpha:g} pulls transferred weights towards where they "
                "started, but no trainable tensor was transferred (MODEL.TRANSFER.KEEP, FREEZE); "
                "set SOLVER.L2_SP 0.0"
            )
        optimizer.pull = self._pull
        logger.info(
            "SOLVER.L2_SP %g: %d tensors (%s parameters) are pulled towards their start",
            *(self._alpha, len(self._pulled), f"{sum(p.numel() for p, *_ in self._pulled):,}"),
        )

    @torch.no_grad()
    def _pull(self) -> None:
        for parameter, start, group in self._pulled:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._alpha)
                parameter.grad.add_(parameter, alpha=-group["weight_decay"])  # SGD adds it back

    def _read_starts(self) -> dict[str, Tensor]:
        """Name -> where it started, of each tensor that was transferred."""
        plan_file, initial_file = self._folder / PLAN_FILE, self._folder / INITIAL_FILE
        for path in (plan_file, initial_file):
            if not path.is_file():
                raise CheckpointError(
                    f"{path} is gone, and SOLVER.L2_SP needs to know where the weights started. "
                    "Start again without --resume, or set SOLVER.L2_SP 0"
                )
        tensors = read_json(plan_file, dict)["tensors"]
        transferred = {t["target"] for t in tensors if t["fate"] in ("kept", "rows")}
        initial = load_weights(initial_file).tensors
        return {name: start for name, start in initial.items() if name in transferred}
