"""Thumbnails: an image, or a part of it, with the outlines of what lies in it.

:func:`draw_tile` draws them all. Those of a run are made from the COCO files of its evaluation.

Coordinates are pixels of the upright image, x before y; (0, 0) is the corner of its first pixel, as
in COCO's polygons and boxes.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import contourpy
import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageDraw, ImageFont, ImageOps

from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.plots import looks
from transfer_maskrcnn.text import few, shorten

Line = np.ndarray  # (N, 2), from point to point
Window = tuple[int, int, int, int]  # left, top, right, bottom

SIDE = 312  # pixels of a tile's longer side
_LARGE, _FEW_COLUMNS = 560, 3  # the same where so many columns have a page to themselves
_FINE = 3  # lines are drawn so many times larger and shrunk: Pillow's own have hard edges
_EDGE = 1.5  # pixels of white on both sides of a line, which is then seen on any background
_TEXT = 13  # pixels
# that of the plots; Pillow's own knows fewer letters
_FONT = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _TEXT)
_LEAST_SIDE = 48  # pixels of the image; less shows nothing of what is around
_MARGIN = 0.7  # of the longer side, on each side
_NEARLY_WHOLE = 0.8  # of the image's longer side
_FAR = 1e5  # pixels of a tile; Pillow counts in 32 bits

MIN_SCORE = 0.5  # of predictions that are shown
#: what is there, and what the model says; Okabe and Ito's blue and orange
OBJECT_COLOUR, DETECTION_COLOUR = "#56B4E9", "#E69F00"
_WIDTH, _CLOSE_WIDTH = 2.2, 3.2  # of lines, in pixels of a tile
_MOST_IMAGES = 6
_MOST_LABELS = 10  # in one picture: more of them hide what they name
_LONGEST_NAME = 20
_MOST_WORST = 8


@dataclass(frozen=True)
class Drawn:
    """One instance on a tile. ``width``: of its lines, in pixels of the tile; ``label``: above."""

    lines: Sequence[Line]
    colour: str
    width: float
    label: str = ""


def open_upright(path: str | Path, width: int | None, height: int | None) -> Image.Image | None:
    """The image as it is looked at: RGB, turned as its Exif tag says.

    None where it cannot be read, or is not ``width`` x ``height`` pixels large (any more), unless
    these are None.
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
    return image if width is None or image.size == (width, height) else None


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
    # half a pixel for the border, as a pixel's middle is at its index
    return [np.asarray(line) + np.array([x - 0.5, y - 0.5]) for line in lines]


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


def draw_tile(
    image: Image.Image, drawn: Sequence[Drawn], window: Window | None = None, side: int = SIDE
) -> bytes:
    """A JPEG of the image within ``window`` (None: of all of it), the first of ``drawn`` below.

    ``side``: of the JPEG, the longer one, in pixels.
    """
    left, top, right, bottom = window or (0, 0, *image.size)
    scale = side / max(right - left, bottom - top)
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
    written: list[Window] = []
    for one in drawn:
        if one.label and one.lines:
            _write(tile, (np.vstack(one.lines) - (left, top)) * scale, one.label, written)
    buffer = io.BytesIO()
    tile.save(buffer, "jpeg", quality=82, subsampling=0)  # thin coloured lines stay clear
    return buffer.getvalue()


def _write(tile: Image.Image, points: Line, text: str, written: list[Window]) -> None:
    """``text`` above the points, else below or between them: within the tile, and not over what is
    ``written``. What has no place is not written: the colour says what it is."""
    pen, (width, height) = ImageDraw.Draw(tile), tile.size
    if (length := pen.textlength(text, _FONT)) > width - 4:
        text = shorten(text, max(6, int(len(text) * (width - 4) / length)))
    half = round(pen.textlength(text, _FONT) / 2) + 2
    (low, top), (high, bottom) = points.min(axis=0), points.max(axis=0)
    x = max(min(round((low + high) / 2), width - half), half)
    for place in (top - 2, bottom + _TEXT + 2, (top + bottom + _TEXT) / 2):
        y = int(np.clip(place, _TEXT, max(height - 3, _TEXT)))
        box = (x - half, y - _TEXT, x + half, y + 3)
        if not any(_overlap(box, other) for other in written):
            written.append(box)
            pen.text((x, y), text, "white", _FONT, "mb", stroke_width=1, stroke_fill="black")
            return


def _overlap(a: Window, b: Window) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inference_files(folder: Path) -> tuple[Path, Path]:
    """Ground truth and predictions in ``OUTPUT_DIR/inference/<dataset>``, be they there or not."""
    return folder / f"{folder.name}_ground_truth.json", folder / "coco_instances_results.json"


