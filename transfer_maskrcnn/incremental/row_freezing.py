"""``all_but_novel_rows``: training moves the predictors' rows of novel classes, and nothing else.

The first stage of TFA (https://arxiv.org/abs/2003.06957), in which base classes cannot be
forgotten: what the model says of them, it says as before.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.errors import CheckpointError, ConfigError, WeightFileError
from transfer_maskrcnn.incremental.source import source_facts
from transfer_maskrcnn.modeling.freezing import (
    ALL_BUT_NOVEL_ROWS,
    FREEZE_KEY,
    FREEZE_SCHEDULE_KEY,
    PhaseHook,
    rows_per_class,
)
from transfer_maskrcnn.surgery.hook import load_named_source
from transfer_maskrcnn.surgery.names import unwrapped
from transfer_maskrcnn.text import quoted

logger = logging.getLogger(__name__)


def check_row_freezing(cfg: CfgNode, spec: RunSpec) -> None:
    """
    Args:
        cfg: asks for it, and its classes are known.

    Raises:
        ConfigError: it is asked for without ``MODEL.TRANSFER.EXTEND``, or no class is new.
    """
    key = FREEZE_KEY if cfg.MODEL.TRANSFER.FREEZE == ALL_BUT_NOVEL_ROWS else FREEZE_SCHEDULE_KEY
    if not cfg.MODEL.TRANSFER.EXTEND:
        raise ConfigError(
            f"{key} {ALL_BUT_NOVEL_ROWS} trains the classes that are new to MODEL.WEIGHTS, but "
            "MODEL.TRANSFER.EXTEND is False; set MODEL.TRANSFER.KEEP class_rows and EXTEND "
            f"True, or {key} 'all_but_predictors' to train the rows of all classes"
        )
    try:
        known = load_named_source(cfg).classes or ()
    except WeightFileError:  # gone: a resumed run has its plan
        return
    if set(spec.classes) <= set(known):
        raise ConfigError(
            f"{key} {ALL_BUT_NOVEL_ROWS}: {cfg.MODEL.WEIGHTS} has all classes of DATASETS.TRAIN "
            f"({quoted(known)}), so nothing is left to train; use 'all_but_predictors'"
        )


class _Held:
    """Rows of one parameter (by number, along the first axis) and the values that they keep."""

    def __init__(self, parameter: nn.Parameter, rows: Tensor):
        self.parameter, self.rows = parameter, rows
        self.values = parameter.detach().index_select(0, rows)
        # zeros in place of their gradient, be that infinite
        self.handle = parameter.register_hook(lambda gradient: gradient.index_fill(0, rows, 0))

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo weight decay, pulls and whatever else a step does to weights without a gradient."""
        with torch.no_grad():
            self.parameter.index_copy_(0, self.rows, self.values)
        for state in optimizer.state.get(self.parameter, {}).values():
            if isinstance(state, Tensor) and state.shape == self.parameter.shape:
                state.index_fill_(0, self.rows, 0)  # the momentum of a row that is freed later


class HoldRows(PhaseHook):
    """Holds the rows of all classes but novel ones, and the background's, bit for bit.

    Their gradients are zero before anything sees them, so clipping by norm counts novel rows alone;
    after each step they get their values back. That needs no saved state. Everything else is frozen
    as parts are, by :func:`~transfer_maskrcnn.modeling.freezing.freeze` or ``FreezeSchedule``.

    Goes behind ``WeightSurgeryHook``, ``InitialWeights`` and ``FreezeSchedule``, and before hooks
    that average, save or evaluate.
    """

    def __init__(self, cfg: CfgNode, spec: RunSpec):
        super().__init__(cfg.SOLVER.FREEZE_SCHEDULE)
        always = cfg.MODEL.TRANSFER.FREEZE == ALL_BUT_NOVEL_ROWS
        self._cfg, self._spec = cfg, spec
        self._holds = [*(always or spec == ALL_BUT_NOVEL_ROWS for spec in self._specs), always]
        self._held: list[_Held] = []

    def before_train(self) -> None:
        """
        Raises:
            CheckpointError: nobody knows any more which classes are novel.
        """
        facts = source_facts(self._cfg)
        if facts is None:
            raise CheckpointError(
                f"MODEL.WEIGHTS {self._cfg.MODEL.WEIGHTS} and {self._cfg.OUTPUT_DIR}/run.json "
                f"are gone, and {ALL_BUT_NOVEL_ROWS} needs to know which classes are novel. Put "
                "one of them back, or start again without --resume"
            )
        self._novel = [i for i, name in enumerate(self._spec.classes) if name not in facts.classes]
        if _turns_cosine(self._cfg):
            logger.warning(
                "MODEL.ROI_BOX_HEAD.COSINE_SCALE: the classifier of %s was linear; base classes "
                "are now scored by cosine, which changes what the model says of them, and %s does "
                "not train them. To keep what it said, set COSINE_SCALE 0.0",
                *(facts.weights, ALL_BUT_NOVEL_ROWS),
            )
        self._enter(self.trainer.start_iter)

    def after_step(self) -> None:
        for held in self._held:
            held.restore(self.trainer.optimizer)

    def after_train(self) -> None:
        for held in self._held:
            held.handle.remove()
        self._held = []

    def _enter(self, iteration: int) -> None:
        self.after_train()  # of the phase before
        if self._holds[bisect_right(self._ends, iteration)]:
            self._held = _hold(unwrapped(self.trainer.model), self._novel)
            free = sum(h.parameter.numel() - h.values.numel() for h in self._held)
            logger.info(
                "iteration %d: of the predictors, only the rows of %d novel classes are trained "
                "(%s parameters)",
                *(iteration, len(self._novel), f"{free:,}"),
            )


def _turns_cosine(cfg: CfgNode) -> bool:
    """Whether rows of a linear classifier, which has a bias, have gone into one without."""
    if not cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE:
        return False
    try:
        return any(name.endswith("cls_score.bias") for name in load_named_source(cfg).tensors)
    except WeightFileError:  # gone: it was said when the run began
        return False


def _hold(model: nn.Module, novel: Collection[int]) -> list[_Held]:
    """Hold all rows that are not of the classes ``novel``, of each parameter that trains."""
    parameters = dict(model.named_parameters())
    held = []
    for name, per_class in rows_per_class(model).items():
        parameter = parameters[name]
        if parameter.requires_grad:
            free = {per_class * k + row for k in novel for row in range(per_class)}
            numbers = [row for row in range(len(parameter)) if row not in free]
            held.append(_Held(parameter, torch.tensor(numbers, device=parameter.device)))
    return held
