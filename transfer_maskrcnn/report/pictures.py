"""Pictures of predictions beside ground truth, drawn from the COCO files that evaluation writes."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from transfer_maskrcnn.files import atomic_path

Instance = dict[str, Any]


def comparison_picture(
    ground_truth: Path,
    predictions: dict[str, Path],
    output: Path,
    *,
    images: int = 4,
    min_score: float = 0.5,
) -> None:
    """Write a PNG: a row an image; ground truth first, then a column an entry of ``predictions``.

    Args:
        ground_truth: COCO json whose ``file_name`` entries can be opened as they stand.
        predictions: column title -> COCO results json with a ``segmentation`` in RLE.
        images: how many images; those with the most objects come first.
        min_score: predictions below are not drawn.
    """
    figure = comparison_figure(ground_truth, predictions, images, min_score)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def comparison_figure(
    ground_truth: Path, predictions: dict[str, Path], images: int, min_score: float
) -> Figure:
    """The figure of :func:`comparison_picture`."""
    truth = json.loads(ground_truth.read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    columns = {"ground truth": _by_image(truth["annotations"], None)}
    for title, path in predictions.items():
        columns[f"{title} (score > {min_score:g})"] = _by_image(
            json.loads(path.read_text()), min_score
        )
    chosen = _most_objects(truth["images"], columns["ground truth"], images)
    figure = Figure(figsize=(2.6 * len(columns), 2.6 * len(chosen) + 0.3), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), len(columns), squeeze=False)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    for row, image in zip(axes, chosen, strict=True):
        pixels = matplotlib.image.imread(image["file_name"])
        for axis, instances in zip(row, columns.values(), strict=True):
            _draw(axis, pixels, instances[image["id"]], image, names)
    return figure


def _by_image(instances: Sequence[Instance], min_score: float | None) -> dict[int, list[Instance]]:
    grouped: dict[int, list[Instance]] = defaultdict(list)
    for instance in instances:
        if min_score is None or instance["score"] > min_score:
            grouped[instance["image_id"]].append(instance)
    return grouped


def _most_objects(
    images: list[dict[str, Any]], truth: dict[int, list[Instance]], count: int
) -> list[dict[str, Any]]:
    readable = [i for i in images if os.path.isfile(i["file_name"])]
    return sorted(readable, key=lambda i: -len(truth[i["id"]]))[:count]


def _draw(
    axis: Axes,
    pixels: npt.NDArray[Any],
    instances: list[Instance],
    image: dict[str, Any],
    names: dict[int, str],
) -> None:
    axis.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None)
    axis.set_axis_off()
    order = {category: i for i, category in enumerate(sorted(names))}
    for instance in instances:
        colour = colormaps["tab10"](order[instance["category_id"]] % 10)
        mask = _decode(instance["segmentation"], image["height"], image["width"])
        axis.contour(mask, [0.5], colors=["white"], linewidths=2.4)
        axis.contour(mask, [0.5], colors=[colour], linewidths=1.2)
        x, y, width, _ = instance["bbox"]
        text = names[instance["category_id"]]
        if "score" in instance:
            text += f" {instance['score']:.2f}"
        axis.text(
            *(x + width / 2, max(y - 1, 5), text),
            color="white",
            fontsize=6.5,
            ha="center",
            va="bottom",
            clip_on=True,
            path_effects=[withStroke(linewidth=1.6, foreground="black")],
        )


def _decode(segmentation: Any, height: int, width: int) -> npt.NDArray[np.float64]:
    if isinstance(segmentation, list):
        parts = mask_util.frPyObjects(segmentation, height, width)
        segmentation = mask_util.merge(parts)
    return np.asarray(mask_util.decode(segmentation), np.float64)
