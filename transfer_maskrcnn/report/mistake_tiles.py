"""Pictures of mistakes: a detection and the object that it is about, cut out of their image."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from transfer_maskrcnn.report.json_files import read_json
from transfer_maskrcnn.report.outlines import outline
from transfer_maskrcnn.report.photographs import read_pixels
from transfer_maskrcnn.report.plots import Picture

#: what is there, and what the model says; Okabe and Ito's blue and orange
OBJECT_COLOUR, DETECTION_COLOUR = "#56B4E9", "#E69F00"
_TILE_INCHES, _TILE_DPI = 1.7, 130
_LEAST_SIDE = 48  # pixels of the image; less shows nothing of what is around
_MARGIN = 0.6  # of the longer side, on each side


@dataclass(frozen=True)
class _Files:
    images: Mapping[Any, Mapping[str, Any]]
    names: Mapping[Any, str]
    objects: Sequence[dict[str, Any]]
    detections: Sequence[dict[str, Any]]


def mistake_tiles(
    ground_truth: Path, results: Path, examples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, tuple[Picture, ...]]:
    """Kind of mistake -> a picture an example, with what is there and what was said as caption.

    Args:
        ground_truth: COCO json whose ``file_name`` entries can be opened as they stand.
        results: COCO results json.
        examples: of ``explanation.json``. One whose image is not there any more is left out, and so
            is a kind that has none left.

    Raises:
        TransferError: a JSON file is damaged.
        LookupError: the examples are of other files.
    """
    truth = read_json(ground_truth)
    files = _Files(
        images={image["id"]: image for image in truth["images"]},
        names={category["id"]: category["name"] for category in truth["categories"]},
        objects=truth.get("annotations", []),
        detections=read_json(results),
    )
    tiles = {}
    for kind, some in examples.items():
        shown = [e for e in some if os.path.isfile(files.images[e["image_id"]]["file_name"])]
        if shown:
            tiles[kind] = tuple(_tile(example, files) for example in shown)
    return tiles


def _tile(example: Mapping[str, Any], files: _Files) -> Picture:
    image = files.images[example["image_id"]]
    pairs = [
        (files.objects, example["object"], OBJECT_COLOUR, "there"),
        (files.detections, example["detection"], DETECTION_COLOUR, "detected"),
    ]
    drawn = [(all_[place], colour, word) for all_, place, colour, word in pairs
             if place is not None]  # fmt: skip
    left, top, side = _window([instance["bbox"] for instance, _, _ in drawn], image)
    figure = Figure(figsize=(_TILE_INCHES, _TILE_INCHES), facecolor="#f5f7f9")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    pixels = read_pixels(image["file_name"])
    axes.imshow(
        pixels,
        cmap="gray" if pixels.ndim == 2 else None,
        extent=(-0.5, image["width"] - 0.5, image["height"] - 0.5, -0.5),
    )
    for instance, colour, _ in drawn:
        _stroke(axes, instance, image, colour)
    axes.set_axis_off()
    axes.set_xlim(left, left + side)
    axes.set_ylim(top + side, top)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=_TILE_DPI, pil_kwargs={"quality": 85})
    caption = ", ".join(f"{word}: {_name(instance, files)}" for instance, _, word in drawn)
    return Picture(buffer.getvalue(), "jpeg", caption, caption)


def _window(boxes: Sequence[Sequence[float]], image: Mapping[str, Any]) -> tuple[float, ...]:
    """Left, top and side of a square around ``boxes``, within the image if that is large enough."""
    x, y, width, height = np.array(boxes, dtype=float).T
    left, top, right, bottom = x.min(), y.min(), (x + width).max(), (y + height).max()
    longer = max(right - left, bottom - top)
    side = min(max(longer * (1 + 2 * _MARGIN), _LEAST_SIDE), max(image["width"], image["height"]))
    corner = [
        max(0.0, min((low + high - side) / 2, whole - side)) if side < whole else (whole - side) / 2
        for low, high, whole in ((left, right, image["width"]), (top, bottom, image["height"]))
    ]
    return (*(float(c) - 0.5 for c in corner), float(side))


def _stroke(axes: Axes, instance: dict[str, Any], image: Mapping[str, Any], colour: str) -> None:
    lines = outline(instance, image["height"], image["width"], 1)
    for shade, width in (("black", 3.2), (colour, 1.8)):
        axes.add_collection(
            LineCollection(list(lines), colors=shade, linewidths=width, capstyle="round")
        )


def _name(instance: Mapping[str, Any], files: _Files) -> str:
    score = f" {instance['score']:.2f}" if "score" in instance else ""
    return f"{files.names[instance['category_id']]}{score}"
