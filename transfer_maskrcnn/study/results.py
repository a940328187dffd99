"""The outcome of one run of a study, gathered into one file when the run has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from transfer_maskrcnn.engine.curve import CURVE_FILE, read_curve
from transfer_maskrcnn.engine.record import DRIFT_FILE, INITIAL_FILE
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
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if result["key"] == key else None


def collect(run: Run, folder: Path, cfg: CfgNode, key: dict[str, str], diverged: str) -> None:
    """Write ``result.json`` for a run that has just ended, then remove what it no longer needs.

    Args:
        diverged: why training ended early; "" where it did not.
    """
    rows = [_short(row) for row in read_curve(folder / CURVE_FILE)]
    drift = folder / DRIFT_FILE
    result = {
        "key": key,
        "arm": run.arm.name,
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
    for path in [*folder.glob("model_*.pth"), folder / INITIAL_FILE]:
        path.unlink(missing_ok=True)


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
        match_detections(
            evaluation / f"{name}_ground_truth.json",
            evaluation / "coco_instances_results.json",
            task_of(cfg),
            max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
        ).save(kept)
    return Matches.load(kept)
