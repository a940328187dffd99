"""Why AP is what it is, as the page of a run shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer_maskrcnn.report.pictures import mistake_tiles
from transfer_maskrcnn.report.plots import Picture
from transfer_maskrcnn.report.tables import HeatCell
from transfer_maskrcnn.report.texts import count, decimal, plural, task_name

SIZES = ("small", "medium", "large")
_MOST_CLASSES = 20
_WORTH = (0xF2, 0xA5, 0x6B)  # the shade of a repair that brings 50 points or more


@dataclass(frozen=True)
class Mistake:
    """A row of the table: the mistake, what it is, how many, and AP50 gained: whole, by size."""

    kind: str
    what: str
    count: str
    gains: tuple[HeatCell, ...]


@dataclass(frozen=True)
class TaskView:
    """The tables of one task."""

    title: str
    summary: str
    sentence: str
    mistakes: tuple[Mistake, ...]
    found: tuple[str, ...]
    kinds: tuple[str, ...]
    classes: tuple[tuple[str, tuple[HeatCell, ...]], ...]
    more_classes: int


@dataclass(frozen=True)
class ExplanationView:
    """One dataset: the sentence, the tables of each task, and pictures by kind of mistake."""

    dataset: str
    sentence: str
    notes: tuple[str, ...]
    tasks: tuple[TaskView, ...]
    pictures: tuple[tuple[str, str, tuple[Picture, ...]], ...]


def view_explanation(folder: Path, content: Mapping[str, Any]) -> ExplanationView:
    """The view of an ``explanation.json``.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``.
        content: of the file: task -> explanation.

    Raises:
        TransferError, AttributeError, LookupError, TypeError: the file is damaged, or not of the
            results beside it.
    """
    first = next(iter(content.values()))
    tiles = mistake_tiles(
        folder / f"{folder.name}_ground_truth.json",
        folder / "coco_instances_results.json",
        first["examples"],
    )
    return ExplanationView(
        dataset=folder.name,
        sentence=first["sentence"],
        notes=tuple(first["notes"]),
        tasks=tuple(_task(task, explanation) for task, explanation in content.items()),
        pictures=tuple((k, first["kinds"][k], tiles[k]) for k in first["kinds"] if k in tiles),
    )


def _task(task: str, explanation: Mapping[str, Any]) -> TaskView:
    figures = explanation["figures"]
    kinds = [kind for kind in figures["repairs"] if kind != "mask" or task == "segm"]
    objects = sum(group["objects"] for group in figures["sizes"].values())
    found = sum(group["found"] for group in figures["sizes"].values())
    ap50 = figures["class_ap50"]
    worst = sorted(ap50, key=lambda name: ap50[name])
    loose = [("inexact boxes", figures["loose_boxes"])]
    if task == "segm":
        loose.append(("masks worse than their boxes", figures["loose_masks"]))
    lost = " and ".join(f"{decimal(value)} to {what}" for what, value in loose)
    return TaskView(
        title=f"{task_name(task).capitalize()} AP",
        summary=f"AP {decimal(figures['ap'])}, AP50 {decimal(figures['ap50'])}: from AP50 to AP, "
        f"stricter thresholds lose {lost}. {plural(figures['detections'], 'detection')} of "
        f"{plural(objects, 'object')}.",
        sentence=explanation["sentence"],
        mistakes=tuple(_mistake(k, explanation["kinds"][k], figures["repairs"][k]) for k in kinds),
        found=tuple(
            f"{count(f)} of {count(o)}" if o else "none there"
            for f, o in [(found, objects)]
            + [(figures["sizes"][s]["found"], figures["sizes"][s]["objects"]) for s in SIZES]
        ),
        kinds=tuple(kinds),
        classes=tuple(
            (name, (HeatCell(decimal(ap50[name]), "#ffffff"), *_of_class(figures, kinds, name)))
            for name in worst[:_MOST_CLASSES]
        ),
        more_classes=max(0, len(worst) - _MOST_CLASSES),
    )


def _mistake(kind: str, what: str, repair: Mapping[str, Any]) -> Mistake:
    gains = [repair["gain"], *(repair["by_size"][size] for size in SIZES)]
    return Mistake(kind, what, count(repair["count"]), tuple(_cell(gain) for gain in gains))


def _of_class(figures: Mapping[str, Any], kinds: Sequence[str], name: str) -> tuple[HeatCell, ...]:
    return tuple(_cell(figures["repairs"][kind]["by_class"].get(name)) for kind in kinds)


def _cell(gain: float | None) -> HeatCell:
    depth = min((gain or 0.0) / 50, 1.0)
    shade = [round(255 + (full - 255) * depth) for full in _WORTH]
    return HeatCell(decimal(gain), "#" + "".join(f"{channel:02x}" for channel in shade))
