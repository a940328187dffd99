"""The weights that a run evaluates and keeps: their average, and the best; and an early end where
they get no better."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer
from transfer_maskrcnn.engine.evaluation import sets_to_test
from transfer_maskrcnn.engine.hooks.record import StopTraining
from transfer_maskrcnn.errors import ConfigError, nearest, refuse
from transfer_maskrcnn.surgery.load import BEST_NAME
from transfer_maskrcnn.surgery.names import unwrapped

logger = logging.getLogger(__name__)


class WeightAverage(HookBase):
    """An exponential moving average of the weights, which often scores better than the last ones.

    It averages weights and norm statistics over the iterations, as Polyak averaging with decay.

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
        """
        self._decay = decay
        self._iterations = 0
        self._average: dict[str, Tensor] = {}

    @staticmethod
    def check(cfg: CfgNode, spec: RunSpec | None = None) -> None:
        """Raise ConfigError for a decay that cannot be."""
        decay = cfg.SOLVER.EMA_DECAY
        if not 0 < decay < 1:
            raise ConfigError(
                f"SOLVER.EMA_DECAY is {decay}; expected 0 (no average) or a number between 0 and "
                "1, such as 0.998, which looks back about 500 iterations"
            )

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
        self._average = _copied(weights)

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
        trained = _copied(self._weights())
        try:
            self._put(self._average)
            yield
        finally:
            self._put(trained)

    def state_dict(self) -> dict[str, Any]:
        return {"iterations": self._iterations, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iterations, self._average = state["iterations"], _copied(state["average"])

    def _weights(self) -> dict[str, Tensor]:
        """The model's own tensors, without their graph: parameters and statistics."""
        return unwrapped(self.trainer.model).state_dict()

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        weights = self._weights()
        for name, tensor in tensors.items():
            weights[name].copy_(tensor)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


