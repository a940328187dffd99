"""What tools/train_net.py does: train, or evaluate, from a fitted config."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from logging.handlers import MemoryHandler
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from transfer_maskrcnn.cli import Folded
from transfer_maskrcnn.config import CONFIG_FILE, RunSpec, editable
from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.engine.manifest import RUN_FILE, describe_run, name_moved, note
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import lock, unlock, write_text
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.hook import began_with, load_source, plan_of_config
from transfer_maskrcnn.surgery.load import (
    FINAL_FILE,
    LAST_FILE,
    load_weights,
    local_file,
    trained_file,
)

LOCK_FILE = ".training"
# From malloc.h, see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1

# How the long messages begin that go to log.txt alone.
_DUMPS = ("Environment info", "Contents of args", "Running with full config", "Model:")

logger = logging.getLogger(__name__)

# What a run leaves in OUTPUT_DIR.
RUN_FILES = (
    *(CONFIG_FILE, "log.txt*", RUN_FILE, "transfer_plan.json", "pseudo_labels.json"),
    *("last_checkpoint", "model_*.pth", "model_initial.safetensors", FINAL_FILE, LAST_FILE),
    *("metrics.json", "events.out.tfevents.*", "eval_history.json", "drift.json"),
    *("evaluation.json", "inference", "report.html"),
)  # not feature_cache: an entry there is only used by a run that would compute the same


def train(cfg: CfgNode, spec: RunSpec, resume: bool, hooks: Sequence[HookBase] = ()) -> None:
    """Train to ``SOLVER.MAX_ITER`` and evaluate; a complete run that is resumed is left alone.

    ``hooks`` take part behind the run's own.

    Raises:
        ConfigError: the checkpoint to resume lies beyond SOLVER.MAX_ITER.
    """
    if resume and not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        # of iterations that are lost, and will be written again
        Path(cfg.OUTPUT_DIR, "metrics.json").unlink(missing_ok=True)
    trainer = TransferTrainer(cfg, spec)
    trainer.register_hooks(hooks)
    trainer.resume_or_load(resume=resume)
    if trainer.start_iter > trainer.max_iter:
        raise ConfigError(
            f"{cfg.OUTPUT_DIR} holds a checkpoint of iteration {trainer.start_iter}, beyond "
            f"SOLVER.MAX_ITER {trainer.max_iter}: raise SOLVER.MAX_ITER, or evaluate the "
            "checkpoint with --eval-only"
        )
    if trainer.is_complete():
        logger.info(
            "this run is complete: %s holds iteration %d of SOLVER.MAX_ITER %d. Raise "
            "SOLVER.MAX_ITER to go on, or use --eval-only",
            *(cfg.OUTPUT_DIR, trainer.start_iter, trainer.max_iter),
        )
        return
    if resume and trainer.start_iter == 0:
        logger.info("nothing to resume in %s: starting from MODEL.WEIGHTS", cfg.OUTPUT_DIR)
    note(cfg.OUTPUT_DIR, **describe_run(cfg, spec))
    if comm.is_main_process():
        write_text(os.path.join(cfg.OUTPUT_DIR, CONFIG_FILE), cfg.dump())
    trainer.train()
    if comm.is_main_process() and trainer.results:
        from transfer_maskrcnn.engine.evaluation import print_summary

        print_summary(cfg, trainer.results)


def evaluate(
    cfg: CfgNode, spec: RunSpec, weights: str | None, begin: Callable[[], object] = lambda: None
) -> None:
    """Evaluate ``weights``, or, where None, the last checkpoint of OUTPUT_DIR.

    That checkpoint is meant, too, where ``weights`` is the file that its run started from: then the
    command is the training's own with --eval-only added.

    Args:
        cfg: resolved by ``spec``.
        weights: what the user named, if anything.
        begin: is called when the model is there, before anything is written.

    Raises:
        ConfigError: there is no checkpoint, or it is not one of this config.
    """
    from transfer_maskrcnn.engine.evaluation import evaluate_model, print_summary

    trust, trained = cfg.MODEL.TRANSFER.TRUST_PICKLE, trained_file(cfg.OUTPUT_DIR)
    if weights is None or _is_of_the_run(cfg, weights, trained):
        if trained is None:
            raise ConfigError(
                f"--eval-only: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint; "
                "train first, or name a trained file with MODEL.WEIGHTS"
            )
        weights = str(trained)
        if cfg.SOLVER.EMA_DECAY and trained.name != FINAL_FILE:
            logger.warning(
                "%s is of an unfinished run: its last weights are evaluated, not their average",
                weights,
            )
    model = build_model(cfg, spec)
    load_trained_model(model, weights, spec.classes, trust_pickle=trust)
    if cfg.MODEL.TRANSFER.EXTEND:
        from transfer_maskrcnn.incremental.source import before_extension

        cfg = before_extension(cfg, weights)
    begin()
    results = evaluate_model(cfg, spec, model)
    if comm.is_main_process():
        print_summary(cfg, results)


def _is_of_the_run(cfg: CfgNode, weights: str, trained: Path | None) -> bool:
    """Whether ``weights`` is the file that the run in OUTPUT_DIR, if there is one, began with.

    Any other file is evaluated as it is, with a warning where it is not the run's own.
    """
    if trained is None or not trained.is_file():
        return False
    own = load_weights(trained, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE)
    began = began_with(own.metadata, weights)
    if not began and trained.resolve().parent not in Path(weights).resolve().parents:
        logger.warning(
            "MODEL.WEIGHTS %s is not of the run in %s, whose evaluation.json gets its figures; "
            "another OUTPUT_DIR keeps them apart",
            *(weights, cfg.OUTPUT_DIR),
        )
    return began


def check_start(cfg: CfgNode, spec: RunSpec) -> None:
    """What a new run needs, before an earlier one is moved out of its way.

    Raises:
        ConfigError: MODEL.WEIGHTS is one of the files that would be moved.
        WeightFileError, TransferPlanError: it cannot be read, or would not do what is asked.
    """
    weights = cfg.MODEL.WEIGHTS
    needed = local_file(weights).resolve()
    if any(path.resolve() in (needed, *needed.parents) for path in _run_files(cfg.OUTPUT_DIR)):
        raise ConfigError(
            f"MODEL.WEIGHTS {weights} is of the earlier run in OUTPUT_DIR {cfg.OUTPUT_DIR}, whose "
            "files would be moved out of the new run's way; choose another OUTPUT_DIR"
        )
    if cfg.MODEL.TRANSFER.ENABLED:
        plan_of_config(cfg, spec.classes)[2].check(cfg.MODEL.TRANSFER.STRICT)
    else:
        load_source(cfg)


@contextmanager
def only_run_in(output_dir: str) -> Iterator[None]:
    """Inside, no other training may write into ``output_dir``; the system lets go of it whatever
    ends this process. An evaluation is free to look at a run that goes on.

    Raises:
        ConfigError: another training is there.
    """
    if not comm.is_main_process():
        yield
        return
    os.makedirs(output_dir, exist_ok=True)
    with open(os.path.join(output_dir, LOCK_FILE), "a+", encoding="utf-8") as file:
        if not lock(file):
            file.seek(0)
            raise ConfigError(
                f"another training (process {file.read().strip()}) writes into OUTPUT_DIR "
                f"{output_dir}; choose another OUTPUT_DIR, or wait until it has ended"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:  # workers of an interrupted loader may live on for a while
            unlock(file)


def set_aside(output_dir: str) -> None:
    """Move the files of a run that is there already into a folder of its own.

    Otherwise a kill before the new run's first checkpoint, and --resume, would go on with the old.
    """
    folder, found = Path(output_dir), _run_files(output_dir)
    comm.synchronize()  # all have looked before one of them moves anything
    if comm.is_main_process() and found:
        aside = next(p for n in count(1) if not (p := folder / f"earlier_run_{n}").exists())
        aside.mkdir()
        for path in found:
            path.rename(aside / path.name)
        name_moved(aside)
        logger.warning("%s held an earlier run; its files are now in %s", folder, aside)
    comm.synchronize()


def _run_files(output_dir: str) -> list[Path]:
    return [path for pattern in RUN_FILES for path in Path(output_dir).glob(pattern)]


class Logs:
    """What this package logs: on the terminal at once, in ``log.txt`` as soon as it is clear that a
    run begins there. Until then it is kept, so that a command that fails leaves no trace.

    Of several processes the first alone speaks on the terminal; each has a file of its own.
    """

    def __init__(self, least: int = logging.DEBUG) -> None:
        """
        Args:
            least: the level from which on the terminal is told.
        """
        self._least, name = least, __name__.split(".")[0]
        setup_logger(distributed_rank=comm.get_rank(), name=name, abbrev_name="transfer")
        self._logger = logging.getLogger(name)
        for handler in self._logger.handlers[:]:
            if isinstance(handler, logging.FileHandler):  # of an earlier run of this process
                self._logger.removeHandler(handler)
                handler.close()
            elif sys.stdout.isatty() and not isinstance(handler.formatter, Folded):
                handler.setFormatter(Folded(handler.formatter))
        _speak_from(least)
        self._early = MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1)
        self._logger.addHandler(self._early)

    def begin(self, cfg: CfgNode, folder: str, args: argparse.Namespace) -> None:
        """detectron2's ``default_setup`` in ``folder``, whose long dumps go to log.txt alone.

        What is resumed keeps its config.yaml until it really goes on, see :func:`train`.
        """
        setup_logger(folder, distributed_rank=comm.get_rank())
        _speak_from(self._least)
        for handler in logging.getLogger("detectron2").handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not record.getMessage().startswith(_DUMPS))
        own = editable(cfg)
        own.OUTPUT_DIR = folder
        config = Path(folder, CONFIG_FILE)
        before = config.read_text("utf-8") if args.resume and config.is_file() else ""
        if not os.path.isfile(args.config_file):  # a run's own, which has moved with it
            args = argparse.Namespace(**{**vars(args), "config_file": ""})
        default_setup(own, args)
        _speak_from(self._least)
        if before and comm.is_main_process():
            write_text(config, before)
        self.write_to(folder)

    def write_to(self, folder: str) -> None:
        """Write what was logged and what will be to ``folder/log.txt``, which detectron2 shares."""
        rank = comm.get_rank()
        file = logging.FileHandler(Path(folder, f"log.txt.rank{rank}" if rank else "log.txt"))
        shown = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
        file.setFormatter(logging.Formatter(shown, datefmt="%m/%d %H:%M:%S"))
        self._early.setTarget(file)
        self._logger.removeHandler(self._early)
        self._early.close()
        self._logger.addHandler(file)


def _speak_from(level: int) -> None:
    """On the terminal; files get all."""
    for name in (__name__.split(".")[0], "detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, (logging.FileHandler, MemoryHandler)):
                handler.setLevel(level)


@cache
def keep_freed_memory() -> bool:
    """Stop glibc from handing large blocks back to the kernel; whether it does so now.

    Every activation above 32 MB would be mapped and zeroed page by page afresh, in each step.
    As ``GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=...``, but without a
    new process. The process then holds on to its peak. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
    if done:
        logger.info("malloc keeps freed memory for the next step (glibc: no mmap, no trimming)")
    return done
