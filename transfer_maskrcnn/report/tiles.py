"""Thumbnails: an image, or a part of it, with the outlines of what lies in it.

:func:`draw_tile` draws them all. Those of a run are made from the COCO files of its evaluation.

Coordinates are pixels of the upright image, x before y; (0, 0) is the corner of its first pixel, as
in COCO's polygons and boxes.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import contourpy
import matplotlib
import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from PIL import Image, ImageDraw, ImageFont, ImageOps

from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.plots import looks
from transfer_maskrcnn.text import few

Line = npt.NDArray[np.float64]  # (N, 2), from point to point
Window = tuple[int, int, int, int]  # left, top, right, bottom

SIDE = 312  # pixels of a tile's longer side
_FINE = 3  # lines are drawn so many times larger and shrunk: Pillow's own have hard edges
_EDGE = 1.5  # pixels of white on both sides of a line, which is then seen on any background
_TEXT = 13  # pixels
_LEAST_SIDE = 48  # pixels of the image; less shows nothing of what is around
_MARGIN = 0.7  # of the longer side, on each side
_NEARLY_WHOLE = 0.8  # of the image's longer side
_FAR = 1e5  # pixels of a tile; Pillow counts in 32 bits


Instance = Mapping[str, Any]

GROUND_TRUTH = "ground truth"
#: what is there, and what the model says; Okabe and Ito's blue and orange
OBJECT_COLOUR, DETECTION_COLOUR = "#56B4E9", "#E69F00"
_WIDTH, _CLOSE_WIDTH = 2.2, 3.2  # of lines, in pixels of a tile
_MOST_LABELS = 10  # in one picture: more of them hide what they name


@dataclass(frozen=True)
class Drawn:
    """One instance on a tile. ``width``: of its lines, in pixels of the tile; ``label``: above."""

    lines: Sequence[Line]
    colour: str
    width: float
    label: str = ""


def open_upright(path: str | Path, width: int, height: int) -> Image.Image | None:
    """The image as it is looked at: RGB, turned as its Exif tag says.

    None where it cannot be read, or is not ``width`` x ``height`` pixels large (any more).
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode[0] in "IF":  # more than 8 bits; convert() would cut, not scale
                values = np.asarray(image, dtype=np.float64)
                values = 255 * (values - values.min()) / max(float(np.ptp(values)), 1.0)
                image = Image.fromarray(values.astype(np.uint8))
            image = image.convert("RGB")  # the model, too, sees what transparent pixels hide
    except Exception:  # decoders raise nearly every type of exception
        return None
    return image if image.size == (width, height) else None


def outline(instance: Mapping[str, Any], height: int, width: int) -> list[Line]:
    """The outline of an instance's mask, or of its box where it has no mask; every line is closed.

    Args:
        instance: an annotation or a result in COCO's form. Polygons are taken point by point, so
            that tiny and crossed ones show.
        height, width: of its image.
    """
    mask = instance.get("segmentation")
    if mask is None:
        x, y, w, h = instance["bbox"]
        mask = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if isinstance(mask, list):
        rings = (np.reshape(np.asarray(polygon, dtype=float), (-1, 2)) for polygon in mask)
        return [np.vstack([ring, ring[:1]]) for ring in rings]
    if isinstance(mask["counts"], list):
        mask = mask_util.frPyObjects(mask, height, width)
    x, y, w, h = (int(v) for v in mask_util.toBbox(mask))
    inside = np.pad(mask_util.decode(mask)[y : y + h, x : x + w], 1)
    lines = contourpy.contour_generator(z=inside.astype(float)).lines(0.5)
    shift = np.array([x - 0.5, y - 0.5])  # the border; and a pixel's middle is at its index
    return [np.asarray(line) + shift for line in lines]


def window_around(lines: Sequence[Line], width: int, height: int) -> Window:
    """A square around all lines, within the image; all of it where they nearly fill it."""
    points = np.vstack([np.empty((0, 2)), *lines])
    whole = (0, 0, width, height)
    if not len(points):
        return whole
    low, high = points.min(axis=0), points.max(axis=0)
    side = round(max((high - low).max() * (1 + 2 * _MARGIN), _LEAST_SIDE))
    if side >= _NEARLY_WHOLE * max(width, height):
        return whole
    middle = (low + high) / 2
    left, top = (
        max(0, min(round(m - side / 2), size - side))
        for m, size in zip(middle, (width, height), strict=True)
    )
    return left, top, min(left + side, width), min(top + side, height)


def draw_tile(image: Image.Image, drawn: Sequence[Drawn], window: Window | None = None) -> bytes:
    """A JPEG of the image within ``window`` (None: of all of it), the first of ``drawn`` below."""
    left, top, right, bottom = window or (0, 0, *image.size)
    scale = SIDE / max(right - left, bottom - top)
    size = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
    how = Image.Resampling.BOX if scale > 3 else Image.Resampling.LANCZOS  # large pixels stay such
    tile = image.resize(size, how, box=(left, top, right, bottom))
    layer = Image.new("RGBA", (size[0] * _FINE, size[1] * _FINE))
    pen = ImageDraw.Draw(layer)
    for edge in (_EDGE, 0.0):
        for one in drawn:
            width = round((one.width + 2 * edge) * _FINE)
            for line in one.lines:
                points = np.nan_to_num((line - (left, top)) * scale * _FINE).clip(-_FAR, _FAR)
                pen.line(points.ravel().tolist(), "white" if edge else one.colour, width, "curve")
    layer = layer.resize(size, Image.Resampling.BOX)
    tile.paste(layer, mask=layer)
    for one in drawn:
        if one.label and one.lines:
            _write(tile, (np.vstack(one.lines) - (left, top)) * scale, one.label)
    buffer = io.BytesIO()
    tile.save(buffer, "jpeg", quality=82, subsampling=0)  # thin coloured lines stay clear
    return buffer.getvalue()