class BestCheckpoint(HookBase):
    """Keeps the weights of the best evaluation as ``model_best.pth``, and may end training.

    The file holds weights, classes and the evaluation, and no optimizer: ``--resume`` goes on from
    the last checkpoint, as without this hook. What was evaluated is known by its iteration, so an
    evaluation that a resumed run repeats, or is told of again, counts once.

    Told of evaluations by :meth:`on_evaluation`; :class:`StopTraining` is raised at the end of an
    iteration.
    """

    def __init__(
        self,
        checkpointer: TransferCheckpointer,
        metric: str,
        *,
        patience: int = 0,
        evaluated: Callable[[], AbstractContextManager[None]] = nullcontext,
        end_at: Callable[[int], None] = lambda iteration: None,
    ):
        """
        Args:
            checkpointer: writes the file, in the main process.
            metric: higher is better, except for names that begin with ``val_loss``.
            patience: above 0, training ends after so many evaluations in a row that were not
                better than the best before them.
            evaluated: inside it, the model has the weights that are evaluated, such as
                ``WeightAverage.applied``.
            end_at: called with the number of iterations done before training is ended.
        """
        self._checkpointer = checkpointer
        self._metric = metric
        self._sign = -1 if metric.startswith("val_loss") else 1
        self._patience = patience
        self._evaluated = evaluated
        self._end_at = end_at
        self._values: dict[int, float | None] = {}

    def on_evaluation(self, row: dict[str, Any]) -> None:
        """Take note of an evaluation; save the weights where it is the best so far.

        Args:
            row: ``iteration``, how many were done before it, and figures by name, such as
                ``segm/AP``; None or NaN is never the best. Only that of the main process counts,
                but all processes must call.

        Raises:
            ConfigError: ``row`` lacks the metric.
        """
        row = comm.all_gather(row)[0]
        iteration = row["iteration"]
        # An unknown evaluation from before the checkpoint was of weights that are gone.
        if iteration in self._values or iteration < self.trainer.start_iter:
            return
        if self._metric not in row:
            known = [name for name in row if name != "iteration"]
            raise ConfigError(
                f"TEST.BEST_METRIC {self._metric!r} is not among an evaluation's figures: "
                f"{', '.join(known) or 'there are none'}{nearest(self._metric, known)}"
            )
        before, value = self._best(), row[self._metric]
        measured = value is not None and math.isfinite(value)
        self._values[iteration] = float(value) if measured else None
        shown = f"{value:.4g}" if measured else "not measured"
        if self._best() == before:
            known_best = f"; the best is {_shown(before)}" if before else ""
            logger.info("%s after iteration %d: %s%s", self._metric, iteration, shown, known_best)
            return
        logger.info(
            "%s after iteration %d: %s, the best so far, kept as %s.pth",
            *(self._metric, iteration, shown, BEST_NAME),
        )
        with self._evaluated():
            evaluation = {"iteration": iteration, self._metric: self._values[iteration]}
            self._checkpointer.save_weights(BEST_NAME, evaluation=evaluation)

    def before_train(self) -> None:
        """Raises StopTraining where the run had come to its end before it was resumed."""
        self._stop_if_useless(self.trainer.start_iter)

    def after_step(self) -> None:
        """Raises StopTraining."""
        self._stop_if_useless(self.trainer.iter + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self._metric, "values": dict(self._values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["metric"] == self._metric:
            self._values = dict(state["values"])
        else:
            logger.info(
                "TEST.BEST_METRIC was %s and is now %s: the best is looked for anew",
                *(state["metric"], self._metric),
            )

    def best_iteration(self) -> int | None:
        """After which the best evaluation was; None before the first with a finite value."""
        best = self._best()
        return best[0] if best else None

    def _best(self) -> tuple[int, float] | None:
        """Iteration and value of the best evaluation, the first where several are equal."""
        known = [(i, v) for i, v in sorted(self._values.items()) if v is not None]
        return max(known, key=lambda pair: self._sign * pair[1], default=None)

    def _stop_if_useless(self, iteration: int) -> None:
        best = self._best()
        since = sum(best is None or i > best[0] for i in self._values)
        if 0 < self._patience <= since:
            self._end_at(iteration)
            raise StopTraining(
                f"training ends after iteration {iteration}: {since} evaluations without a better "
                f"{self._metric} (best: {_shown(best) if best else 'no finite value'})"
            )


def _shown(best: tuple[int, float]) -> str:
    return f"{best[1]:.4g} after iteration {best[0]}"


def check_best(cfg: CfgNode, spec: RunSpec | None = None) -> None:
    """
    Raises:
        ConfigError: ``TEST.BEST_METRIC`` or ``EARLY_STOPPING``, one of which is set, asks for what
            there will not be.
    """
    metric, patience, period = cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOPPING, cfg.TEST.EVAL_PERIOD
    last, is_loss, known = cfg.SOLVER.MAX_ITER, metric.startswith("val_loss"), _metric_names(cfg)
    periodic = range(period, last, period) if period > 0 else ()
    due = len({*periodic, *cfg.TEST.EVAL_ITERS} - {last})
    refuse(
        (
            patience < 0,
            f"TEST.EARLY_STOPPING is {patience}; expected 0 (off) or a number of evaluations",
        ),
        (
            patience and not metric,
            f"TEST.EARLY_STOPPING {patience} needs a metric to follow; for example "
            "TEST.BEST_METRIC segm/AP",
        ),
        (
            patience and due <= patience,
            f"TEST.EARLY_STOPPING {patience} needs more than {patience} evaluations during "
            f"training, and there will be {due}; set TEST.EVAL_PERIOD, for example to a tenth of "
            "SOLVER.MAX_ITER",
        ),
        (
            not cfg.DATASETS.TEST,
            f"TEST.BEST_METRIC {metric}: DATASETS.TEST names no dataset to measure it on",
        ),
        (
            is_loss and not cfg.TEST.VAL_LOSS,
            f"TEST.BEST_METRIC {metric} is measured with TEST.VAL_LOSS True only",
        ),
        (
            not is_loss and metric not in known,
            f"TEST.BEST_METRIC {metric!r} is not among what is measured: {', '.join(known[:12])}"
            f"{', ...' if len(known) > 12 else ''}, val_loss{nearest(metric, known)}",
        ),
    )


def _metric_names(cfg: CfgNode) -> list[str]:
    """What detectron2's COCOEvaluator measures, by the names of an evaluation's figures."""
    tasks = ["segm"] * cfg.MODEL.MASK_ON + ["bbox"] + ["keypoints"] * cfg.MODEL.KEYPOINT_ON
    names = []
    for dataset in sets_to_test(cfg):
        classes = MetadataCatalog.get(dataset).get("thing_classes") or []
        figures = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
        figures += [f"AP-{name}" for name in classes] if len(classes) > 1 else []
        prefix = "" if (dataset,) == cfg.DATASETS.TEST else f"{dataset}/"
        names += [f"{prefix}{task}/{figure}" for task in tasks for figure in figures]
    return names
