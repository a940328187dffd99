"""Synthetic instance-segmentation datasets: textured shapes on textured ground, from a seed.

Three tasks on the same kind of picture: the *source* task names eight shapes, the *target* task
three, of which two are novel (star, heart) and one is shared (ring). The *extension* task shows all
ten, and annotates the two novel ones alone. Shapes overlap, and a mask
covers what is visible, so masks may have holes and parts; they are written as COCO RLE.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from transfer_maskrcnn.data.export import coco_document
from transfer_maskrcnn.data.export.base import new_folder
from transfer_maskrcnn.data.formats.masks import mask_to_rle
from transfer_maskrcnn.errors import DatasetError

SOURCE_CLASSES = ("circle", "square", "triangle", "cross", "ring", "crescent", "arrow", "hexagon")
TARGET_CLASSES = ("star", "heart", "ring")
NOVEL_CLASSES = ("star", "heart")
IMAGE_SIZE = 128  # pixels, square
SUPERSAMPLING = 4
SMALLEST_VISIBLE_AREA = 40  # pixels; what is hidden further is not annotated

Outline = npt.NDArray[np.float64]  # (N, 2) x, y in shape units: the shape fits [-1, 1]^2
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ShapesSplit:
    """One generated dataset.

    Attributes:
        folder: its name.
        classes: those that are annotated.
        images: how many.
        seed: of all that is drawn.
        unannotated: classes that are in the pictures, too, and in no annotation.
    """

    folder: str
    classes: tuple[str, ...]
    images: int
    seed: int
    unannotated: tuple[str, ...] = ()


SPLITS = (
    ShapesSplit("source_train", SOURCE_CLASSES, 1600, 11),
    ShapesSplit("source_val", SOURCE_CLASSES, 100, 12),
    ShapesSplit("train", TARGET_CLASSES, 48, 21),
    ShapesSplit("val", TARGET_CLASSES, 100, 22),
    ShapesSplit("source_calibration", SOURCE_CLASSES, 200, 13),
    ShapesSplit("extend_train", NOVEL_CLASSES, 200, 31, unannotated=SOURCE_CLASSES),
    ShapesSplit("extend_val", NOVEL_CLASSES, 200, 32, unannotated=SOURCE_CLASSES),
)


def _polar(angles: Outline, radii: Outline | float) -> Outline:
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _regular(corners: int, radii: Outline | float = 1.0) -> Outline:
    return _polar(np.arange(corners) * 2 * np.pi / corners - np.pi / 2, radii)


def _heart() -> Outline:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y + 2.5], axis=1) / 16


def _crescent() -> Outline:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 40)
    x0, y0 = np.cos(outer[-1]), np.sin(outer[-1])
    centre = 0.55  # of the bite, on the x axis
    start = np.arctan2(y0, x0 - centre)
    inner = np.linspace(start, -start - 2 * np.pi, 32)
    bite = _polar(inner, float(np.hypot(x0 - centre, y0))) + np.array([centre, 0.0])
    return np.concatenate([_polar(outer, 1.0), bite])


_CIRCLE = _polar(np.linspace(0, 2 * np.pi, 48, endpoint=False), 1.0)
_ARM = np.array([(-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32)])
_ARROW = [(1, 0), (0.1, -0.8), (0.1, -0.3), (-1, -0.3), (-1, 0.3), (0.1, 0.3), (0.1, 0.8)]
# Each shape is a list of outlines filled with the even-odd rule: a second outline cuts a hole.
SHAPES: dict[str, list[Outline]] = {
    "circle": [_CIRCLE],
    "square": [_regular(4)],
    "triangle": [_regular(3)],
    "cross": [np.concatenate([_ARM, -_ARM])],
    "ring": [_CIRCLE, _CIRCLE * 0.5],
    "crescent": [_crescent()],
    "arrow": [np.array(_ARROW)],
    "hexagon": [_regular(6)],
    "star": [_regular(10, np.where(np.arange(10) % 2 == 0, 1.0, 0.42))],
    "heart": [_heart()],
}


def _texture(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """A smooth random colour field of shape (size, size, 3), about 0 to 255."""
    cells = int(rng.integers(2, 7))
    field = rng.uniform(0, 1, (cells, cells, 3))
    smooth = cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)
    return rng.uniform(40, 215, 3) + (smooth - 0.5) * rng.uniform(30, 110)


def _shape_mask(name: str, rng: np.random.Generator, size: int) -> Mask:
    """A randomly placed, scaled, turned and squeezed shape as a (size, size) mask."""
    radius = rng.uniform(0.07, 0.22) * size
    centre = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    squeeze = np.diag(rng.uniform(0.75, 1.15, 2))
    outlines = [
        np.round((o @ squeeze @ turn.T * radius + centre) * SUPERSAMPLING).astype(np.int32)
        for o in SHAPES[name]
    ]
    canvas = np.zeros((size * SUPERSAMPLING, size * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(canvas, outlines, 255)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) > 127


def _paint(image: npt.NDArray[np.float64], mask: Mask, rng: np.random.Generator) -> None:
    """Fill ``mask`` with a texture that differs visibly from what it covers."""
    texture = _texture(rng, image.shape[0])
    ground = image[mask].mean(axis=0)
    difference = texture[mask].mean(axis=0) - ground
    if np.abs(difference).max() < 45:
        texture += np.where(ground > 127, -60.0, 60.0)
    image[mask] = texture[mask]


def draw_image(
    classes: tuple[str, ...], rng: np.random.Generator, size: int = IMAGE_SIZE
) -> tuple[Image, list[tuple[str, Mask]]]:
    """One picture, (size, size, 3) BGR, and its instances: class name and visible mask."""
    canvas = _texture(rng, size)
    instances: list[tuple[str, Mask]] = []
    for _ in range(int(rng.integers(2, 7))):
        name = classes[int(rng.integers(len(classes)))]
        mask = _shape_mask(name, rng, size)
        if not mask.any():
            continue
        _paint(canvas, mask, rng)
        instances = [(other, hidden & ~mask) for other, hidden in instances] + [(name, mask)]
    canvas += rng.normal(0, rng.uniform(3, 10), canvas.shape)
    visible = [(name, mask) for name, mask in instances if mask.sum() >= SMALLEST_VISIBLE_AREA]
    return np.clip(canvas, 0, 255).astype(np.uint8), visible


def write_split(split: ShapesSplit, folder: Path) -> None:
    """Write ``folder/images/*.png`` and ``folder/annotations.json`` (COCO) for one split."""
    rng = np.random.default_rng(split.seed)
    (folder / "images").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for image_id in range(1, split.images + 1):
        pixels, instances = draw_image((*split.unannotated, *split.classes), rng)
        path = folder / "images" / f"{image_id:05d}.png"
        if not cv2.imwrite(str(path), pixels):
            raise DatasetError(f"cannot write {path}: is the disk full?")
        annotations = [
            {
                "category_id": split.classes.index(name),
                "segmentation": mask_to_rle(mask),
                "iscrowd": 0,
            }
            for name, mask in instances
            if name in split.classes
        ]
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        record = {"file_name": path.name, "image_id": image_id, "annotations": annotations}
        records.append({**record, **size})
    content = coco_document(records, split.classes)
    (folder / "annotations.json").write_text(json.dumps(content))


def prepare_shapes(root: str | os.PathLike[str], folders: Collection[str] | None = None) -> Path:
    """Generate the splits under ``root``/shapes that are not there yet; returns that folder.

    ``folders`` names those that are wanted; None: all of ``SPLITS``.

    A split appears under its name only when it is whole.
    """
    folder = Path(root) / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        wanted = folders is None or split.folder in folders
        if not wanted or (folder / split.folder).exists():
            continue
        with new_folder(folder / split.folder) as unfinished:
            write_split(split, unfinished)
        logging.getLogger(__name__).info("generated %s", folder / split.folder)
    return folder
