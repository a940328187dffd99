"""The page of a single run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.explanation_view import ExplanationView, view_explanation
from transfer_maskrcnn.report.extension_view import (
    ExtensionView,
    pseudo_labels_sentence,
    view_extension,
)
from transfer_maskrcnn.report.page import write_page
from transfer_maskrcnn.report.pictures import (
    DETECTION_COLOUR,
    OBJECT_COLOUR,
    Tiles,
    comparison_tiles,
)
from transfer_maskrcnn.report.plan_view import PlanView, view_plan
from transfer_maskrcnn.report.run_input import RunFiles, read_run
from transfer_maskrcnn.report.run_plots import losses_picture, validation_picture
from transfer_maskrcnn.report.study_input import Figures
from transfer_maskrcnn.report.tables import drift_table
from transfer_maskrcnn.report.texts import count, decimal, listed, task_name, why_undefined

MIN_SCORE = 0.5
_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_SIZES = {"APs": "small objects", "APm": "medium objects", "APl": "large objects"}


@dataclass(frozen=True)
class Evaluation:
    """One dataset's AP: a row a task of ``figures``, a row a class of ``tasks``."""

    dataset: str
    titles: tuple[str, ...]
    figures: tuple[tuple[str, tuple[str, ...]], ...]
    tasks: tuple[str, ...]
    classes: tuple[tuple[str, tuple[str, ...]], ...]


def write_run_report(folder: Path) -> Path:
    """Write ``report.html``: one file, without scripts, that needs nothing beside itself.

    Args:
        folder: a run's OUTPUT_DIR. What has no file has no section; what is damaged is named.

    Returns:
        the path of the page.

    Raises:
        TransferError: the folder holds no file of a run.
    """
    return write_page(folder, "run.html", _content(read_run(folder)))


def _content(run: RunFiles) -> dict[str, Any]:
    plots = [losses_picture(run.metrics, run.curve), validation_picture(run.curve)]
    plan, damaged = _plan(run)
    explanations, unexplained = _explanations(run)
    extension, unknown = _extension(run)
    labelled, unlabelled = _pseudo_labels(run)
    pictures, undrawn = _pictures(run.folder)
    return {
        "name": run.folder.resolve().name,
        "sentences": list(_sentences(run)),
        "damaged": (*run.unreadable, *damaged, *unexplained, *unknown, *unlabelled, *undrawn),
        "cost": _cost(run.cost),
        "plots": [plot for plot in plots if plot is not None],
        "extension": extension,
        "pseudo_labels": labelled,
        "evaluations": [_evaluation(name, tasks) for name, tasks in run.evaluation.items()],
        "explanations": explanations,
        "colours": {"there": OBJECT_COLOUR, "detected": DETECTION_COLOUR},
        "plan": plan,
        "moved": drift_table({"moved": run.drift}),
        "pictures": pictures,
        "min_score": MIN_SCORE,
        "command": _command(run.environment.get("command")),
        "repeat": _repeat(run),
    }


def _plan(run: RunFiles) -> tuple[PlanView | None, list[str]]:
    try:
        return view_plan(run.plan), []
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, ["transfer_plan.json is damaged; what it holds is left out."]


def _extension(run: RunFiles) -> tuple[ExtensionView | None, list[str]]:
    try:
        return view_extension(run.extension), []
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, ["What evaluation.json has of base and novel classes is damaged."]


def _pseudo_labels(run: RunFiles) -> tuple[str, list[str]]:
    try:
        return pseudo_labels_sentence(run.pseudo_labels), []
    except (AttributeError, KeyError, TypeError, ValueError):
        return "", ["pseudo_labels.json is damaged; what it holds is left out."]


def _explanations(run: RunFiles) -> tuple[list[ExplanationView], list[str]]:
    found, damaged = [], []
    for dataset, content in run.explanations.items():
        if not content:
            continue
        try:
            found.append(view_explanation(run.folder / "inference" / dataset, content))
        except TransferError as error:
            damaged.append(str(error))
        except (AttributeError, LookupError, TypeError):
            damaged.append(f"explanation.json of {dataset} is damaged; evaluate again.")
    return found, damaged


def _sentences(run: RunFiles) -> Iterator[str]:
    """What the model reaches on each dataset, in a sentence."""
    if not run.evaluation:
        yield "This run has no evaluation: evaluation.json is missing."
    for dataset, tasks in run.evaluation.items():
        reached = [
            f"{decimal(tasks[task]['AP'])} {task_name(task)} AP"
            for task in ("segm", "bbox", "keypoints")
            if tasks.get(task, {}).get("AP") is not None
        ]
        if reached:
            yield f"The model reaches {listed(reached)} on {dataset}."
        else:
            yield f"The model detects nothing on {dataset}."


def _cost(cost: Figures) -> str:
    seconds, memory = cost.get("seconds"), cost.get("peak_memory_mb")
    took = [f"Training took {count(seconds)} s"] if seconds is not None else []
    used = [f"{count(memory)} MB of memory at its peak"] if memory is not None else []
    return " and ".join(took + used) + "." if took or used else ""


def _evaluation(dataset: str, tasks: Mapping[str, Figures]) -> Evaluation:
    titles = [title for title in _SUMMARY if any(title in figures for figures in tasks.values())]
    figures = [
        (f"{task_name(task)} AP", tuple(_text(title, found) for title in titles))
        for task, found in tasks.items()
    ]
    per_class = {task: found for task, found in tasks.items() if any(map(_is_class, found))}
    classes = dict.fromkeys(key for found in per_class.values() for key in found if _is_class(key))
    return Evaluation(
        dataset,
        tuple(f"{title} ({_SIZES[title]})" if title in _SIZES else title for title in titles),
        tuple(figures),
        tuple(f"{task_name(task)} AP" for task in per_class),
        tuple(
            (key[3:], tuple(_text(key, found) for found in per_class.values())) for key in classes
        ),
    )


def _is_class(key: str) -> bool:
    return key.startswith("AP-")


def _text(key: str, figures: Figures) -> str:
    value = figures.get(key)
    return why_undefined(key, figures) if value is None else decimal(value)


def _pictures(folder: Path) -> tuple[list[tuple[str, Tiles]], list[str]]:
    """Dataset and sample predictions, where images, ground truth and predictions are there; and
    what is damaged."""
    found, damaged = [], []
    for inference in sorted(path for path in (folder / "inference").glob("*") if path.is_dir()):
        truth = inference / f"{inference.name}_ground_truth.json"
        predictions = {"predictions": inference / "coco_instances_results.json"}
        if not truth.is_file() or not predictions["predictions"].is_file():
            continue
        try:
            tiles = comparison_tiles(truth, predictions, min_score=MIN_SCORE)
        except TransferError as error:
            damaged.append(str(error))
        else:
            found += [(inference.name, tiles)] if tiles is not None else []
    return found, damaged


def _command(command: Any) -> str:
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def _repeat(run: RunFiles) -> list[tuple[str, str]]:
    """(name, words) for what ``run.json`` knows beside the command."""
    found = []
    for name, value in run.environment.items():
        if isinstance(value, Mapping):
            found.append((name, ", ".join(f"{key} {v}" for key, v in value.items())))
        elif name != "command" and value is not None:
            found.append((name, str(value)))
    if (run.folder / "config.yaml").is_file():
        found.append(("configuration", "config.yaml beside this page, complete"))
    return found
