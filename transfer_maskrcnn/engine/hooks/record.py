"""What a run shows and leaves: progress, evaluations, where its weights began, how far they moved,
its cost."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from transfer_maskrcnn.cli import now_and_then
from transfer_maskrcnn.data.loader import derive_seed
from transfer_maskrcnn.engine.manifest import note
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.surgery.hook import PLAN_FILE
from transfer_maskrcnn.surgery.load import FINAL_FILE, load_weights
from transfer_maskrcnn.surgery.names import is_statistic
from transfer_maskrcnn.surgery.read import write_weights

INITIAL_FILE = "model_initial.safetensors"
DRIFT_FILE = "drift.json"
CURVE_FILE = "eval_history.json"
Row = dict[str, Any]

logger = logging.getLogger(__name__)


class InitialWeights(HookBase):
    """Writes the weights after the surgery and before the first iteration."""

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 and comm.is_main_process():
            checkpointer = self.trainer.checkpointer
            path = os.path.join(checkpointer.save_dir, INITIAL_FILE)
            write_weights(path, checkpointer.model.state_dict(), checkpointer.metadata)
        comm.synchronize()


class StepSeed(HookBase):
    """Seeds torch before each iteration from (seed, process, iteration).

    What the model draws (anchors, proposals, dropout) then depends neither on what came before,
    such as an evaluation, nor on how often the run was interrupted.
    """

    def __init__(self, seed: int):
        self._seed = seed

    def before_step(self) -> None:
        torch.manual_seed(derive_seed(self._seed, comm.get_rank(), self.trainer.iter))


class EvalHistory(HookBase):
    """Evaluates after chosen iterations and after the last, and writes ``eval_history.json``.

    Takes the place of detectron2's EvalHook, which evaluates at multiples of a period only and
    leaves its results among the losses. A row: ``{"iteration": 50, "segm/AP": 12.3, ...}``.

    Attributes:
        rows: all evaluations up to now, those before an interruption, too.
        listeners: called with every row, in order, before it is written.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, float]],
        output_dir: str,
        *,
        period: int = 0,
        iterations: Collection[int] = (),
    ):
        """
        Args:
            evaluate: gives a flat dict of figures; called in every process.
            output_dir: where ``eval_history.json`` goes.
            period: evaluate at its multiples; 0: not periodically.
            iterations: evaluate after these; 0 is the starting point.
        """
        self.rows: list[Row] = []
        self.listeners: list[Callable[[Row], None]] = []
        self._evaluate = evaluate
        self._path = os.path.join(output_dir, CURVE_FILE)
        self._period = period
        self._iterations = iterations

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self.rows = [row for row in read_curve(self._path) if 0 < start >= row["iteration"]]
        for row in self.rows:  # the checkpoint may be older than its own evaluation
            self._tell(row)
        if self._due(start) and not _has(self.rows, start):
            self.add(start)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._due(done):
            self.add(done)

    def after_train(self) -> None:
        last = self.trainer.max_iter
        # after an error in the last iteration, trainer.iter is still one less
        if self.trainer.iter >= last and not _has(self.rows, last):
            self.add(last)

    def is_written(self, iteration: int) -> bool:
        """Whether ``eval_history.json``, perhaps of an earlier process, has that evaluation."""
        return _has(read_curve(self._path), iteration)

    def _due(self, iteration: int) -> bool:
        periodic = self._period > 0 and iteration > 0 and iteration % self._period == 0
        return periodic or iteration in self._iterations

    def add(self, iteration: int) -> None:
        """Evaluate, after so many iterations."""
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
            listener(row)


class StopTraining(Exception):
    """Ends training before ``SOLVER.MAX_ITER``; no error. Its text says when and why."""


def _has(rows: list[Row], iteration: int) -> bool:
    return any(row["iteration"] == iteration for row in rows)


