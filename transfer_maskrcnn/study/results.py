"""What runs left in their folders, for both studies: of starting points, and of novel classes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.evaluation import EVALUATION_FILE
from transfer_maskrcnn.engine.hooks.record import CURVE_FILE, DRIFT_FILE, INITIAL_FILE
from transfer_maskrcnn.errors import ConfigError, TransferError
from transfer_maskrcnn.evaluation.bootstrap import average_precision
from transfer_maskrcnn.evaluation.coco import detection_limit
from transfer_maskrcnn.evaluation.explain import RESULTS_FILE, truth_file
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.incremental.classes import EXTENSION_KEY
from transfer_maskrcnn.study.design import Run
from transfer_maskrcnn.surgery.load import FINAL_FILE

RESULT_FILE = "result.json"
#: what a kill in the middle of writing left: nothing else reads or removes these
UNFINISHED = ".*.part"
FINISHED, DIVERGED = "finished", "diverged"
FIGURES = ("base", "novel", "all", "harmonic_mean", "forgetting", "before")
# not the "s0.5" of a scale, nor the end of "runs3"
_SEED = re.compile(r"(?:(?:^|[_-])(?:seed[_-]?|s)|seed)(\d+)(?![A-Za-z0-9.])", re.IGNORECASE)

Json = dict[str, Any]


def task_of(cfg: CfgNode) -> str:
    """The task whose AP a study compares."""
    return "segm" if cfg.MODEL.MASK_ON else "bbox"


def read_result(folder: Path, key: dict[str, str]) -> Json | None:
    """The result of the run in ``folder``, if it ended and was one of this ``key``."""
    result = read_record(folder / RESULT_FILE, {})
    return result if result.get("key") == key else None


def read_record(path: Path, missing: Json) -> Json:
    """A json file of a run; ``missing`` where there is none.

    Raises:
        TransferError: it is damaged.
    """
    fix = f"remove the folder {path.parent}, and its run is trained again"
    return read_json(path, dict, missing, fix)


def collect(run: Run, folder: Path, key: dict[str, str], diverged: str) -> Json:
    """Write ``result.json`` for a run that has just ended, then remove what it no longer needs.

    Args:
        diverged: why training ended early; "" where it did not.
    """
    # COCO's numbers carry no more than four decimals, and files stay readable
    rows = [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        for row in read_json(folder / CURVE_FILE, list, [])
    ]
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
        "drift": {} if diverged else read_json(folder / DRIFT_FILE, dict, {}),
    }
    write_json(folder / RESULT_FILE, result)
    # with the tag, a folder whose result was removed is trained again from the start
    useless = [*folder.glob("model_*.pth"), *folder.glob(UNFINISHED)]
    for path in [*useless, folder / INITIAL_FILE, folder / "last_checkpoint"]:
        path.unlink(missing_ok=True)
    return result


def load_matches(folder: Path, cfg: CfgNode, result: Json) -> Matches | None:
    """What the run detected, matched to the ground truth; None if it diverged.

    Raises:
        TransferError: the detections are gone, or those of another run.
    """
    if result["status"] == DIVERGED:
        return None
    task, evaluated = task_of(cfg), folder / "inference" / cfg.DATASETS.TEST[0]
    detections = evaluated / RESULTS_FILE
    if not detections.exists():
        raise TransferError(
            f"{detections} is gone: remove the folder {folder}, and its run is trained again"
        )
    matches = match_detections(truth_file(evaluated), detections, task, detection_limit(cfg))
    ap, recorded = average_precision(matches), result["results"].get(f"{task}/AP") or 0.0
    if not math.isclose(0.0 if math.isnan(ap) else ap, recorded, abs_tol=0.01):
        raise TransferError(
            f"{folder}: AP is {ap:.2f} by {RESULTS_FILE} and {recorded:.2f} by {RESULT_FILE}: "
            "they are of different runs. Remove the folder, and its run is trained again"
        )
    return matches


@dataclass(frozen=True)
class ScoredOn:
    """The test sets of a run, and how many classes it was scored on.

    Attributes:
        base: names of the sets for base classes; none of a model that was not extended.
        novel_classes: None where a model that was not extended detected nothing.
    """

    base: tuple[str, ...]
    novel: tuple[str, ...]
    base_classes: int
    novel_classes: int | None

    def comparable(self, other: ScoredOn) -> bool:
        """Whether figures that both have are of the same classes in the same sets.

        A model of the novel classes alone has one of the sets that an extended one is scored on.
        """
        if self.base and other.base:
            return self == other
        shared = set(self.novel) <= set(other.novel) or set(other.novel) <= set(self.novel)
        known = None not in (self.novel_classes, other.novel_classes)
        return shared and (not known or self.novel_classes == other.novel_classes)

    def __str__(self) -> str:
        base = f"base classes on {', '.join(self.base)}; " if self.base else ""
        count = "" if self.novel_classes is None else f"{self.novel_classes} "
        return f"{base}{count}novel on {', '.join(self.novel)}"


@dataclass(frozen=True)
class RunScores:
    """One run.

    Attributes:
        row: the folder's name without its seed; that of the folder above where nothing is left.
        seed: its digits; "" where the name has none.
        figures: AP from 0 to 100 by FIGURES; "forgetting" is AP before less after. None for what
            the run does not know.
    """

    folder: Path
    row: str
    seed: str
    scored: ScoredOn
    figures: Mapping[str, float | None]


def read_runs(folders: Sequence[Path], task: str) -> list[RunScores]:
    """The runs in ``folders``, in that order.

    Args:
        task: "segm" or "bbox".

    Raises:
        TransferError: a folder that is not there, unfinished runs, damaged files, runs that were
            tested on other sets than the first, or two of the same row and seed.
    """
    configs = {folder: _config(folder) for folder in folders}
    unfinished = [
        f"{folder} ({reason})"
        for folder, cfg in configs.items()
        if (reason := _left_to_do(folder, cfg))
    ]
    if unfinished:
        raise TransferError(
            f"not finished: {', '.join(unfinished)}; train first, or go on with --resume"
        )
    runs = [_read_run(folder, configs[folder], task) for folder in folders]
    _require_one_a_seed(runs)
    _require_same_sets(runs)
    return runs


def row_and_seed(folder: Path) -> tuple[str, str]:
    """``few_5shot_seed2`` -> ``("few_5shot", "2")``."""
    path = Path(os.path.abspath(folder))  # ".." goes, a link keeps its name
    row = _SEED.sub("", path.name).strip("_-")
    return row or path.parent.name, "_".join(_SEED.findall(path.name))


def _config(folder: Path) -> CfgNode | None:
    """``config.yaml``; None where only the figures were kept."""
    if not folder.is_dir():
        raise TransferError(f"{folder}: no such folder; give OUTPUT_DIRs of finished runs")
    path = folder / "config.yaml"
    try:
        return load_config(str(path)) if path.is_file() else None
    except ConfigError as error:
        raise TransferError(f"{path} cannot be read: {error}") from None


def _left_to_do(folder: Path, cfg: CfgNode | None) -> str:
    """Why the run in ``folder`` is not finished; "" where it is, or was evaluated alone."""
    if not (folder / EVALUATION_FILE).is_file():
        return f"no {EVALUATION_FILE}"
    curve = read_json(folder / CURVE_FILE, list, [])  # none of a run that was not trained
    if cfg is None or not curve:
        return ""
    done, most = curve[-1]["iteration"], cfg.SOLVER.MAX_ITER
    ended_early = cfg.TEST.EARLY_STOPPING and (folder / FINAL_FILE).is_file()
    return "" if done >= most or ended_early else f"iteration {done} of {most}"


def _read_run(folder: Path, cfg: CfgNode | None, task: str) -> RunScores:
    content = read_json(folder / EVALUATION_FILE, dict)
    extension = content.get(EXTENSION_KEY)
    extended = cfg is not None and cfg.MODEL.TRANSFER.EXTEND
    if extended if extension is None else extension["base_classes"] is None:
        raise TransferError(
            f"{folder} was extended, but its {EVALUATION_FILE} does not tell base and novel "
            f"classes apart; evaluate it again ({typed('train')} --eval-only) with MODEL.WEIGHTS "
            "in place"
        )
    name = "" if extension else _tested_on(folder, content, cfg)
    by_task = extension or content[name]
    if task not in by_task:
        raise TransferError(f"{folder} has box AP alone: its model has no masks; add --box")
    found, figures = by_task[task], dict.fromkeys(FIGURES)
    if extension:
        sets, counts = extension["sets"], (extension["base_classes"], extension["novel_classes"])
        scored = ScoredOn(tuple(sets["base"]), tuple(sets["novel"]), *counts)
        forgotten = (found["forgetting"] or {}).get("ap")
        figures = {name: found[name] for name in FIGURES} | {"forgetting": forgotten}
    else:
        # AP is undefined only where the model detected nothing: sets without objects are refused
        classes = sum(key.startswith("AP-") for key in found) or 1
        scored = ScoredOn((), (name,), 0, None if found["AP"] is None else classes)
        figures["novel"] = found["AP"] or 0.0
    return RunScores(folder, *row_and_seed(folder), scored, figures)


def _tested_on(folder: Path, content: Json, cfg: CfgNode | None) -> str:
    """The one set of a model that was not extended."""
    # evaluation.json keeps what earlier evaluations found on other sets
    sets = list(cfg.DATASETS.TEST if cfg else content)
    if len(sets) != 1 or sets[0] not in content:
        raise TransferError(
            f"{folder} has figures of {', '.join(content) or 'no set'}, and is tested on "
            f"{', '.join(sets) or 'none'}: expected one test set of a model that was not extended; "
            "evaluate it with the set of the novel classes as its DATASETS.TEST"
        )
    return sets[0]


def _require_one_a_seed(runs: Sequence[RunScores]) -> None:
    known: dict[tuple[str, str], RunScores] = {}
    for run in runs:
        other = known.setdefault((run.row, run.seed), run)
        if other is not run:
            seed = f"with seed {run.seed}" if run.seed else "without a seed in its name"
            raise TransferError(
                f"{other.folder} and {run.folder} are both a run {run.row!r} {seed}: expected one "
                "a seed; leave one out, or name the folders apart"
            )


def _require_same_sets(runs: Sequence[RunScores]) -> None:
    first = next((run for run in runs if run.scored.base), runs[0])
    others = [run for run in runs if not run.scored.comparable(first.scored)]
    if others:
        raise TransferError(
            f"tested on other sets or classes than {first.folder} ({first.scored}): "
            + ", ".join(f"{run.folder} ({run.scored})" for run in others)
            + "; leave them out, or evaluate all with the same DATASETS.TEST and TEST_BASE"
        )
