"""A generated ground truth with objects of all sizes, and what a perfect model finds in it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

HEIGHT, WIDTH = 320, 480
CLASSES = {3: "cat", 5: "dog", 9: "owl"}
# side of the square, left, top; small, medium and large by COCO's areas
SQUARES = [(20, 10, 10), (24, 60, 12), (18, 120, 20), (60, 200, 10), (70, 10, 120), (130, 300, 150)]

Record = dict[str, Any]


def rectangle(x: float, y: float, width: float, height: float) -> Record:
    """A box and its mask, as COCO results have them."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[max(0, round(y)) : round(y + height), max(0, round(x)) : round(x + width)] = 1
    rle = mask_util.encode(mask)
    return {
        "bbox": [float(x), float(y), float(width), float(height)],
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


def make_truth(images: int = 4) -> Record:
    categories = [{"id": i, "name": name} for i, name in CLASSES.items()]
    annotations = []
    for image in range(images):
        for number, (side, x, y) in enumerate(SQUARES):
            shape = rectangle(x + image, y, side, side)
            category = list(CLASSES)[(number + image) % len(CLASSES)]
            place = {"id": len(annotations) + 1, "image_id": 7 + image, "category_id": category}
            annotations.append({**shape, **place, "area": float(side * side), "iscrowd": 0})
    listed = [
        {"id": 7 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
        for i in range(images)
    ]
    return {"images": listed, "categories": categories, "annotations": annotations}


def make_perfect(truth: Record) -> list[Record]:
    """Every object once, with falling scores."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [
        {**{key: copy.deepcopy(a[key]) for key in keys}, "score": 0.95 - 0.01 * number}
        for number, a in enumerate(truth["annotations"])
    ]


@pytest.fixture
def truth() -> Record:
    """Four images with six objects each, three of them small, two medium, one large."""
    return make_truth()


@pytest.fixture
def perfect(truth: Record) -> list[Record]:
    return make_perfect(truth)
