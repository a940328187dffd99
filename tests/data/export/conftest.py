"""Small datasets with all that is hard to write, and a way to read back what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from transfer_maskrcnn.data.formats import FORMATS, LoadedDataset, load_coco_json
from transfer_maskrcnn.data.formats.masks import mask_to_rle

HEIGHT, WIDTH = 40, 60
Instance = tuple[str, Any, int]  # class, segmentation, iscrowd
Images = dict[str, list[Instance]]
MakeDataset = Callable[[Images], LoadedDataset]


def pixels(*rectangles: tuple[int, int, int, int], holes: Any = ()) -> dict[str, Any]:
    """The RLE of rectangles x0, y0, x1, y1, less the holes."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for value, boxes in ((True, rectangles), (False, holes)):
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = value
    return mask_to_rle(mask)


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


RING = pixels((2, 2, 14, 14), holes=[(5, 5, 8, 8), (9, 9, 11, 12)])
CHECKERS = pixels(*((20 + x, 20 + y, 21 + x, 21 + y) for x in range(6) for y in range(x % 2, 6, 2)))
MASKS: Images = {
    # holes; two that touch; several parts, one on the image's border; the image's last pixel
    "a b.png": [
        ("cat", RING, 0),
        ("cat", pixels((20, 2, 26, 9)), 0),
        ("cat", pixels((26, 2, 31, 9)), 0),
        ("cat", pixels((40, 2, 44, 6), (50, 8, 60, 12)), 0),
        ("cat", pixels((59, 39, 60, 40)), 0),
    ],
    # pixels that meet at corners alone; two such pixels, a crowd; a ring within a ring's hole
    "sub/a b.png": [
        ("cat", CHECKERS, 0),
        ("cat", pixels((2, 30, 3, 31), (3, 31, 4, 32)), 0),
        ("cat", pixels((40, 20, 58, 38), holes=[(42, 22, 56, 36)]), 1),
        ("cat", pixels((44, 24, 54, 34), holes=[(46, 26, 52, 32)]), 0),
    ],
    "größe.in.dots.jpg": [],  # no objects
}
POLYGONS: Images = {
    # a triangle, fractions of pixels, several parts, two that share an edge, a tiny one
    "x.1.png": [
        ("cat", [[3.3, 4.7, 15.2, 6.1, 9.9, 17.4]], 0),
        ("cat", [square(20.5, 2.25, 6), square(30.0, 3.75, 4), square(22, 12, 5.5)], 0),
        ("cat", [square(40, 4, 6)], 0),
        ("cat", [square(46, 4, 6)], 0),
        ("cat", [square(50.1, 30.2, 1.4)], 0),
    ],
    "日本.png": [("cat", [square(1, 1, 9)], 0), ("cat", RING | pixels((30, 20, 50, 39)), 1)],
    "empty.png": [],
}


def with_two_classes(images: Images) -> Images:
    """Every second instance is a dog."""
    return {
        name: [(("cat", "dog")[k % 2], *rest) for k, (_, *rest) in enumerate(instances)]
        for name, instances in images.items()
    }


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """A function that writes images and a COCO json, whose category ids are 5 and 9; loads them."""

    def make(images: Images) -> LoadedDataset:
        folder = tmp_path / "original"
        content: dict[str, Any] = {"images": [], "annotations": []}
        names = sorted({name for instances in images.values() for name, *_ in instances})
        content["categories"] = [{"id": 5 + 4 * k, "name": name} for k, name in enumerate(names)]
        for number, (file_name, instances) in enumerate(images.items()):
            path = folder / "images" / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(path)
            content["images"].append({"id": number, "file_name": file_name})
            content["annotations"] += [
                {
                    "image_id": number,
                    "category_id": 5 + 4 * names.index(name),
                    "segmentation": segmentation,
                    "iscrowd": iscrowd,
                }
                for name, segmentation, iscrowd in instances
            ]
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = number
        (folder / "a.json").write_text(json.dumps(content))
        return load_coco_json(folder / "a.json", folder / "images")

    return make


@pytest.fixture
def read_back() -> Callable[[Path], LoadedDataset]:
    """Loads what an exporter wrote, as its catalog.yaml says; nothing may be lost or mended."""

    def read(folder: Path) -> LoadedDataset:
        ((_, entry),) = yaml.safe_load((folder / "catalog.yaml").read_text("utf-8")).items()
        paths = {
            key: folder / entry.pop(key) for key in ("annotations", "image_root") if key in entry
        }
        dataset = FORMATS[entry.pop("format")](**paths, **entry)
        report = dataset.report
        assert not report.left_out and not report.images_left_out and not report.repaired
        return dataset

    return read
