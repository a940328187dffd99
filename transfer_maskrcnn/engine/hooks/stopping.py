"""The best checkpoint of a run, and an early end where it gets no better."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer
from transfer_maskrcnn.engine.evaluation import sets_to_test
from transfer_maskrcnn.errors import ConfigError, nearest

BEST_NAME = "model_best"

logger = logging.getLogger(__name__)


class StopTraining(Exception):
    """Ends training before ``SOLVER.MAX_ITER``; no error.

    Attributes:
        iteration: how many iterations are done.
        why: in words.
    """

    def __init__(self, iteration: int, why: str):
        super().__init__(f"training ends after iteration {iteration}: {why}")
        self.iteration = iteration
        self.why = why


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
    ):
        """
        Args:
            checkpointer: writes the file, in the main process.
            metric: higher is better, except for names that begin with ``val_loss``.
            patience: above 0, training ends after so many evaluations in a row that were not
                better than the best before them.
            evaluated: inside it, the model has the weights that are evaluated, such as
                ``WeightAverage.applied``.
        """
        self._checkpointer = checkpointer
        self._metric = metric
        self._sign = -1 if metric.startswith("val_loss") else 1
        self._patience = patience
        self._evaluated = evaluated
        self._values: dict[int, float | None] = {}

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        checkpointer: TransferCheckpointer,
        evaluated: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> BestCheckpoint | None:
        """From ``TEST.BEST_METRIC`` and ``TEST.EARLY_STOPPING``; None where they ask for nothing.

        Raises:
            ConfigError: they ask for evaluations that there will not be.
        """
        check_best(cfg)
        if not cfg.TEST.BEST_METRIC:
            return None
        patience = cfg.TEST.EARLY_STOPPING
        return cls(checkpointer, cfg.TEST.BEST_METRIC, patience=patience, evaluated=evaluated)

    def on_evaluation(self, row: dict[str, Any], iteration: int) -> None:
        """Take note of an evaluation; save the weights where it is the best so far.

        Args:
            row: figures by name, such as ``segm/AP``; None or NaN is never the best. Only that of
                the main process counts, but all processes must call.
            iteration: how many iterations were done before it.

        Raises:
            ConfigError: ``row`` lacks the metric.
        """
        row = comm.all_gather(row)[0]
        # An unknown evaluation from before the checkpoint was of weights that are gone.
        if iteration in self._values or iteration < self.trainer.start_iter:
            return
        before = self._best()
        value = self._read(row)
        self._values[iteration] = value
        best = self._best()
        measured = "not measured" if value is None else f"{value:.4g}"
        shown = f"{self._metric} after iteration {iteration}: {measured}"
        if best == before:
            known = f"; the best is {before[1]:.4g}, after iteration {before[0]}" if before else ""
            logger.info("%s%s", shown, known)
            return
        logger.info("%s, the best so far, kept as %s.pth", shown, BEST_NAME)
        with self._evaluated():
            evaluation = {"iteration": iteration, self._metric: value}
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

    def _best(self) -> tuple[int, float] | None:
        """Iteration and value of the best evaluation, the first where several are equal."""
        known = [(i, v) for i, v in sorted(self._values.items()) if v is not None]
        return max(known, key=lambda pair: self._sign * pair[1], default=None)

    def _stop_if_useless(self, iteration: int) -> None:
        best = self._best()
        since = sum(best is None or i > best[0] for i in self._values)
        if 0 < self._patience <= since:
            known = f"{best[1]:.4g} after iteration {best[0]}" if best else "no finite value"
            why = f"{since} evaluations without a better {self._metric} (best: {known})"
            raise StopTraining(iteration, why)

    def _read(self, row: dict[str, Any]) -> float | None:
        if self._metric not in row:
            known = [name for name in row if name != "iteration"]
            raise ConfigError(
                f"TEST.BEST_METRIC {self._metric!r} is not among an evaluation's figures: "
                f"{', '.join(known) or 'there are none'}{nearest(self._metric, known)}"
            )
        value = row[self._metric]
        return None if value is None or not math.isfinite(value) else float(value)


def check_best(cfg: CfgNode, spec: RunSpec | None = None) -> None:
    """
    Raises:
        ConfigError: ``TEST.BEST_METRIC`` or ``EARLY_STOPPING`` ask for what there will not be.
    """
    metric, patience = cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOPPING
    if patience < 0:
        raise ConfigError(
            f"TEST.EARLY_STOPPING is {patience}; expected 0 (off) or a number of evaluations"
        )
    if patience and not metric:
        raise ConfigError(
            f"TEST.EARLY_STOPPING {patience} needs a metric to follow; for example "
            "TEST.BEST_METRIC segm/AP"
        )
    due = _evaluations_before_the_last(cfg)
    if patience and due <= patience:
        raise ConfigError(
            f"TEST.EARLY_STOPPING {patience} needs more than {patience} evaluations during "
            f"training, and there will be {due}; set TEST.EVAL_PERIOD, for example to a tenth of "
            "SOLVER.MAX_ITER"
        )
    if metric and not cfg.DATASETS.TEST:
        raise ConfigError(
            f"TEST.BEST_METRIC {metric}: DATASETS.TEST names no dataset to measure it on"
        )
    if metric.startswith("val_loss"):
        if not cfg.TEST.VAL_LOSS:
            raise ConfigError(f"TEST.BEST_METRIC {metric} is measured with TEST.VAL_LOSS True only")
    elif metric and metric not in (known := _metric_names(cfg)):
        raise ConfigError(
            f"TEST.BEST_METRIC {metric!r} is not among what is measured: {', '.join(known[:12])}"
            f"{', ...' if len(known) > 12 else ''}, val_loss{nearest(metric, known)}"
        )


def _evaluations_before_the_last(cfg: CfgNode) -> int:
    last, period = cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD
    periodic = range(period, last, period) if period > 0 else ()
    return len({*periodic, *(i for i in cfg.TEST.EVAL_ITERS if i < last)})


def _metric_names(cfg: CfgNode) -> list[str]:
    """What detectron2's COCOEvaluator measures, by the names of an evaluation's figures."""
    tasks = ["segm"] * cfg.MODEL.MASK_ON + ["bbox"] + ["keypoints"] * cfg.MODEL.KEYPOINT_ON
    alone = cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) == 1 else ""
    names = []
    for dataset in sets_to_test(cfg):
        classes = MetadataCatalog.get(dataset).get("thing_classes") or []
        figures = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
        figures += [f"AP-{name}" for name in classes] if len(classes) > 1 else []
        prefix = "" if dataset == alone else f"{dataset}/"
        names += [f"{prefix}{task}/{figure}" for task in tasks for figure in figures]
    return names
