"""The page of a single run, from the files of its OUTPUT_DIR: those that are there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.report.page import (
    Figures,
    ap_text,
    count,
    decimal,
    described,
    drift_table,
    interval,
    task_name,
    write_page,
)
from transfer_maskrcnn.report.run_sections import (
    View,
    losses_picture,
    validation_picture,
    view_explanation,
    view_extension,
    view_plan,
)
from transfer_maskrcnn.report.tiles import (
    DETECTION_COLOUR,
    MIN_SCORE,
    OBJECT_COLOUR,
    comparison_tiles,
)
from transfer_maskrcnn.text import listed

FILES = (
    "evaluation.json",
    "eval_history.json",
    "metrics.json",
    "transfer_plan.json",
    "run.json",
    "drift.json",
)
# Of run.json, what a reader needs to repeat the run.
_REPEAT = ("seed", "device", "machine", "precision", "threads", "processes", "versions")
_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_INTERVAL = "95 % interval"
_SIZES = {"APs": "small objects", "APm": "medium objects", "APl": "large objects"}


def write_run_report(folder: Path) -> Path:
    """Write ``report.html``: one file, without scripts, that needs nothing beside itself.

    Args:
        folder: a run's OUTPUT_DIR. What has no file has no section; what is damaged is named.

    Returns:
        the path of the page.

    Raises:
        TransferError: the folder holds no file of a run.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise TransferError(
            f"{folder} holds no run: none of {', '.join(FILES)} is there; give a run's OUTPUT_DIR"
        )
    return write_page(folder, "run.html", _Run(folder).view())


class _Run:
    """A run's files, as its page shows them. ``damaged``: a sentence for each that is."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.damaged: list[str] = []

    def view(self) -> View:
        """The variables of the template."""
        curve = self._read("eval_history.json", list, list) or []
        losses, lost = read_lines(self._folder / "metrics.json")
        if lost:
            self.damaged.append(f"metrics.json: {lost} of its lines are damaged and left out.")
        tested = sorted(path for path in (self._folder / "inference").glob("*") if path.is_dir())
        views = (
            self._read(f"inference/{p.name}/explanation.json", dict, partial(view_explanation, p))
            for p in tested
        )
        explained = [view for view in views if view]
        show = partial(_evaluated, intervals={e["dataset"]: e["intervals"] for e in explained})
        evaluated = self._read("evaluation.json", dict, show) or {
            **_evaluated({}, {}),
            "sentences": ["This run has no evaluation: evaluation.json is missing."],
        }
        manifest = self._read("run.json", dict, _manifest) or _manifest({})
        if (self._folder / "config.yaml").is_file():
            manifest["repeat"].append(("configuration", "config.yaml beside this page, complete"))
        pictures = [
            (
                p.name,
                self._guard(f"inference/{p.name}", partial(comparison_tiles, {"detections": [p]})),
            )
            for p in tested
        ]
        return {
            "name": self._folder.resolve().name,
            **evaluated,
            **manifest,
            "plots": [*filter(None, (losses_picture(losses, curve), validation_picture(curve)))],
            "pseudo_labels": self._read("pseudo_labels.json", dict, lambda file: file["sentence"]),
            "explanations": explained,
            "colours": {"ground truth": OBJECT_COLOUR, "detection": DETECTION_COLOUR},
            "plan": self._read("transfer_plan.json", dict, view_plan),
            "moved": self._read("drift.json", dict, lambda drift: drift_table({"moved": drift})),
            "pictures": [(name, tiles) for name, tiles in pictures if tiles],
            "min_score": MIN_SCORE,
            "damaged": self.damaged,
        }

    def _read(self, name: str, kind: type[Any], show: Callable[[Any], Any]) -> Any:
        """What ``show`` makes of a file; None where there is none, or it is damaged."""
        path = self._folder / name
        return self._guard(name, lambda: show(read_json(path, kind))) if path.is_file() else None

    def _guard(self, name: str, show: Callable[[], Any]) -> Any:
        try:
            return show()
        except (TransferError, AttributeError, LookupError, TypeError, ValueError):
            self.damaged.append(f"{name} is damaged; what it holds is left out.")
            return None


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of detectron2's ``metrics.json``, by iteration, and how many lines are damaged.

    Lines of the same iteration, as resumed runs write them, become one row; the last has its say. A
    last line that was cut is a sign of a kill, not of damage.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows: dict[int, dict[str, Any]] = {}
    lost = 0
    for line in text.splitlines(keepends=True):
        try:
            row = json.loads(line)
            rows.setdefault(int(row["iteration"]), {}).update(row)
        except (LookupError, TypeError, ValueError):
            lost += line.endswith("\n") and bool(line.strip())
    return [rows[iteration] for iteration in sorted(rows)], lost


def _evaluated(content: dict[str, Any], intervals: Mapping[str, Any]) -> View:
    """Of ``evaluation.json``: AP in sentences and tables, and what is known of base classes.

    Args:
        intervals: dataset -> task -> ends of AP's.
    """
    extension = content.pop("extension", {})  # the only part that is no dataset
    known = [(name, tasks, intervals.get(name, {})) for name, tasks in content.items()]
    return {
        "sentences": [_sentence(*one) for one in known],
        "evaluations": [_tables(*one) for one in known],
        "extension": view_extension(extension),
    }


def _sentence(dataset: str, tasks: Mapping[str, Figures], ends: Mapping[str, Any]) -> str:
    reached = [
        f"{decimal(tasks[task]['AP'])} {task_name(task)} AP"
        + (f" ({interval(ends[task])})" if task in ends else "")
        for task in ("segm", "bbox", "keypoints")
        if tasks.get(task, {}).get("AP") is not None
    ]
    if not reached:
        return f"The model detects nothing on {dataset}."
    return f"The model reaches {listed(reached)} on {dataset}."


def _tables(dataset: str, tasks: Mapping[str, Figures], ends: Mapping[str, Any]) -> View:
    """One dataset's AP: a row a task of ``figures``, a row a class of ``classes``."""
    titles = [title for title in _SUMMARY if any(title in figures for figures in tasks.values())]
    titles[1:1] = [_INTERVAL] * bool(ends)  # behind AP
    of_classes = {task: [k for k in found if k.startswith("AP-")] for task, found in tasks.items()}
    scored = [task for task, keys in of_classes.items() if keys]
    classes = dict.fromkeys(key for keys in of_classes.values() for key in keys)
    return {
        "dataset": dataset,
        "titles": [f"{title} ({_SIZES[title]})" if title in _SIZES else title for title in titles],
        "figures": [
            (
                f"{task_name(task)} AP",
                [
                    interval(ends.get(task)) if title == _INTERVAL else ap_text(title, found)
                    for title in titles
                ],
            )
            for task, found in tasks.items()
        ],
        "has_interval": bool(ends),
        "tasks": [f"{task_name(task)} AP" for task in scored],
        "classes": [
            (key.removeprefix("AP-"), [ap_text(key, tasks[task]) for task in scored])
            for key in classes
        ],
    }


def _manifest(content: dict[str, Any]) -> View:
    """Of ``run.json``: its command, its cost, and the rest of what a reader needs to repeat it."""
    known = {**content, "seed": content.get("spec", {}).get("seed")}
    cost = content.get("cost")
    return {
        "command": shlex.join(map(str, content.get("command", ()))),
        "cost": f"Training took {count(cost['seconds'])} s and {count(cost['peak_memory_mb'])} MB "
        "of memory at its peak."
        if cost
        else "",
        "repeat": [(k, described(known[k])) for k in _REPEAT if known.get(k) is not None],
    }
