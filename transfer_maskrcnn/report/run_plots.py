"""The plots of a single run: its losses, and its validation results during training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist

from transfer_maskrcnn.report.json_files import number
from transfer_maskrcnn.report.plots import (
    INK,
    Picture,
    dress,
    from_zero,
    legend_above,
    line,
    looks,
    page_axes,
    page_picture,
    plain,
)
from transfer_maskrcnn.report.texts import decimal, metric_name

Row = Mapping[str, object]

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


def losses_picture(metrics: Sequence[Row], curve: Sequence[Row]) -> Picture | None:
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
        style: dict[str, Any] = {
            "color": colour,
            "linewidth": width,
            "marker": "." if len(points) == 1 else "",
        }
        name = "total" if key == "total_loss" else _LOSSES.get(key, key)
        entries.append((plain(name), line(axes, *_xy(points), **style)))
    if validation:
        style = {"color": INK, "linestyle": "--", "marker": "o", "markersize": 4}
        entries.append(("total, validation", line(axes, *_xy(validation), **style)))
    dress(axes, "iteration", "loss")
    from_zero(axes, least=0.1)
    legend_above(axes, entries)
    words = ["Losses during training", *_total_in_words(series.get("total_loss"), "the total")]
    words += _total_in_words(validation, "the total on validation images")
    return page_picture(figure, f"{'; '.join(words)}.", "Losses")


def _total_in_words(points: Sequence[tuple[float, float]] | None, name: str) -> list[str]:
    if not points:
        return []
    return [f"{name} goes from {decimal(points[0][1], 2)} to {decimal(points[-1][1], 2)}"]


def validation_picture(curve: Sequence[Row]) -> Picture | None:
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
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
        entries.append((plain(name), line(axes, *_xy(points), **style)))
        words.append(f"{name} from {decimal(points[0][1])} to {decimal(points[-1][1])}")
    dress(axes, "iteration", "AP")
    from_zero(axes)
    legend_above(axes, entries)
    return page_picture(figure, f"AP during training: {'; '.join(words)}.", "Validation AP")


def _series(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """(iteration, value) of the rows that have a value."""
    pairs = ((number(row.get("iteration")), number(row.get(key))) for row in rows)
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
