"""Parts that keep their weights: for a whole run, or for phases that it begins with."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from transfer_maskrcnn.compat import BatchNorm, Dropout
from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.surgery.names import (
    PRESETS,
    class_axes,
    parse_keep,
    part_of,
    under,
    unwrapped,
)

FREEZE_KEY = "MODEL.TRANSFER.FREEZE"
FREEZE_SCHEDULE_KEY = "SOLVER.FREEZE_SCHEDULE"
ALL_BUT_NOVEL_ROWS = "all_but_novel_rows"
Phase = tuple[int, str]  # iterations, and what is frozen for so long

logger = logging.getLogger(__name__)


def names_of(spec: str, names: Collection[str], key: str) -> set[str]:
    """The tensors that a preset of KEEP, or module prefixes, comma-separated, speak of.

    Args:
        spec: "" speaks of none, as does "random_init".
        names: of the model's tensors.
        key: the configuration key that ``spec`` comes from, for messages.

    Raises:
        ConfigError: a prefix that no tensor lies under.
    """
    if not isinstance(spec, str):
        raise ConfigError(f"{key}: {spec!r} is no text; expected {_EXPECTED}")
    wanted = parse_keep(spec)
    if isinstance(wanted, str):
        return {name for name in names if part_of(name) in PRESETS[wanted]}
    chosen: set[str] = set()
    for prefix in wanted:
        found = {name for name in names if under(name, prefix)}
        if not found:
            alone = " (a preset stands alone)" if prefix in PRESETS else ""
            known = {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 1)}
            known |= {*PRESETS, *([ALL_BUT_NOVEL_ROWS] if "FREEZE" in key else [])}
            raise ConfigError(
                f"{key} {spec!r}: the model has no module {prefix!r}{alone}; expected {_EXPECTED}"
                f"{nearest(prefix, known - {prefix})}"
            )
        chosen |= found
    return chosen


_EXPECTED = f"one of {', '.join(PRESETS)}, or module prefixes, comma-separated"


def frozen_names(model: nn.Module, trainable: Collection[str], spec: str, key: str) -> set[str]:
    """The parameters, and the running means of norms, that a value of ``key`` freezes.

    With "all_but_novel_rows", all but the predictors that have rows of classes; which of those rows
    are held is the business of :class:`~transfer_maskrcnn.incremental.row_freezing.HoldRows`. Else
    as :func:`names_of`.

    Raises:
        ConfigError: as :func:`names_of`, or none of the ``trainable`` parameters is left to train.
    """
    names = {*dict(model.named_parameters()), *_norms(model)}
    chosen = names - rows_per_class(model).keys()
    if spec != ALL_BUT_NOVEL_ROWS:
        chosen = names_of(spec, names, key)
    if chosen.issuperset(trainable):
        raise ConfigError(
            f"{key} {spec!r}: nothing is left to train; freeze less, for example 'backbone_fpn'"
        )
    return chosen


def rows_per_class(model: nn.Module) -> dict[str, int]:
    """Parameter -> how many rows each class has in it, for predictors that have any.

    Row ``per_class * k`` is class ``k``'s first, along the first axis; in ``cls_score`` the
    background's follows the last class. Class-agnostic predictors are not in it.

    Args:
        model: a detector with ``roi_heads``, not wrapped.
    """
    count: Any = getattr(getattr(model, "roi_heads", None), "num_classes", None)
    return {
        name: axis.per_class
        for name, shape in ((name, tuple(p.shape)) for name, p in model.named_parameters())
        if part_of(name) == "predictors" and name.startswith("roi_heads.")
        for axis in class_axes(name, shape, shape, (count, count), None) or ()
        if axis.axis == 0
    }


def freeze(model: nn.Module, spec: str) -> None:
    """Freeze the parts that ``spec`` names, for good; what is frozen already stays frozen.

    Their norms keep their running statistics, too, whatever ``model.train()`` says later. A frozen
    RPN gives no losses. Call it before the optimizer and DistributedDataParallel see the model.

    Args:
        model: as built; changed in place.
        spec: the value of ``MODEL.TRANSFER.FREEZE``, see :func:`frozen_names`.

    Raises:
        ConfigError: no such module, or nothing is left to train.
    """
    parameters, norms = dict(model.named_parameters()), _norms(model)
    trainable = {name: p for name, p in parameters.items() if p.requires_grad}
    chosen = frozen_names(model, trainable, spec, FREEZE_KEY)
    for name in chosen:
        if name in norms:
            _hold_statistics(norms[name])
        else:
            parameters[name].requires_grad_(False)
    if chosen:
        rest = {name: p for name, p in trainable.items() if name not in chosen}
        logger.info("%s %s: training %s", FREEZE_KEY, spec, _by_part(rest))


def _by_part(parameters: Mapping[str, nn.Parameter]) -> str:
    """ "1,500 parameters (RPN 500, predictors 1,000)"."""
    counts: dict[str, int] = {}
    for name, parameter in parameters.items():
        counts[part_of(name)] = counts.get(part_of(name), 0) + parameter.numel()
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"{sum(counts.values()):,} parameters" + (f" ({parts})" if parts else "")


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """The norm layers whose statistics follow the images, by the name of their running mean."""
    return {
        f"{name}.running_mean": module
        for name, module in model.named_modules()
        if getattr(module, "track_running_stats", False)
    }


def _hold_statistics(norm: nn.Module) -> RemovableHandle:
    # model.train() after each evaluation would set the norm free; its own next forward ends that.
    norm.eval()
    return norm.register_forward_pre_hook(_stay_in_eval)


def is_frozen(module: nn.Module) -> bool:
    """Whether training leaves ``module`` as it is, so that an image always gets the same output."""
    learns = any(parameter.requires_grad for parameter in module.parameters())
    return not learns and not any(map(_may_vary, module.modules()))


def _may_vary(layer: nn.Module) -> bool:
    """Whether a layer without trainable weights draws at random, or follows the images."""
    name = type(layer).__name__.lower()
    if isinstance(layer, Dropout) or "drop" in name or "stochastic" in name:
        return bool(getattr(layer, "p", getattr(layer, "drop_prob", None)) != 0)
    if isinstance(layer, BatchNorm) and not layer.track_running_stats:
        return True  # it has no statistics but the batch's, in evaluation, too
    held = _stay_in_eval in layer._forward_pre_hooks.values()
    return getattr(layer, "track_running_stats", False) and not held


def _stay_in_eval(norm: nn.Module, _: Any) -> None:
    norm.eval()


def parse_phases(value: Any, max_iter: int) -> tuple[Phase, ...]:
    """``SOLVER.FREEZE_SCHEDULE`` as (iterations, FREEZE) pairs.

    Raises:
        ConfigError: no such pairs, or more than ``max_iter`` iterations altogether.
    """
    for pair in value:
        well = isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], str)
        if not well or type(pair[0]) is not int or pair[0] < 1:
            raise ConfigError(
                f"{FREEZE_SCHEDULE_KEY}: {pair!r} is no pair of a positive whole number of "
                'iterations and what is frozen; for example [[200, "all_but_predictors"], '
                '[200, "backbone"]]'
            )
    phases = tuple((iterations, spec) for iterations, spec in value)
    if (total := sum(iterations for iterations, _ in phases)) > max_iter:
        raise ConfigError(
            f"{FREEZE_SCHEDULE_KEY} takes {total} iterations, but SOLVER.MAX_ITER is {max_iter}; "
            "shorten the phases, or train for longer"
        )
    return phases


class PhaseHook(HookBase):
    """Does what it does before training, and anew where a phase of FREEZE_SCHEDULE begins."""

    def __init__(self, phases: Sequence[Sequence[Any]]):
        """
        Args:
            phases: (iterations, what is frozen for so long) pairs.
        """
        self._specs = [spec for _, spec in phases]
        self._ends = list(accumulate(iterations for iterations, _ in phases))

    def before_step(self) -> None:
        if self.trainer.iter in self._ends and self.trainer.iter > self.trainer.start_iter:
            self._enter(self.trainer.iter)

    def _enter(self, iteration: int) -> None:
        raise NotImplementedError


class FreezeSchedule(PhaseHook):
    """Freezes parts for the first iterations: phase after phase, then nothing more than before.

    Which phase is on depends on the iteration alone, so a resumed run needs no saved state. A
    parameter that is frozen has no gradient and no momentum, so neither weight decay nor what an
    earlier phase left behind moves it; when it is trained again, its momentum begins at zero.

    Goes behind ``WeightSurgeryHook``, whose plan takes what is frozen to be frozen for good.
    """

    def __init__(self, phases: Sequence[Phase]):
        """
        Args:
            phases: (iterations, what is frozen as in ``MODEL.TRANSFER.FREEZE``) pairs.
        """
        super().__init__(phases)
        self._trainable: dict[str, nn.Parameter] = {}
        self._held: list[tuple[nn.Module, RemovableHandle]] = []

    @classmethod
    def from_cfg(cls, cfg: CfgNode, spec: RunSpec | None = None) -> FreezeSchedule:
        """From ``SOLVER.FREEZE_SCHEDULE``. Raises as :func:`parse_phases`."""
        return cls(parse_phases(cfg.SOLVER.FREEZE_SCHEDULE, cfg.SOLVER.MAX_ITER))

    def before_train(self) -> None:
        """Raises ConfigError where a phase names no module or leaves nothing to train."""
        model = unwrapped(self.trainer.model)
        if not self._trainable:
            self._trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._norms = _norms(model)
        self._frozen = [
            frozen_names(model, self._trainable, spec, FREEZE_SCHEDULE_KEY) for spec in self._specs
        ]
        self._enter(self.trainer.start_iter)

    def _enter(self, iteration: int) -> None:
        model = unwrapped(self.trainer.model)
        frozen = [*self._frozen, set()][bisect_right(self._ends, iteration)]
        changed = any(p.requires_grad == (n in frozen) for n, p in self._trainable.items())
        for name, parameter in self._trainable.items():
            parameter.requires_grad_(name not in frozen)
            if name in frozen:  # SGD moves what has a gradient, be it zero, or a momentum
                parameter.grad = None
                self.trainer.optimizer.state.pop(parameter, None)
        for norm, handle in self._held:
            handle.remove()
            norm.train(model.training)
        norms = [norm for name, norm in self._norms.items() if name in frozen]
        self._held = [(norm, _hold_statistics(norm)) for norm in norms]
        parallel = self.trainer.model
        if changed and isinstance(parallel, DistributedDataParallel):
            # A wrapper reduces the gradients of those parameters alone that were trainable when it
            # was made, and waits for each of them.
            self.trainer.model = DistributedDataParallel(
                parallel.module,
                device_ids=parallel.device_ids,
                broadcast_buffers=parallel.broadcast_buffers,
                find_unused_parameters=parallel.find_unused_parameters,
            )
        logger.info(
            "iteration %d: training %s; frozen: %s",
            iteration,
            _by_part({n: p for n, p in model.named_parameters() if p.requires_grad}),
            _by_part({n: p for n, p in model.named_parameters() if not p.requires_grad}),
        )
