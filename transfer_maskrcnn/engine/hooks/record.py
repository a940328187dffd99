"""What a run shows and leaves: progress, where its weights began, how far they moved, its cost."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from transfer_maskrcnn.data.loader import derive_seed
from transfer_maskrcnn.engine.manifest import note
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.surgery.apply import write_weights
from transfer_maskrcnn.surgery.load import FINAL_FILE, load_weights
from transfer_maskrcnn.surgery.names import is_statistic

INITIAL_FILE = "model_initial.safetensors"
DRIFT_FILE = "drift.json"

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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def write_drift(output_dir: str | os.PathLike[str]) -> None:
    """Write ``drift.json``: part -> ``|final - initial| / |initial|``, L2 norms of parameters.

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
    drift = {name: part["distance"] for name, part in groups.items() if part["rows"]}
    write_json(folder / DRIFT_FILE, drift)


def on_terminal() -> bool:
    """Whether a person watches this process; of several, the first alone shows anything."""
    return comm.is_main_process() and sys.stdout.isatty()


class ProgressBar(HookBase):
    """Iterations done, time left and the total loss, in one line that log lines pass above.

    For a terminal; a log file or a pipe gets detectron2's plain lines.
    """

    def __init__(self) -> None:
        self._exit = ExitStack()  # closed by after_train, which also follows a failed before_train

    def before_train(self) -> None:
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
        latest = self.trainer.storage.latest()
        if "total_loss" in latest:
            self._bar.set_postfix(loss=f"{latest['total_loss'][0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._exit.close()
