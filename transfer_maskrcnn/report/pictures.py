"""What a model sees: predictions beside ground truth, and mistakes cut out of their images.

Both are drawn from the COCO files that an evaluation writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.report.plots import Picture, looks
from transfer_maskrcnn.report.tiles import Drawn, draw_tile, open_upright, outline, window_around
from transfer_maskrcnn.text import few

Instance = Mapping[str, Any]

GROUND_TRUTH = "ground truth"
#: what is there, and what the model says; Okabe and Ito's blue and orange
OBJECT_COLOUR, DETECTION_COLOUR = "#56B4E9", "#E69F00"
_WIDTH, _CLOSE_WIDTH = 2.2, 3.2  # of lines, in pixels of a tile
_MOST_LABELS = 10  # in one picture: more of them hide what they name


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
