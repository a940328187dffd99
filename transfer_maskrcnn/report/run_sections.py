"""Sections and plots of a run's page, each from what one of its files holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.plots import (
    INK,
    dress,
    from_zero,
    legend_above,
    line,
    looks,
    page_axes,
    page_picture,
    plain,
)
from transfer_maskrcnn.report.texts import (
    HeatCell,
    count,
    decimal,
    heat,
    interval,
    kept,
    metric_name,
    task_name,
)
from transfer_maskrcnn.report.tiles import mistake_tiles
from transfer_maskrcnn.text import percent, plural

Json = Mapping[str, Any]
View = dict[str, Any]  # what a section of ``templates/run.html`` shows

SIZES = ("small", "medium", "large")
_FATES = {
    "kept": "kept",
    "rows": "class by class",
    "initialised": "initialised",
    "dropped": "dropped",
}
_FIGURES = {"base": "base classes", "before": "before", "novel": "novel classes", "all": "all",
            "harmonic_mean": "harmonic mean"}  # fmt: skip
MOST_BARS = 24
_BAR = 0.38  # of the place of a class
_LOSSES = {
    "loss_cls": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
    "loss_rpn_cls": "RPN objectness",
    "loss_rpn_loc": "RPN box",
    "loss_distill_cls": "kept class",
    "loss_distill_box": "kept box",
    "loss_distill_mask": "kept mask",
    "loss_distill_rpn": "kept objectness",
}
_AP = re.compile(r"(?:.+/)?(?:bbox|segm|keypoints)/AP")
_MOST_CLASSES = 20
_WORTH = (0xF2, 0xA5, 0x6B)  # the shade of a repair that brings 50 points or more


def view_plan(plan: Json) -> View:
    """A ``transfer_plan.json``: in a sentence, part by part, reason by reason."""
    keep = plan["keep"] if isinstance(plan["keep"], str) else ", ".join(plan["keep"])
    groups: dict[tuple[str, str], list[Json]] = {}
    for tensor in plan["tensors"]:
        groups.setdefault((tensor["fate"], tensor["reason"]), []).append(tensor)
    return {
        "summary": f"{percent(plan['loaded_fraction'])} of the model’s parameters come from "
        f"{plan['source'] or 'no file'} (KEEP {keep}: {kept(keep)}).",
        "parts": plan["parts"],
        "reasons": [
            {
                "fate": _FATES[fate],
                "reason": reason,
                "parameters": sum(t["parameters"] for t in members),
                "tensors": [(t["target"] or t["source"], _shape(t)) for t in members],
            }
            for (fate, reason), members in sorted(
                groups.items(), key=lambda group: list(_FATES).index(group[0][0])
            )
        ],
        "classes": [(row["target"], _source(row), row["words"]) for row in plan["classes"]],
        "remarks": [
            f"{p['text']} {p['remedy']}".strip() for p in (*plan["problems"], *plan["notes"])
        ],
    }


def _source(row: Json) -> str:
    averaged = row.get("averaged")
    return f"mean of {', '.join(averaged)}" if averaged else row["source"] or "none"


def _shape(tensor: Json) -> str:
    shape = tensor["target_shape"] or tensor["source_shape"] or []
    return " × ".join(map(str, shape)) or "scalar"


def view_extension(extension: Json) -> View | None:
    """Base and novel classes, from ``evaluation.json``; None where it holds no figures."""
    tasks = [task for task in ("segm", "bbox") if task in extension]
    if not tasks:
        return None
    sets = extension["sets"]
    return {
        "lines": extension.get("lines", ()),
        "titles": [*_FIGURES.values(), "forgotten", "95 % interval"],
        "rows": [(f"{task_name(task)} AP", _row(extension[task])) for task in tasks],
        "sets": {"base": sets["base"], "novel": sets["novel"]},
        "images": plural(extension[tasks[0]]["images"], "image"),
        "plot": before_and_after_picture(extension[tasks[0]]["classes"], task_name(tasks[0])),
    }


def _row(figures: Json) -> list[str]:
    lost = figures["forgetting"] or {}
    return [
        *(decimal(figures[name]) for name in _FIGURES),
        decimal(lost.get("ap")),
        interval([lost.get("low"), lost.get("high")]),
    ]


def view_explanation(folder: Path, content: Json) -> View:
    """An ``explanation.json``: why AP is what it is, in tables and in pictures of mistakes.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``.
        content: of the file: task -> explanation.
    """
    first = next(iter(content.values()))
    tiles = mistake_tiles(
        folder / f"{folder.name}_ground_truth.json",
        folder / "coco_instances_results.json",
        first["examples"],
    )
    return {
        "dataset": folder.name,
        "sentence": first["sentence"],
        "notes": first["notes"],
        "tasks": [_task(task, explanation) for task, explanation in content.items()],
        "pictures": [(k, what, tiles[k]) for k, what in first["kinds"].items() if k in tiles],
    }


def _task(task: str, explanation: Json) -> View:
    figures = explanation["figures"]
    kinds = [kind for kind in figures["repairs"] if kind != "mask" or task == "segm"]
    sizes = [(figures["sizes"][size]["found"], figures["sizes"][size]["objects"]) for size in SIZES]
    found, objects = (sum(numbers) for numbers in zip(*sizes, strict=True))
    loose = f"{decimal(figures['loose_boxes'])} to inexact boxes"
    if task == "segm":
        loose += f" and {decimal(figures['loose_masks'])} to masks worse than their boxes"
    ap50 = figures["class_ap50"]
    worst = sorted(ap50, key=lambda name: ap50[name])
    return {
        "title": f"{task_name(task).capitalize()} AP",
        "summary": f"AP {decimal(figures['ap'])}, AP50 {decimal(figures['ap50'])}: from AP50 to "
        f"AP, stricter thresholds lose {loose}. {plural(figures['detections'], 'detection')} of "
        f"{plural(objects, 'object')}.",
        "sentence": explanation["sentence"],
        "mistakes": [_mistake(k, explanation["kinds"][k], figures["repairs"][k]) for k in kinds],
        "found": [
            f"{count(f)} of {count(o)}" if o else "none there"
            for f, o in [(found, objects), *sizes]
        ],
        "kinds": kinds,
        "classes": [
            (name, [HeatCell(decimal(ap50[name])), *_of_class(figures["repairs"], kinds, name)])
            for name in worst[:_MOST_CLASSES]
        ],
        "more_classes": max(0, len(worst) - _MOST_CLASSES),
    }


def _mistake(kind: str, what: str, repair: Json) -> View:
    gains = [repair["gain"], *(repair["by_size"][size] for size in SIZES)]
    return {"kind": kind, "what": what, "count": count(repair["count"]), "gains": _cells(gains)}


def _of_class(repairs: Json, kinds: Sequence[str], name: str) -> list[HeatCell]:
    return _cells([repairs[kind]["by_class"].get(name) for kind in kinds])


def _cells(gains: Sequence[float | None]) -> list[HeatCell]:
    return [heat(decimal(gain), (gain or 0.0) / 50, _WORTH) for gain in gains]


def losses_picture(metrics: Sequence[Json], curve: Sequence[Json]) -> Picture | None:
    """Training's total loss and its parts, and the total on validation images where measured.

    Args:
        metrics: rows of ``metrics.json``, by iteration.
        curve: rows of ``eval_history.json``, by iteration.
    """
    parts = sorted({k for row in metrics for k in row if k.startswith("loss_")})
    series = {key: _series(metrics, key) for key in ["total_loss", *parts]}
    series = {key: points for key, points in series.items() if points}
    validation = _series(curve, "val_loss")
    if not series and not validation:
        return None
    figure, axes = page_axes()
    entries: list[tuple[str, Artist]] = []
    styles = looks(parts)
    for key, points in series.items():
        colour, width = (styles[key].colour, 1.3) if key in styles else (INK, 2.2)
        style = {"color": colour, "linewidth": width, "marker": "." if len(points) == 1 else ""}
        name = "total" if key == "total_loss" else _LOSSES.get(key, key)
        entries.append((plain(name), _line(axes, points, **style)))
    if validation:
        style = {"color": INK, "linestyle": "--", "marker": "o", "markersize": 4}
        entries.append(("total, validation", _line(axes, validation, **style)))
    dress(axes, "iteration", "loss")
    from_zero(axes, least=0.1)
    legend_above(axes, entries)
    totals = {"the total": series.get("total_loss"), "the total on validation images": validation}
    words = [
        f"; {name} goes from {decimal(points[0][1], 2)} to {decimal(points[-1][1], 2)}"
        for name, points in totals.items()
        if points
    ]
    return page_picture(figure, f"Losses during training{''.join(words)}.", "Losses")


def validation_picture(curve: Sequence[Json]) -> Picture | None:
    """AP on the validation images during training; None where it was measured only once."""
    keys = sorted({key for row in curve for key in row if _AP.fullmatch(key)}, reverse=True)
    series = {key: points for key in keys if (points := _series(curve, key))}
    if len({iteration for points in series.values() for iteration, _ in points}) < 2:
        return None
    figure, axes = page_axes()
    entries: list[tuple[str, Artist]] = []
    words = []
    for (key, points), look in zip(series.items(), looks(keys).values(), strict=False):
        dataset, _, task = key.removesuffix("/AP").rpartition("/")
        name = f"{metric_name(f'{task}/AP')}{f', {dataset}' if dataset else ''}"
        style = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
        entries.append((plain(name), _line(axes, points, **style)))
        words.append(f"{name} from {decimal(points[0][1])} to {decimal(points[-1][1])}")
    dress(axes, "iteration", "AP")
    from_zero(axes)
    legend_above(axes, entries)
    return page_picture(figure, f"AP during training: {'; '.join(words)}.", "Validation AP")


def before_and_after_picture(classes: Mapping[str, Json], kind: str) -> Picture | None:
    """Two bars a base class, before and after; of many classes those that changed most.

    Args:
        classes: name -> "before" and "after", None where that is not known.
        kind: of AP, "mask" or "box".
    """
    known = {name: ap for name, ap in classes.items() if None not in ap.values()}
    if not known:
        return None
    changed = sorted(known, key=lambda name: -abs(known[name]["before"] - known[name]["after"]))
    names = [name for name in known if name in changed[:MOST_BARS]]
    figure, axes = page_axes(1.2 + 0.34 * len(names))
    places, entries = np.arange(len(names)), []
    for when, look in looks(["after", "before"]).items():
        above = places + (_BAR / 2 if when == "after" else -_BAR / 2)
        aps = [known[name][when] for name in names]
        bars = axes.barh(above, aps, height=_BAR, color=look.colour)
        axes.bar_label(bars, fmt=decimal, padding=3, fontsize=8)
        entries.append((f"{when} training", bars[0]))
    dress(axes, f"{kind} AP", grid="x")
    axes.margins(x=0.1)
    axes.set_yticks(places, [plain(name) for name in names])
    axes.invert_yaxis()
    legend_above(axes, entries[::-1])
    words = "; ".join(
        f"{name} {decimal(known[name]['before'])} before, {decimal(known[name]['after'])} after"
        for name in names
    )
    hidden = len(known) > len(names)
    which = f", the {MOST_BARS} of {len(known)} that changed most" if hidden else ""
    return page_picture(figure, f"{kind} AP: {words}.", f"Base classes, before and after{which}")


def _line(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> Artist:
    return line(axes, [x for x, _ in points], [y for _, y in points], **style)


def _series(rows: Sequence[Json], key: str) -> list[tuple[float, float]]:
    """(iteration, value) of the rows that have a value: a loss may have become NaN."""
    pairs = ((row["iteration"], row.get(key)) for row in rows)
    return [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