def read_curve(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a ``eval_history.json``; none where there is no such file."""
    return read_json(path, list, [])


class Cost(HookBase):
    """Seconds and peak memory of a run, over all its resumptions, in ``run.json``.

    Work that a kill threw away is not counted: the clock is saved with each checkpoint.
    """

    def __init__(self, output_dir: str):
        self._folder = output_dir
        self._before = {"seconds": 0.0, "peak_memory_mb": 0.0}
        self._started = time.monotonic()

    def after_train(self) -> None:
        note(self._folder, cost=self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        seconds = self._before["seconds"] + time.monotonic() - self._started
        memory = max(self._before["peak_memory_mb"], _peak_memory_mb())
        return {"seconds": round(seconds, 2), "peak_memory_mb": round(memory, 1)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before = state


def _peak_memory_mb() -> float:
    """Of this process on the GPU if it uses one, else in main memory, in MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def write_drift(output_dir: str | os.PathLike[str]) -> None:
    """Write ``drift.json``: part -> ``|final - initial| / |initial|``, L2 norms of parameters; None
    of a part that was initialised, for the most, and has no start worth a comparison.

    Running statistics of norms are no parameters: they follow the images.
    """
    from transfer_maskrcnn.surgery.diff import diff_weights

    folder = Path(output_dir)
    if not (folder / INITIAL_FILE).exists():
        logger.warning("%s is gone: what training moved is not known", folder / INITIAL_FILE)
        return
    diff = diff_weights(load_weights(folder / INITIAL_FILE), load_weights(folder / FINAL_FILE))
    learnt = tuple(tensor for tensor in diff.tensors if not is_statistic(tensor.name))
    groups = replace(diff, tensors=learnt).groups()
    planned = read_json(folder / PLAN_FILE, dict, {}).get("parts", {})
    new = {name for name, part in planned.items() if part["initialised"] >= part["transferred"]}
    known = {name: part["distance"] for name, part in groups.items() if part["rows"]}
    drift = {name: None if name in new else distance for name, distance in known.items()}
    write_json(folder / DRIFT_FILE, drift)


def on_terminal() -> bool:
    """Whether a person watches this process; of several, the first alone shows anything."""
    return comm.is_main_process() and sys.stdout.isatty()


class EvaluationLines(HookBase):
    """A line for each evaluation, for whoever sees nothing of the log."""

    def before_train(self) -> None:
        self.trainer.curve.listeners.append(self._evaluated)

    def _evaluated(self, row: Row) -> None:
        metric, last = self.trainer.cfg.TEST.BEST_METRIC, self.trainer.max_iter
        done = row["iteration"]
        if metric and done > self.trainer.start_iter and row.get(metric) is not None:
            tqdm.write(f"  {done} of {last} iterations: {metric} {row[metric]:.1f}", sys.stdout)
            sys.stdout.flush()


class ProgressBar(HookBase):
    """Iterations done, time left and the total loss, in one line that log lines pass above.

    For a terminal. A log file or a pipe gets detectron2's plain lines, one in twenty iterations;
    where these take long, a line every half minute.
    """

    def __init__(self) -> None:
        self._exit = ExitStack()  # closed by after_train, which also follows a failed before_train
        self._bar: Any = None

    def before_train(self) -> None:
        self._tell = now_and_then("training", self.trainer.max_iter)
        if not on_terminal():
            return
        names = ("detectron2", "fvcore", "transfer_maskrcnn")
        loggers = [logging.getLogger(name) for name in names]
        self._exit.enter_context(logging_redirect_tqdm(loggers))
        self._bar = self._exit.enter_context(
            tqdm(
                total=self.trainer.max_iter,
                initial=self.trainer.start_iter,
                desc="training",
                unit="it",
                file=sys.stdout,
                dynamic_ncols=True,
            )
        )

    def after_step(self) -> None:
        if self._bar is None:
            self._tell(self.trainer.iter + 1)
            return
        latest = self.trainer.storage.latest()
        if "total_loss" in latest:
            self._bar.set_postfix(loss=f"{latest['total_loss'][0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._exit.close()
