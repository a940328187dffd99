"""Evaluation during training, at chosen iterations, kept whatever interrupts the run."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Collection
from typing import Any, Protocol

from detectron2.engine import HookBase
from detectron2.utils import comm

from transfer_maskrcnn.files import write_json

CURVE_FILE = "eval_history.json"
Row = dict[str, Any]

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """What follows the evaluations, such as a best checkpoint."""

    def on_evaluation(self, row: Row, iteration: int) -> None: ...


class EvalHistory(HookBase):
    """Evaluates after chosen iterations and after the last, and writes ``eval_history.json``.

    Takes the place of detectron2's EvalHook, which evaluates at multiples of a period only and
    leaves its results among the losses. A row: ``{"iteration": 50, "segm/AP": 12.3, ...}``.

    Attributes:
        rows: all evaluations up to now, those before an interruption, too.
        listeners: told of every evaluation, in order, before it is written.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, float]],
        output_dir: str,
        *,
        period: int = 0,
        iterations: Collection[int] = (),
        listeners: Collection[Listener] = (),
    ):
        """
        Args:
            evaluate: gives a flat dict of figures; called in every process.
            output_dir: where ``eval_history.json`` goes.
            period: evaluate at its multiples; 0: not periodically.
            iterations: evaluate after these; 0 is the starting point.
            listeners: told of every evaluation, in order, before it is written.
        """
        self.rows: list[Row] = []
        self._evaluate = evaluate
        self._path = os.path.join(output_dir, CURVE_FILE)
        self._period = period
        self._iterations = set(iterations)
        self.listeners = list(listeners)

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self.rows = [row for row in read_curve(self._path) if 0 < start >= row["iteration"]]
        for row in self.rows:  # the checkpoint may be older than its own evaluation
            self._tell(row)
        if self._due(start) and not self.has(start):
            self._add(start)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._due(done):
            self._add(done)

    def after_train(self) -> None:
        last = self.trainer.max_iter
        # after an error in the last iteration, trainer.iter is still one less
        if self.trainer.iter >= last and not self.has(last):
            self._add(last)

    def has(self, iteration: int) -> bool:
        """Whether the evaluation after ``iteration`` is there."""
        return any(row["iteration"] == iteration for row in self.rows)

    def is_written(self, iteration: int) -> bool:
        """Whether ``eval_history.json``, perhaps of an earlier process, has that evaluation."""
        return any(row["iteration"] == iteration for row in read_curve(self._path))

    def _due(self, iteration: int) -> bool:
        periodic = self._period > 0 and iteration > 0 and iteration % self._period == 0
        return periodic or iteration in self._iterations

    def _add(self, iteration: int) -> None:
        figures = self._evaluate()
        self.trainer.storage.put_scalars(**figures, smoothing_hint=False)
        # Detectron2's results hold numpy scalars, and nan for what could not be measured.
        finite = {k: float(v) if math.isfinite(v) else None for k, v in figures.items()}
        row: Row = {"iteration": iteration, **finite}
        self._tell(row)
        self.rows.append(row)
        if comm.is_main_process():
            write_json(self._path, self.rows)
        comm.synchronize()  # processes that were faster wait: the next iteration starts together

    def _tell(self, row: Row) -> None:
        for listener in self.listeners:
            listener.on_evaluation(row, row["iteration"])


def read_curve(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a ``eval_history.json``; none where there is no such file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        rows: list[Row] = json.load(f)
    return rows
