"""A run that OUTPUT_DIR holds already: moved out of the way whole, never into the new one."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.incremental.pseudo_labels import SUMMARY_FILE
from transfer_maskrcnn.incremental.source import SOURCE_FILE

logger = logging.getLogger(__name__)

# What a run leaves in OUTPUT_DIR, but for log.txt and config.yaml, which the next one begins with.
RUN_FILES = (
    "last_checkpoint",
    "model_*.pth",
    "model_initial.safetensors",
    "model_final.safetensors",
    "eval_history.json",
    "drift.json",
    "cost.json",
    "report.html",
    "metrics.json",
    "events.out.tfevents.*",
    "evaluation.json",
    "environment.json",
    "transfer_plan.json",
    SOURCE_FILE,
    SUMMARY_FILE,
    "inference",
)  # not feature_cache: an entry there is only used by a run that would compute the same


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
