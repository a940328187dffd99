"""Small datasets as other tools export them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from .conftest import CLASSES, RECTANGLES, SIDE, Rectangle, corners


def _rectangles(i: int) -> list[Rectangle]:
    """Of image i; from the fifth on mirrored, so that no two images look the same."""
    if i < 4:
        return RECTANGLES[i]
    return [(name, SIDE - x1, y0, SIDE - x0, y1) for name, x0, y0, x1, y1 in RECTANGLES[i - 4]]


def write_images(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True)
    for i in numbers:
        pixels = np.random.default_rng(i).integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
        for name, x0, y0, x1, y1 in _rectangles(i):
            pixels[y0:y1, x0:x1] = (200, 200, 40 + i) if name == "blob" else (40, 90 + i, 220)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)


def labelme(folder: Path) -> Path:
    """Images and their json files in one folder, as labelme leaves them."""
    write_images(folder, range(8))
    for i in range(8):
        shapes = [
            {"label": r[0], "shape_type": "polygon", "points": corners(r), "group_id": None}
            for r in _rectangles(i)
        ]
        content = {"imagePath": f"{i}.png", "imageHeight": SIDE, "imageWidth": SIDE}
        (folder / f"{i}.json").write_text(json.dumps({**content, "shapes": shapes}))
    return folder


def roboflow(folder: Path) -> Path:
    """train/ and valid/ with _annotations.coco.json, and the class that Roboflow puts first."""
    for part, numbers in (("train", range(6)), ("valid", range(6, 8))):
        write_images(folder / part, numbers)
        annotations: list[dict[str, Any]] = []
        for i in numbers:
            for name, x0, y0, x1, y1 in _rectangles(i):
                outline = [float(v) for p in corners((name, x0, y0, x1, y1)) for v in p]
                box, area = [x0, y0, x1 - x0, y1 - y0], (x1 - x0) * (y1 - y0)
                annotations.append(
                    {"id": len(annotations), "image_id": i, "segmentation": [outline], "bbox": box}
                    | {"category_id": CLASSES.index(name) + 1, "area": area, "iscrowd": 0}
                )
        named = [{"id": k + 1, "name": n, "supercategory": "things"} for k, n in enumerate(CLASSES)]
        content = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in numbers
            ],
            "annotations": annotations,
            "categories": [{"id": 0, "name": "things", "supercategory": "none"}, *named],
        }
        (folder / part / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def ultralytics(folder: Path) -> Path:
    for part, numbers in (("train", range(6)), ("val", range(6, 8))):
        write_images(folder / "images" / part, numbers)
        labels = folder / "labels" / part
        labels.mkdir(parents=True)
        for i in numbers:
            lines = [
                " ".join(
                    [str(CLASSES.index(r[0])), *(str(v / SIDE) for p in corners(r) for v in p)]
                )
                for r in _rectangles(i)
            ]
            (labels / f"{i}.txt").write_text("\n".join(lines))
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": CLASSES}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"
