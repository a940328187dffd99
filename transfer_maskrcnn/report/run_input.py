"""The files of a single run's OUTPUT_DIR, as values: those that are there and can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.json_files import metrics, number, numbers, read_json
from transfer_maskrcnn.report.study_input import Figures

FILES = (
    "evaluation.json",
    "eval_history.json",
    "metrics.json",
    "transfer_plan.json",
    "run.json",
    "drift.json",
)
# Of run.json, what a reader needs to repeat the run.
_REPEAT = (
    *("command", "seed", "device", "machine", "precision", "threads", "processes", "versions"),
)
_EXTENSION = "extension"  # the only part of evaluation.json that is no dataset
Row = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """What a run left behind; empty where a file is missing.

    Attributes:
        evaluation: dataset -> task -> metric -> value, None where COCO has no number.
        curve, metrics: rows by iteration.
        plan: ``transfer_plan.json`` as it stands.
        explanations: dataset -> ``explanation.json`` as it stands.
        extension: what ``evaluation.json`` has of base and novel classes, as it stands.
        pseudo_labels: ``pseudo_labels.json`` as it stands.
        unreadable: a sentence for every file, or part of one, that is damaged.
    """

    folder: Path
    evaluation: dict[str, dict[str, Figures]]
    curve: list[Row]
    metrics: list[Row]
    plan: dict[str, Any]
    explanations: dict[str, dict[str, Any]]
    extension: dict[str, Any]
    pseudo_labels: dict[str, Any]
    environment: dict[str, Any]
    drift: Figures
    cost: Figures
    unreadable: tuple[str, ...]


def read_run(folder: Path) -> RunFiles:
    """The files in ``folder``.

    Raises:
        TransferError: the folder holds none of them.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise TransferError(
            f"{folder} holds no run: none of {', '.join(FILES)} is there; give a run's OUTPUT_DIR"
        )
    unreadable: list[str] = []

    def read(name: str, shape: type, convert: Callable[[Any], Any]) -> Any:
        try:
            content = read_json(folder / name)
            if content is None:
                return shape()
            if not isinstance(content, shape):
                raise TypeError(f"a JSON {type(content).__name__}")
            return convert(content)
        except (TransferError, AttributeError, KeyError, TypeError, ValueError):
            unreadable.append(f"{name} is damaged; what it holds is left out.")
            return shape()

    rows, lost = read_lines(folder / "metrics.json")
    if lost:
        unreadable.append(f"metrics.json: {lost} of its lines are damaged and left out.")
    evaluation = read("evaluation.json", dict, _evaluation)
    manifest = read("run.json", dict, _manifest)
    return RunFiles(
        folder,
        evaluation,
        read("eval_history.json", list, _by_iteration),
        rows,
        read("transfer_plan.json", dict, dict),
        {
            path.parent.name: read(str(path.relative_to(folder)), dict, dict)
            for path in sorted(folder.glob("inference/*/explanation.json"))
        },
        read("evaluation.json", dict, _extension) if evaluation else {},
        read("pseudo_labels.json", dict, dict),
        {key: manifest[key] for key in _REPEAT if key in manifest},
        read("drift.json", dict, numbers),
        numbers(manifest.get("cost", {})),
        tuple(unreadable),
    )


def read_lines(path: Path) -> tuple[list[Row], int]:
    """The rows of detectron2's ``metrics.json``, by iteration, and how many lines are damaged.

    Lines of the same iteration, as resumed runs write them, become one row; the last has its say. A
    last line that was cut is a sign of a kill, not of damage.
    """
    if not path.is_file():
        return [], 0
    text = path.read_text(encoding="utf-8", errors="replace")
    rows: list[Row] = []
    lost = 0
    for line in text.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and number(row.get("iteration")) is not None:
            rows.append(row)
        else:
            lost += line.endswith("\n") and bool(line.strip())
    return _by_iteration(rows), lost


def _by_iteration(rows: list[Row]) -> list[Row]:
    merged: dict[float, Row] = {}
    for row in rows:
        merged.setdefault(float(row["iteration"]), {}).update(row)
    return [merged[iteration] for iteration in sorted(merged)]


def _manifest(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "seed": content["spec"]["seed"]} if "spec" in content else content


def _evaluation(content: dict[str, Any]) -> dict[str, dict[str, Figures]]:
    return {
        dataset: {task: metrics(figures) for task, figures in tasks.items()}
        for dataset, tasks in content.items()
        if dataset != _EXTENSION
    }


def _extension(content: dict[str, Any]) -> dict[str, Any]:
    return dict(content.get(_EXTENSION, {}))
