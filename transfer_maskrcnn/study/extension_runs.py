"""What finished runs know of base and novel classes, read from their folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from transfer_maskrcnn.engine.hooks.eval_history import CURVE_FILE
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.explain.facts import EVALUATION_FILE
from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.incremental.forgetting import EXTENSION_KEY
from transfer_maskrcnn.surgery.load import FINAL_FILE

CONFIG_FILE = "config.yaml"
FIGURES = ("base", "novel", "all", "harmonic_mean", "forgetting", "before")
_DAMAGED = (AttributeError, KeyError, TypeError, ValueError, IndexError)
# not the "s0.5" of a scale, nor the end of "runs3"
_SEED = re.compile(
    r"(?:(?:^|[_-])(?:seed[_-]?|s)|seed)(\d+)(?![A-Za-z0-9.])",
    re.IGNORECASE,
)


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
    for folder in folders:
        if not folder.is_dir():
            raise TransferError(f"{folder}: no such folder; give OUTPUT_DIRs of finished runs")
    _require_finished(folders)
    runs = [_read_run(folder, task) for folder in folders]
    _require_one_a_seed(runs)
    _require_same_sets(runs)
    return runs


def row_and_seed(folder: Path) -> tuple[str, str]:
    """``few_5shot_seed2`` -> ``("few_5shot", "2")``."""
    path = Path(os.path.abspath(folder))  # ".." goes, a link keeps its name
    seeds = _SEED.findall(path.name)
    row = _SEED.sub("", path.name).strip("_-")
    return row or path.parent.name, "_".join(seeds)


def _require_finished(folders: Sequence[Path]) -> None:
    reasons = {folder: _left_to_do(folder) for folder in folders}
    unfinished = [f"{folder} ({reason})" for folder, reason in reasons.items() if reason]
    if unfinished:
        raise TransferError(
            f"not finished: {', '.join(unfinished)}; train first, or go on with --resume"
        )


def _left_to_do(folder: Path) -> str:
    """Why the run in ``folder`` is not finished; "" where it is, or was evaluated alone."""
    if not (folder / EVALUATION_FILE).is_file():
        return f"no {EVALUATION_FILE}"
    config, curve = _config(folder), read_json(folder / CURVE_FILE, list, missing=[])
    try:
        if not config or not curve:
            return ""
        done, most = int(curve[-1]["iteration"]), int(config["SOLVER"]["MAX_ITER"])
        stops_early = config.get("TEST", {}).get("EARLY_STOPPING")
    except _DAMAGED as error:
        raise _damaged(folder, f"{CURVE_FILE} or {CONFIG_FILE}", error) from None
    if done >= most or (stops_early and (folder / FINAL_FILE).is_file()):
        return ""
    return f"iteration {done} of {most}"


def _read_run(folder: Path, task: str) -> RunScores:
    content = read_json(folder / EVALUATION_FILE, dict)
    config = _config(folder)
    try:
        extension = content.get(EXTENSION_KEY)
        _require_told_apart(folder, extension, config)
        scored, figures = (
            _extended(folder, extension, task)
            if extension
            else _not_extended(folder, content, config, task)
        )
    except TransferError:
        raise
    except _DAMAGED as error:
        raise _damaged(folder, f"{EVALUATION_FILE} or {CONFIG_FILE}", error) from None
    return RunScores(folder, *row_and_seed(folder), scored, figures)


def _require_told_apart(
    folder: Path, extension: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> None:
    extended = config.get("MODEL", {}).get("TRANSFER", {}).get("EXTEND")
    unknown = extended if extension is None else extension["base_classes"] is None
    if unknown:
        raise TransferError(
            f"{folder} was extended, but its {EVALUATION_FILE} does not tell base and novel "
            "classes apart; evaluate it again (train_net.py --eval-only) with MODEL.WEIGHTS in "
            "place"
        )


def _extended(
    folder: Path, extension: Mapping[str, Any], task: str
) -> tuple[ScoredOn, dict[str, float | None]]:
    found = _of_task(folder, extension, task)
    sets = extension["sets"]
    counts = int(extension["base_classes"]), int(extension["novel_classes"])
    figures = {name: found[name] for name in FIGURES if name != "forgetting"}
    figures["forgetting"] = (found["forgetting"] or {}).get("ap")
    return ScoredOn(tuple(sets["base"]), tuple(sets["novel"]), *counts), figures


def _not_extended(
    folder: Path, content: Mapping[str, Any], config: Mapping[str, Any], task: str
) -> tuple[ScoredOn, dict[str, float | None]]:
    # evaluation.json keeps what earlier evaluations found on other sets
    sets = list(config["DATASETS"]["TEST"]) if config else list(content)
    if len(sets) != 1 or sets[0] not in content:
        raise TransferError(
            f"{folder} has figures of {', '.join(content) or 'no set'}, and is tested on "
            f"{', '.join(sets) or 'none'}: expected one test set of a model that was not extended; "
            "evaluate it with the set of the novel classes as its DATASETS.TEST"
        )
    found = _of_task(folder, content[sets[0]], task)
    ap = found["AP"]
    # COCO's AP is undefined only where the model detected nothing: sets without objects are refused
    classes = None if ap is None else sum(key.startswith("AP-") for key in found) or 1
    figures = {**dict.fromkeys(FIGURES), "novel": ap or 0.0}
    return ScoredOn((), (sets[0],), 0, classes), figures


def _of_task(folder: Path, by_task: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    if task not in by_task and task == "segm" and "bbox" in by_task:
        raise TransferError(f"{folder} has box AP alone: its model has no masks; add --box")
    found: Mapping[str, Any] = by_task[task]
    return found


def _config(folder: Path) -> dict[str, Any]:
    """``config.yaml``; empty where only the figures were kept."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(content)
    except (yaml.YAMLError, *_DAMAGED) as error:
        raise _damaged(folder, CONFIG_FILE, error) from None


def _damaged(folder: Path, file: str, error: Exception) -> TransferError:
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return TransferError(f"{folder}: {file} is damaged ({what}); repeat the run that wrote it")


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
