"""An exponential moving average of the weights, which often scores better than the last ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.names import unwrapped

logger = logging.getLogger(__name__)


class WeightAverage(HookBase):
    """Averages weights and norm statistics over the iterations, as Polyak averaging with decay.

    After each iteration ``average += (1 - d) * (weights - average)`` with the decay
    ``d = min(decay, (1 + n) / (10 + n))``, n iterations averaged before: for the first
    ``9 / (1 - decay)`` or so the average forgets faster, so that it is not mostly the start.
    What does not move, such as a frozen part, equals its average to the last bit. Counters are
    copied. (torch's ``AveragedModel`` has such averages from 2.1 on, with a fixed decay.)

    Its state is saved with the trainer's.
    """

    def __init__(self, decay: float):
        """
        Args:
            decay: above 0 and below 1; the average looks back about ``1 / (1 - decay)`` iterations.

        Raises:
            ConfigError: it is not.
        """
        if not 0 < decay < 1:
            raise ConfigError(
                f"SOLVER.EMA_DECAY is {decay}; expected 0 (no average) or a number between 0 and "
                "1, such as 0.998, which looks back about 500 iterations"
            )
        self._decay = decay
        self._iterations = 0
        self._average: dict[str, Tensor] = {}

    @classmethod
    def from_cfg(cls, cfg: CfgNode, spec: RunSpec | None = None) -> WeightAverage | None:
        """From ``SOLVER.EMA_DECAY``; None where it is 0."""
        return cls(cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None

    def before_train(self) -> None:
        weights = self._weights()
        if self._average:
            self._average = {k: v.to(weights[k]) for k, v in self._average.items()}
            return
        if self.trainer.start_iter > 0:
            logger.info(
                "SOLVER.EMA_DECAY: the checkpoint holds no average; it begins with the weights of "
                "iteration %d",
                self.trainer.start_iter,
            )
        self._average = {name: tensor.clone() for name, tensor in weights.items()}

    def after_step(self) -> None:
        decay = min(self._decay, (1 + self._iterations) / (10 + self._iterations))
        self._iterations += 1
        for name, tensor in self._weights().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, 1 - decay)
            else:
                self._average[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards, or after an error, its own."""
        trained = {name: tensor.clone() for name, tensor in self._weights().items()}
        try:
            self._put(self._average)
            yield
        finally:
            self._put(trained)

    def state_dict(self) -> dict[str, Any]:
        return {"iterations": self._iterations, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iterations = state["iterations"]
        self._average = {name: tensor.clone() for name, tensor in state["average"].items()}

    def _weights(self) -> dict[str, Tensor]:
        """The model's own tensors: parameters and statistics that a checkpoint holds."""
        state = unwrapped(self.trainer.model).state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        weights = self._weights()
        with torch.no_grad():
            for name, tensor in tensors.items():
                weights[name].copy_(tensor)