def _write(tile: Image.Image, points: Line, text: str) -> None:
    """``text`` above the points, and within the tile."""
    pen, (width, height) = ImageDraw.Draw(tile), tile.size
    half = pen.textlength(text, _font()) / 2
    (low, top), (high, _) = points.min(axis=0), points.max(axis=0)
    x = max(min((low + high) / 2, width - half), half)
    where = (float(x), float(np.clip(top - 2, _TEXT, height)))
    pen.text(where, text, "white", _font(), "mb", stroke_width=1, stroke_fill="black")


@cache
def _font() -> ImageFont.FreeTypeFont:
    """That of the plots; Pillow's own knows fewer letters."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _TEXT)


@dataclass(frozen=True)
class Tiles:
    """The pictures of a page: a row an image, a column an entry of ``titles``.

    ``colours``: class name -> colour of its outlines, for the classes that are drawn.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[Picture, ...], ...]
    colours: Mapping[str, str]


def comparison_tiles(
    ground_truth: Path, predictions: Mapping[str, Path], *, min_score: float, images: int = 4
) -> Tiles | None:
    """Ground truth beside a column an entry of ``predictions``, on the images with most objects.

    Args:
        ground_truth: COCO json whose ``file_name`` entries can be opened as they stand.
        predictions: column title -> COCO results json; a ``segmentation`` is in RLE.
        min_score: predictions below are not drawn.

    Returns:
        None where no image of the ground truth is there any more.

    Raises:
        TransferError: a JSON file is damaged.
    """
    truth = read_json(ground_truth, dict)
    names = {c["id"]: c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])}
    colours = {i: look.colour for i, look in looks(list(names)).items()}
    columns = {GROUND_TRUTH: _by_image(truth["annotations"])} | {
        title: _by_image([i for i in read_json(path, list) if i["score"] > min_score])
        for title, path in predictions.items()
    }
    fullest = sorted(truth["images"], key=lambda image: -len(columns[GROUND_TRUTH][image["id"]]))
    opened = ((image, _open(image)) for image in fullest)
    rows, seen = [], set()
    for image, pixels in islice(((i, p) for i, p in opened if p is not None), images):
        row = []
        for found in columns.values():
            instances = found[image["id"]]
            labels = [_label(instance, names) for instance in instances]
            shown = labels if len(labels) <= _MOST_LABELS else [""] * len(labels)
            drawn = [
                Drawn(_outline(instance, image), colours[instance["category_id"]], _WIDTH, label)
                for instance, label in zip(instances, shown, strict=True)
            ]
            row.append(Picture(draw_tile(pixels, drawn), "jpeg", few(labels, 10) or "nothing"))
            seen |= {instance["category_id"] for instance in instances}
        rows.append(tuple(row))
    key = {names[i]: colours[i] for i in names if i in seen}
    return Tiles(tuple(columns), tuple(rows), key) if rows else None


def mistake_tiles(
    ground_truth: Path, results: Path, examples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, tuple[Picture, ...]]:
    """Kind of mistake -> a picture an example, with what is there and what was said as caption.

    Args:
        ground_truth, results: COCO json, as for :func:`comparison_tiles`.
        examples: of ``explanation.json``. One whose image is not there any more is left out, and so
            is a kind that has none left.

    Raises:
        TransferError: a JSON file is damaged.
        LookupError: the examples are of other files.
    """
    truth, detections = read_json(ground_truth, dict), read_json(results, list)
    images = {image["id"]: image for image in truth["images"]}
    names = {category["id"]: category["name"] for category in truth["categories"]}

    def tile(example: Mapping[str, Any]) -> Picture | None:
        image = images[example["image_id"]]
        said = [
            (found[example[key]], colour, word)
            for found, key, colour, word in (
                (truth["annotations"], "object", OBJECT_COLOUR, "there"),
                (detections, "detection", DETECTION_COLOUR, "detected"),
            )
            if example[key] is not None
        ]
        drawn = [Drawn(_outline(i, image), colour, _CLOSE_WIDTH) for i, colour, _ in said]
        pixels = _open(image)
        if pixels is None:
            return None
        window = window_around([line for one in drawn for line in one.lines], *pixels.size)
        caption = ", ".join(f"{word}: {_label(i, names)}" for i, _, word in said)
        return Picture(draw_tile(pixels, drawn, window), "jpeg", caption, caption)

    tiles = {kind: [tile(example) for example in some] for kind, some in examples.items()}
    there = {kind: tuple(filter(None, some)) for kind, some in tiles.items()}
    return {kind: some for kind, some in there.items() if some}


def _by_image(instances: Sequence[Instance]) -> dict[int, list[Instance]]:
    grouped: dict[int, list[Instance]] = defaultdict(list)
    for instance in instances:
        grouped[instance["image_id"]].append(instance)
    return grouped


def _open(image: Mapping[str, Any]) -> Any:
    return open_upright(image["file_name"], image["width"], image["height"])


def _outline(instance: Instance, image: Mapping[str, Any]) -> Any:
    return outline(instance, image["height"], image["width"])


def _label(instance: Instance, names: Mapping[int, str]) -> str:
    score = f" {instance['score']:.2f}" if "score" in instance else ""
    return f"{names[instance['category_id']]}{score}"
