"""Pictures of predictions beside ground truth, drawn from the COCO files that evaluation writes."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.report.json_files import read_json
from transfer_maskrcnn.report.outlines import Segments, outline
from transfer_maskrcnn.report.photographs import Pixels, read_pixels
from transfer_maskrcnn.report.plots import Picture
from transfer_maskrcnn.report.texts import few

Instance = dict[str, Any]

GROUND_TRUTH = "ground truth"
_TILE_INCHES, _TILE_DPI = 2.4, 130
_LONGEST_SIDE = 800  # pixels; what is larger is drawn from every second, third ... pixel
_MOST_LABELS = 10  # in one picture: more of them hide what they name


@dataclass(frozen=True)
class Tiles:
    """The pictures of a page: a row an image, a column an entry of ``titles``.

    ``colours``: class name -> colour of its outlines, for the classes that are drawn.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[Picture, ...], ...]
    colours: Mapping[str, str]


@dataclass(frozen=True)
class _Scene:
    """What is drawn: instances by column and image id, the images, and the classes by id."""

    columns: dict[str, dict[int, list[Instance]]]
    images: list[dict[str, Any]]
    names: dict[int, str]
    colours: dict[int, str]


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
        predictions: column title -> COCO results json; a ``segmentation`` is in RLE.
        images: how many images; those with the most objects come first.
        min_score: predictions below are not drawn.

    Raises:
        TransferError: a JSON file is damaged.
    """
    figure = comparison_figure(ground_truth, predictions, images, min_score)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def comparison_figure(
    ground_truth: Path, predictions: dict[str, Path], images: int, min_score: float
) -> Figure:
    """The figure of :func:`comparison_picture`."""
    scene = _scene(ground_truth, predictions, images, min_score)
    rows, columns = len(scene.images), len(scene.columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.3), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, title in zip(axes[0], scene.columns, strict=True):
        shown = title if title == GROUND_TRUTH else f"{title} (score > {min_score:g})"
        axis.set_title(_plain(shown), fontsize=9)
    for row, image in zip(axes, scene.images, strict=True):
        pixels = read_pixels(image["file_name"])
        for axis, instances in zip(row, scene.columns.values(), strict=True):
            _draw(axis, pixels, instances[image["id"]], image, scene)
    return figure


def comparison_tiles(
    ground_truth: Path, predictions: dict[str, Path], *, images: int = 4, min_score: float = 0.5
) -> Tiles | None:
    """The content of :func:`comparison_picture` as single JPEGs, for a page that lays them out.

    Same arguments. None where no image of the ground truth is there any more.

    Raises:
        TransferError: a JSON file is damaged.
    """
    scene = _scene(ground_truth, predictions, images, min_score)
    if not scene.images:
        return None
    rows = []
    for image in scene.images:
        pixels = read_pixels(image["file_name"])
        pictures = (_tile(pixels, i[image["id"]], image, scene) for i in scene.columns.values())
        rows.append(tuple(pictures))
    drawn = {
        instance["category_id"]
        for instances in scene.columns.values()
        for image in scene.images
        for instance in instances[image["id"]]
    }
    colours = {scene.names[i]: scene.colours[i] for i in sorted(drawn)}
    return Tiles(tuple(scene.columns), tuple(rows), colours)


def _scene(
    ground_truth: Path, predictions: dict[str, Path], images: int, min_score: float
) -> _Scene:
    truth = read_json(ground_truth)
    names = {c["id"]: c["name"] for c in truth["categories"]}
    columns = {GROUND_TRUTH: _by_image(truth.get("annotations", ()), None)}
    for title, path in predictions.items():
        columns[title] = _by_image(read_json(path), min_score)
    readable = [i for i in truth["images"] if os.path.isfile(i["file_name"])]
    fullest = sorted(readable, key=lambda i: -len(columns[GROUND_TRUTH][i["id"]]))
    colours = {c: to_hex(colormaps["tab10"](i % 10)) for i, c in enumerate(sorted(names))}
    return _Scene(columns, fullest[:images], names, colours)


def _by_image(instances: Sequence[Instance], min_score: float | None) -> dict[int, list[Instance]]:
    grouped: dict[int, list[Instance]] = defaultdict(list)
    for instance in instances:
        if min_score is None or instance["score"] > min_score:
            grouped[instance["image_id"]].append(instance)
    return grouped


def _tile(
    pixels: Pixels, instances: list[Instance], image: dict[str, Any], scene: _Scene
) -> Picture:
    longest = max(image["width"], image["height"])
    size = (_TILE_INCHES * image["width"] / longest, _TILE_INCHES * image["height"] / longest)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    _draw(figure.add_axes((0, 0, 1, 1)), pixels, instances, image, scene)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=_TILE_DPI, pil_kwargs={"quality": 80})
    labels = [_label(instance, scene) for instance in instances]
    return Picture(buffer.getvalue(), "jpeg", few(labels, 10) or "nothing")


def _draw(
    axis: Axes, pixels: Pixels, instances: list[Instance], image: dict[str, Any], scene: _Scene
) -> None:
    height, width = image["height"], image["width"]
    step = -(-max(height, width) // _LONGEST_SIDE)
    axis.imshow(
        pixels[::step, ::step],
        cmap="gray" if pixels.ndim == 2 else None,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        aspect="equal",
    )
    axis.set_axis_off()
    outlines = [(i["category_id"], outline(i, height, width, step)) for i in instances]
    _stroke(axis, [line for _, line in outlines], "white", 2.4)
    for category, colour in scene.colours.items():
        _stroke(axis, [line for found, line in outlines if found == category], colour, 1.2)
    if len(instances) <= _MOST_LABELS:
        for instance in instances:
            _name(axis, instance, image, _label(instance, scene))
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def _stroke(axis: Axes, lines: list[Segments], colour: str, thickness: float) -> None:
    """All segments as one line with gaps, the fastest of matplotlib's ways to draw thousands."""
    segments = np.concatenate([np.empty((0, 2, 2)), *lines])
    gapped = np.concatenate([segments, np.full((len(segments), 1, 2), np.nan)], axis=1)
    x, y = gapped.reshape(-1, 2).T
    axis.plot(x, y, color=colour, linewidth=thickness, solid_capstyle="round")


def _label(instance: Instance, scene: _Scene) -> str:
    score = f" {instance['score']:.2f}" if "score" in instance else ""
    return f"{scene.names[instance['category_id']]}{score}"


def _name(axis: Axes, instance: Instance, image: dict[str, Any], text: str) -> None:
    """``text`` above the box, and within the image."""
    x, y, width, _ = instance["bbox"]
    middle = min(max(x + width / 2, 0.12 * image["width"]), 0.88 * image["width"])
    axis.text(
        *(middle, max(y - 1, 0.06 * image["height"]), _plain(text)),
        color="white",
        fontsize=7,
        ha="center",
        va="bottom",
        clip_on=True,
        path_effects=[withStroke(linewidth=1.6, foreground="black")],
    )


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a formula stands between dollars