def comparison_tiles(folders: Mapping[str, Sequence[Path]]) -> dict[str, Any] | None:
    """Ground truth beside the predictions of models, on the images with most objects.

    Args:
        folders: column title -> ``OUTPUT_DIR/inference/<dataset>`` of a model's runs, of which the
            first counts that holds ground truth (COCO json whose ``file_name`` entries can be
            opened as they stand) and predictions (COCO results json).

    Returns:
        ``titles`` of the columns, ``rows`` of pictures, an image each, the first with the name of
        its file, and ``colours`` of the outlines, by class name; None where there are no
        predictions, or no image of the ground truth is there any more.

    Raises:
        TransferError: a JSON file is damaged.
    """
    files = {
        title: there[0]
        for title, some in folders.items()
        if (there := [own for own in map(inference_files, some) if all(p.is_file() for p in own)])
    }
    if not files:
        return None
    truth = read_json(next(iter(files.values()))[0], dict)
    names = {c["id"]: c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])}
    colours = {i: look.colour for i, look in looks(names).items()}
    columns = {"ground truth": truth["annotations"]} | {
        title: [i for i in read_json(path, list) if i["score"] > MIN_SCORE]
        for title, (_, path) in files.items()
    }
    objects = Counter(a["image_id"] for a in truth["annotations"])
    fullest = sorted(truth["images"], key=lambda image: -objects[image["id"]])
    opened = ((i, open_upright(i["file_name"], i["width"], i["height"])) for i in fullest)
    shown = [*islice(((i, p) for i, p in opened if p is not None), _MOST_IMAGES)]
    cells = [
        [(p, [one for one in found if one["image_id"] == i["id"]]) for found in columns.values()]
        for i, p in shown
    ]
    side = _LARGE if len(columns) <= _FEW_COLUMNS else SIDE

    def labelled(pixels: Image.Image, instances: Sequence[Mapping[str, Any]]) -> Picture:
        labels = [_label(instance, names) for instance in instances]
        shown = labels if len(labels) <= _MOST_LABELS else [""] * len(labels)
        drawn = [
            Drawn(outline(i, pixels.height, pixels.width), colours[i["category_id"]], _WIDTH, label)
            for i, label in zip(instances, shown, strict=True)
        ]
        data = draw_tile(pixels, drawn, side=side)
        return Picture(data, "jpeg", few(labels, 10) or "nothing")

    rows = [[labelled(p, some) for p, some in row] for row in cells]
    for row, (image, _) in zip(rows, shown, strict=True):
        row[0] = replace(row[0], caption=os.path.basename(image["file_name"]))
    seen = {one["category_id"] for row in cells for _, some in row for one in some}
    key = {names[i]: colours[i] for i in names if i in seen}
    return {"titles": list(columns), "rows": rows, "colours": key} if rows else None


def explained_tiles(
    folder: Path, explanation: Mapping[str, Any]
) -> tuple[dict[str, list[Picture]], list[Picture]]:
    """Kind of mistake -> a picture an example, and pictures of the worst images; the file and what
    is seen are the captions. What has no image any more is left out.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``.
        explanation: of a task in ``explanation.json``.

    Raises:
        TransferError: a JSON file is damaged.
        LookupError: the examples are of other files.
    """
    ground_truth, results = inference_files(folder)
    truth, detections = read_json(ground_truth, dict), read_json(results, list)
    images = {image["id"]: image for image in truth["images"]}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    objects = truth.get("annotations", [])

    def tile(
        image_id: Any, seen: Sequence[Mapping[str, Any]], words: str, close: bool
    ) -> Picture | None:
        image = images[image_id]
        height, width = image["height"], image["width"]
        colours = [DETECTION_COLOUR if "score" in one else OBJECT_COLOUR for one in seen]
        line_width = _CLOSE_WIDTH if close else _WIDTH
        drawn = [
            Drawn(outline(one, height, width), colour, line_width)
            for one, colour in zip(seen, colours, strict=True)
        ]
        lines = [line for one in drawn for line in one.lines]
        window = window_around(lines, width, height) if close else None
        caption = f"{os.path.basename(image['file_name'])}: {words}"
        return picture_of(image["file_name"], width, height, drawn, caption, window)

    def example(one: Mapping[str, Any]) -> Picture | None:
        pairs = (("object", objects, "ground truth"), ("detection", detections, "detection"))
        seen = [(found[one[key]], word) for key, found, word in pairs if one[key] is not None]
        words = ", ".join(f"{word} {_label(instance, names)}" for instance, word in seen)
        return tile(one["image_id"], [instance for instance, _ in seen], words, close=True)

    def worst(one: Mapping[str, Any]) -> Picture | None:
        sure = [found for found in detections if found["score"] >= MIN_SCORE]
        seen = [i for i in (*objects, *sure) if i["image_id"] == one["image_id"]]
        return tile(one["image_id"], seen, one["words"], close=False)

    tiles = {k: [*filter(None, map(example, some))] for k, some in explanation["examples"].items()}
    worst_ones = map(worst, explanation.get("worst_images", ())[:_MOST_WORST])
    return {kind: some for kind, some in tiles.items() if some}, [*filter(None, worst_ones)]


def picture_of(
    file: str,
    width: int | None,
    height: int | None,
    drawn: Sequence[Drawn],
    caption: str,
    window: Window | None = None,
) -> Picture | None:
    """An image, or what ``window`` shows of it, with what is drawn on it; None where it cannot be
    read, or has another size by now."""
    image = open_upright(file, width, height)
    if image is None:
        return None
    return Picture(draw_tile(image, drawn, window), "jpeg", caption, caption)


def _label(instance: Mapping[str, Any], names: Mapping[int, str]) -> str:
    score = f" {instance['score']:.2f}" if "score" in instance else ""
    return f"{shorten(names[instance['category_id']], _LONGEST_NAME)}{score}"
