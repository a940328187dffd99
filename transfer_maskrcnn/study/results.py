"""The outcome of one run of a study, gathered into one file when the run has ended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from transfer_maskrcnn.engine.hooks.eval_history import CURVE_FILE, read_curve
from transfer_maskrcnn.engine.hooks.record import DRIFT_FILE, INITIAL_FILE
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.bootstrap import average_precision
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.study.design import Run

RESULT_FILE = "result.json"
MATCHES_FILE = "matches.npz"
FINISHED, DIVERGED = "finished", "diverged"


def task_of(cfg: CfgNode) -> str:
    """The task whose AP a study compares."""
    return "segm" if cfg.MODEL.MASK_ON else "bbox"


def read_result(folder: Path, key: dict[str, str]) -> dict[str, Any] | None:
    """The result of the run in ``folder``, if it ended and was one of this ``key``."""
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    result = read_record(path)
    return result if result.get("key") == key else None


def read_record(path: Path) -> dict[str, Any]:
    """A json file of a run.

    Raises:
        TransferError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no record")
    except ValueError as error:
        raise TransferError(
            f"{path} is damaged ({error}): remove the folder {path.parent}, and its run is trained "
            "again"
        ) from None
    return content


def collect(run: Run, folder: Path, cfg: CfgNode, key: dict[str, str], diverged: str) -> None:
    """Write ``result.json`` for a run that has just ended, then remove what it no longer needs.

    Args:
        diverged: why training ended early; "" where it did not.
    """
    rows = [_short(row) for row in read_curve(folder / CURVE_FILE)]
    drift = folder / DRIFT_FILE
    result = {
        "key": key,
        "variant": run.variant.name,
        "fraction": run.fraction,
        "seed": run.seed,
        "folder": run.folder,
        "status": DIVERGED if diverged else FINISHED,
        "message": diverged,
        "results": {} if diverged else {k: v for k, v in rows[-1].items() if k != "iteration"},
        "curve": rows,
        "drift": json.loads(drift.read_text()) if drift.exists() and not diverged else {},
    }
    write_json(folder / RESULT_FILE, result)
    # with the tag, a folder whose result was removed is trained again from the start
    useless = [*folder.glob("model_*.pth"), *unfinished_files(folder)]
    for path in [*useless, folder / INITIAL_FILE, folder / "last_checkpoint"]:
        path.unlink(missing_ok=True)


def unfinished_files(folder: Path) -> list[Path]:
    """What a kill in the middle of writing left: nothing else reads or removes these."""
    return list(folder.glob(".*.part"))


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """AP to four decimals: COCO's numbers carry no more, and files stay readable."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def load_matches(folder: Path, cfg: CfgNode, result: dict[str, Any]) -> Matches | None:
    """What the run detected, matched to the ground truth once and kept; None if it diverged."""
    if result["status"] == DIVERGED:
        return None
    kept = folder / MATCHES_FILE
    if not kept.exists():
        name = cfg.DATASETS.TEST[0]
        evaluation = folder / "inference" / name
        detections = evaluation / "coco_instances_results.json"
        if not detections.exists():
            raise TransferError(
                f"{detections} is gone: remove the folder {folder}, and its run is trained again"
            )
        match_detections(
            evaluation / f"{name}_ground_truth.json",
            detections,
            task_of(cfg),
            max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
        ).save(kept)
    matches = Matches.load(kept)
    _check_ap(matches, result, task_of(cfg), folder)
    return matches


def _check_ap(matches: Matches, result: dict[str, Any], task: str, folder: Path) -> None:
    """The matches must be those of the evaluation that the result tells of."""
    ap, recorded = average_precision(matches), result["results"].get(f"{task}/AP") or 0.0
    if not math.isclose(0.0 if math.isnan(ap) else ap, recorded, abs_tol=0.01):
        raise TransferError(
            f"{folder}: AP is {ap:.2f} by {MATCHES_FILE} and {recorded:.2f} by {RESULT_FILE}: "
            "they are of different runs. Remove the folder, and its run is trained again"
        )
