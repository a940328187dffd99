"""A progress bar on a terminal; a log file or a pipe gets detectron2's plain lines."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from transfer_maskrcnn.config import RunSpec


def on_terminal() -> bool:
    """Whether a person is watching."""
    return sys.stdout.isatty()


class ProgressBar(HookBase):
    """Iterations done, time left and the total loss, in one line that log lines pass above."""

    def __init__(self) -> None:
        self._exit = ExitStack()  # closed by after_train, which also follows a failed before_train

    @classmethod
    def from_cfg(cls, cfg: CfgNode, spec: RunSpec) -> ProgressBar | None:
        """None where nobody is watching, or another process shows one."""
        return cls() if comm.is_main_process() and on_terminal() else None

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
