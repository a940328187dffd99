"""What tools/train_net.py does: train, or evaluate, from a fitted config."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from tabulate import tabulate

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.engine.evaluation import evaluate_model, read_extension
from transfer_maskrcnn.engine.manifest import RUN_FILE, describe_run, note
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.evaluation.explain import read_sentence
from transfer_maskrcnn.incremental.pseudo_labels import SUMMARY_FILE
from transfer_maskrcnn.incremental.source import before_extension
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.hook import began_with, load_source, plan_of_config
from transfer_maskrcnn.surgery.load import FINAL_FILE, load_weights, trained_file
from transfer_maskrcnn.text import wrapped

LOCK_FILE = ".training"
logger = logging.getLogger(__name__)

# What a run leaves in OUTPUT_DIR.
RUN_FILES = (
    *("config.yaml", "log.txt*", RUN_FILE, "transfer_plan.json", SUMMARY_FILE),
    *("last_checkpoint", "model_*.pth", "model_initial.safetensors", FINAL_FILE),
    *("metrics.json", "events.out.tfevents.*", "eval_history.json", "drift.json"),
    *("evaluation.json", "inference", "report.html"),
)  # not feature_cache: an entry there is only used by a run that would compute the same


def train(cfg: CfgNode, spec: RunSpec, resume: bool) -> None:
    """Train to ``SOLVER.MAX_ITER`` and evaluate; a complete run that is resumed is left alone.

    Raises:
        ConfigError: the checkpoint to resume lies beyond SOLVER.MAX_ITER.
    """
    if resume and not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        # of iterations that are lost, and will be written again
        Path(cfg.OUTPUT_DIR, "metrics.json").unlink(missing_ok=True)
    trainer = TransferTrainer(cfg, spec)
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
    trainer.train()
    if comm.is_main_process() and trainer.results:
        print_summary(cfg, trainer.results)


def evaluate(cfg: CfgNode, spec: RunSpec, weights: str | None) -> None:
    """Evaluate ``weights``, or, where None, the last checkpoint of OUTPUT_DIR.

    That checkpoint is meant, too, where ``weights`` is the file that its run started from: then the
    command is the training's own with --eval-only added.

    Args:
        cfg: resolved by ``spec``.
        weights: what the user named, if anything.

    Raises:
        ConfigError: there is no checkpoint, or it is not one of this config.
    """
    model, trust = build_model(cfg, spec), cfg.MODEL.TRANSFER.TRUST_PICKLE
    if weights is None or _is_of_the_run(cfg, weights):
        weights = _last_checkpoint(cfg.OUTPUT_DIR)
        if cfg.SOLVER.EMA_DECAY and not weights.endswith(FINAL_FILE):
            logger.warning(
                "%s is of an unfinished run: its last weights are evaluated, not their average",
                weights,
            )
    load_trained_model(model, weights, spec.classes, trust_pickle=trust)
    results = evaluate_model(before_extension(cfg, weights), spec, model)
    if comm.is_main_process():
        print_summary(cfg, results)


def _last_checkpoint(output_dir: str) -> str:
    trained = trained_file(output_dir)
    if trained is None:
        raise ConfigError(
            f"--eval-only: OUTPUT_DIR {output_dir} holds no checkpoint; "
            "train first, or name a trained file with MODEL.WEIGHTS"
        )
    return str(trained)


def _is_of_the_run(cfg: CfgNode, weights: str) -> bool:
    """Whether ``weights`` is the file that the run in OUTPUT_DIR, if there is one, began with.

    Any other file is evaluated as it is, with a warning where it is not the run's own.
    """
    output_dir, trust = cfg.OUTPUT_DIR, cfg.MODEL.TRANSFER.TRUST_PICKLE
    trained = trained_file(output_dir)
    if trained is None or not trained.is_file():
        return False
    if began_with(load_weights(trained, trust_pickle=trust).metadata, weights):
        return True
    if Path(output_dir).resolve() not in Path(weights).resolve().parents:
        logger.warning(
            "MODEL.WEIGHTS %s is not of the run in %s, whose evaluation.json gets its figures; "
            "another OUTPUT_DIR keeps them apart",
            *(weights, output_dir),
        )
    return False


def print_summary(cfg: CfgNode, results: dict[str, Any]) -> None:
    """One row a test set: box and mask AP, AP50 and AP75; then what an extended model knows of old
    and novel classes; then why, a sentence a test set.

    Args:
        results: set -> task -> figures.
    """
    rows = [
        [name, task, *(by_task[task].get(metric) for metric in ("AP", "AP50", "AP75"))]
        for name, by_task in results.items()
        for task in ("bbox", "segm")
        if task in by_task
    ]
    print(tabulate(rows, ["dataset", "task", "AP", "AP50", "AP75"], floatfmt=".1f"))
    undefined = {row[0] for row in rows if any(v is not None and math.isnan(v) for v in row[2:])}
    if any(map(_has_objects, undefined)):
        print("nan: the model detected nothing. It may need more iterations, or MODEL.WEIGHTS.")
    for line in (read_extension(cfg.OUTPUT_DIR) or {}).get("lines", ()):
        print(wrapped(line, indent=""))
    for name in results:
        why = read_sentence(Path(cfg.OUTPUT_DIR, "inference", name))
        if why:
            print(wrapped(f"{name}: {why}", indent=""))
    print(f"Written to {os.path.join(cfg.OUTPUT_DIR, 'evaluation.json')}")


def _has_objects(dataset: str) -> bool:
    """Without any, AP is undefined whatever the model detects."""
    records = DatasetCatalog.get(dataset)
    return any(not a.get("iscrowd", 0) for r in records for a in r.get("annotations", ()))


def check_weights_stay(cfg: CfgNode) -> None:
    """That ``MODEL.WEIGHTS`` is not one of the files that a new run in OUTPUT_DIR would move.

    Raises:
        ConfigError: it is.
    """
    weights = cfg.MODEL.WEIGHTS
    needed = Path(weights.partition("?")[0]).resolve()  # "?matching_heuristics" is detectron2's
    if any(path.resolve() in (needed, *needed.parents) for path in _run_files(cfg.OUTPUT_DIR)):
        raise ConfigError(
            f"MODEL.WEIGHTS {weights} is of the earlier run in OUTPUT_DIR {cfg.OUTPUT_DIR}, whose "
            "files would be moved out of the new run's way; choose another OUTPUT_DIR"
        )


def check_start(cfg: CfgNode, spec: RunSpec) -> None:
    """What a new run needs, before an earlier one is moved out of its way.

    Raises:
        ConfigError: MODEL.WEIGHTS is of that run.
        WeightFileError, TransferPlanError: it cannot be read, or would not do what is asked.
    """
    check_weights_stay(cfg)
    if cfg.MODEL.TRANSFER.ENABLED:
        plan_of_config(cfg, spec.classes)[2].check(cfg.MODEL.TRANSFER.STRICT)
    elif cfg.MODEL.WEIGHTS:
        load_source(cfg)


@contextmanager
def only_run_in(output_dir: str) -> Iterator[None]:
    """Inside, no other training may write into ``output_dir``; the system lets go of it whatever
    ends this process. An evaluation is free to look at a run that goes on.

    Raises:
        ConfigError: another training is there.
    """
    if fcntl is None or not comm.is_main_process():
        yield
        return
    os.makedirs(output_dir, exist_ok=True)
    with open(os.path.join(output_dir, LOCK_FILE), "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"another training (process {lock.read().strip()}) writes into OUTPUT_DIR "
                f"{output_dir}; choose another OUTPUT_DIR, or wait until it has ended"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def set_aside(output_dir: str) -> None:
    """Move the files of a run that is there already into a folder of its own.

    Otherwise a kill before the new run's first checkpoint, and --resume, would go on with the old.
    """
    folder, found, number = Path(output_dir), _run_files(output_dir), 1
    comm.synchronize()  # all have looked before one of them moves anything
    if comm.is_main_process() and found:
        while (folder / f"earlier_run_{number}").exists():
            number += 1
        aside = folder / f"earlier_run_{number}"
        aside.mkdir()
        for path in found:
            path.rename(aside / path.name)
        logger.warning("%s held an earlier run; its files are now in %s", folder, aside)
    comm.synchronize()


def _run_files(output_dir: str) -> list[Path]:
    return [path for pattern in RUN_FILES for path in Path(output_dir).glob(pattern)]
