"""Sections and plots of a run's page, each from what one of its files holds."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer_maskrcnn.report.page import (
    HeatCell,
    Picture,
    count,
    decimal,
    interval,
    kept,
    metric_name,
    task_name,
)
from transfer_maskrcnn.report.plots import (
    INK,
    MOST_BARS,
    Entries,
    dress,
    legend_above,
    lines_picture,
    looks,
    name_rows,
    page_axes,
    page_picture,
)
from transfer_maskrcnn.report.tiles import explained_tiles
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
_WORTH = 50.0  # points that a repair brings, from where the shade is deepest


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
        "classes": [
            (
                row["target"],
                f"mean of {', '.join(row['averaged'])}"
                if row.get("averaged")
                else row["source"] or "none",
                row["words"],
            )
            for row in plan["classes"]
        ],
        "remarks": [
            f"{p['text']} {p['remedy']}".strip() for p in (*plan["problems"], *plan["notes"])
        ],
    }


def _shape(tensor: Json) -> str:
    return " × ".join(map(str, tensor["target_shape"] or tensor["source_shape"] or ())) or "scalar"


def view_extension(extension: Json) -> View | None:
    """Base and novel classes, from ``evaluation.json``; None where it holds no figures."""
    tasks = [task for task in ("segm", "bbox") if task in extension]
    if not tasks:
        return None
    first = extension[tasks[0]]
    return {
        "lines": extension.get("lines", ()),
        "titles": [*_FIGURES.values(), "forgotten", "95 % interval"],
        "rows": [(f"{task_name(task)} AP", _row(extension[task])) for task in tasks],
        "sets": {"base": extension["sets"]["base"], "novel": extension["sets"]["novel"]},
        "images": plural(first["images"], "image"),
        "plot": before_and_after_picture(first["classes"], task_name(tasks[0])),
    }


def _row(figures: Json) -> list[str]:
    lost = figures["forgetting"] or dict.fromkeys(("ap", "low", "high"))
    return [
        *(decimal(figures[name]) for name in _FIGURES),
        decimal(lost["ap"]),
        interval([lost["low"], lost["high"]]),
    ]


def view_explanation(folder: Path, content: Json) -> View:
    """An ``explanation.json``: why AP is what it is, in tables and in pictures of mistakes.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``.
        content: of the file: task -> explanation.
    """
    first = next(iter(content.values()))
    tiles, worst = explained_tiles(folder, first)
    return {
        "dataset": folder.name,
        "sentence": first["sentence"],
        "notes": first["notes"],
        "tasks": [_task(task, explanation) for task, explanation in content.items()],
        "pictures": [(k, what, tiles[k]) for k, what in first["kinds"].items() if k in tiles],
        "worst": [
            (os.path.basename(i["file_name"]), decimal(i["gain"], 2), i["words"])
            for i in first.get("worst_images", ())
        ],
        "worst_pictures": worst,
        "worst_are": first.get("worst_images_are", ""),
        "intervals": {
            task: ends
            for task, one in content.items()
            if None not in (ends := one["figures"].get("ap_interval", [None]))
        },
    }


def _task(task: str, explanation: Json) -> View:
    figures = explanation["figures"]
    repairs, ap50 = figures["repairs"], figures["class_ap50"]
    kinds = [kind for kind in repairs if kind != "mask" or task == "segm"]
    sizes = [(figures["sizes"][size]["found"], figures["sizes"][size]["objects"]) for size in SIZES]
    found, objects = (sum(numbers) for numbers in zip(*sizes, strict=True))
    loose = f"{decimal(figures['loose_boxes'])} to inexact boxes"
    if task == "segm":
        loose += f" and {decimal(figures['loose_masks'])} to masks worse than their boxes"
    worst = sorted(ap50, key=lambda name: ap50[name])
    return {
        "title": f"{task_name(task).capitalize()} AP",
        "summary": f"AP {decimal(figures['ap'])}, AP50 {decimal(figures['ap50'])}: from AP50 to "
        f"AP, stricter thresholds lose {loose}. {plural(figures['detections'], 'detection')} of "
        f"{plural(objects, 'object')}.",
        "sentence": explanation["sentence"],
        "mistakes": [
            {
                "kind": kind,
                "what": explanation["kinds"][kind],
                "count": count(repairs[kind]["count"]),
                "gains": _cells([repairs[kind]["gain"], *map(repairs[kind]["by_size"].get, SIZES)]),
            }
            for kind in kinds
        ],
        "found": [
            f"{count(f)} of {count(o)}" if o else "no object" for f, o in [(found, objects), *sizes]
        ],
        "kinds": kinds,
        "classes": [
            (
                name,
                [
                    HeatCell(decimal(ap50[name])),
                    *_cells([repairs[kind]["by_class"].get(name) for kind in kinds]),
                ],
            )
            for name in worst[:_MOST_CLASSES]
        ],
        "more_classes": max(0, len(worst) - _MOST_CLASSES),
    }


def _cells(gains: Sequence[float | None]) -> list[HeatCell]:
    depths = (max(0.0, min((gain or 0.0) / _WORTH, 1.0)) for gain in gains)
    return [HeatCell(decimal(g), round(depth, 2)) for g, depth in zip(gains, depths, strict=True)]


def losses_picture(metrics: Sequence[Json], curve: Sequence[Json]) -> Picture | None:
    """Training's total loss and its parts, and the total on validation images where measured.

    Args:
        metrics: rows of ``metrics.json``, by iteration.
        curve: rows of ``eval_history.json``, by iteration.
    """
    total, validation = _series(metrics, "total_loss"), _series(curve, "val_loss")
    parts = sorted({key for row in metrics for key in row if key.startswith("loss_")})
    lines = [
        ("total", total, {"color": INK, "linewidth": 2.2}),
        *(
            (_LOSSES.get(k, k), _series(metrics, k), {"color": look.colour, "linewidth": 1.3})
            for k, look in looks(parts).items()
        ),
        (
            "total, validation",
            validation,
            {"color": INK, "linestyle": "--", "marker": "o", "markersize": 4},
        ),
    ]
    words = [
        f"; {name} goes from {decimal(points[0][1], 2)} to {decimal(points[-1][1], 2)}"
        for name, points in (("the total", total), ("the total on validation images", validation))
        if points
    ]
    return lines_picture(
        lines, "loss", f"Losses during training{''.join(words)}.", "Losses", least=0.1
    )


def validation_picture(curve: Sequence[Json]) -> Picture | None:
    """AP on the validation images during training; None where it was measured only once."""
    keys = sorted({key for row in curve for key in row if _AP.fullmatch(key)}, reverse=True)
    series = {_ap_name(key): points for key in keys if (points := _series(curve, key))}
    if len({iteration for points in series.values() for iteration, _ in points}) < 2:
        return None
    lines = [
        (name, series[name], {"color": look.colour, "marker": look.marker, "markersize": 4.5})
        for name, look in looks(series).items()
    ]
    words = "; ".join(
        f"{name} from {decimal(points[0][1])} to {decimal(points[-1][1])}"
        for name, points in series.items()
    )
    return lines_picture(lines, "AP", f"AP during training: {words}.", "Validation AP")


def _ap_name(key: str) -> str:
    """``a_val/segm/AP`` -> "mask AP, a_val"."""
    dataset, _, task = key.removesuffix("/AP").rpartition("/")
    return f"{metric_name(f'{task}/AP')}{f', {dataset}' if dataset else ''}"


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
    entries: Entries = []
    for (when, look), shift in zip(looks(["after", "before"]).items(), (1, -1), strict=True):
        places = np.arange(len(names)) + shift * _BAR / 2
        bars = axes.barh(places, [known[name][when] for name in names], _BAR, color=look.colour)
        axes.bar_label(bars, fmt=decimal, padding=3, fontsize=8)
        entries.append((f"{when} training", bars[0]))
    dress(axes, f"{kind} AP", grid="x")
    axes.margins(x=0.1)
    name_rows(axes, names)
    legend_above(axes, entries[::-1])
    words = "; ".join(
        f"{name} {decimal(known[name]['before'])} before, {decimal(known[name]['after'])} after"
        for name in names
    )
    most = f", the {MOST_BARS} of {len(known)} that changed most"
    caption = f"Base classes, before and after{most if len(known) > len(names) else ''}"
    return page_picture(figure, f"{kind} AP: {words}.", caption)


def _series(rows: Sequence[Json], key: str) -> list[tuple[float, float]]:
    """(iteration, value) of the rows that have a value: a loss may have become NaN."""
    pairs = ((row["iteration"], row.get(key)) for row in rows)
    return [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
