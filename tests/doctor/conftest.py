"""A small, faultless dataset to plant faults in, and the examination of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg

from transfer_maskrcnn.data.datasets import DatasetSpec
from transfer_maskrcnn.data.mapper import MapperForCheck
from transfer_maskrcnn.doctor import Diagnosis, examine
from transfer_maskrcnn.doctor.anchors import Settings
from transfer_maskrcnn.doctor.subject import subject_of

Content = dict[str, Any]
HEIGHT, WIDTH = 72, 96
CLASSES = ("nut", "bolt")
SETTINGS = Settings(
    min_size_train=(HEIGHT,),
    size_sampling="choice",
    max_size_train=128,
    min_size_test=HEIGHT,
    max_size_test=128,
    anchor_sizes=((8.0,), (16.0,), (24.0,), (48.0,), (96.0,)),
    aspect_ratios=((0.5, 1.0, 2.0),) * 5,
    strides=(4, 8, 16, 32, 64),
    detections_per_image=100,
    filter_empty=True,
)


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8: soft blotches of colour, others for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def blob(x: float, y: float, radius: float = 9.0, points: int = 10) -> list[float]:
    """A polygon around a circle, flat x, y in pixels."""
    angles = [2 * math.pi * k / points for k in range(points)]
    return [
        round(v, 2) for a in angles for v in (x + radius * math.cos(a), y + radius * math.sin(a))
    ]


def area_of(polygon: Sequence[float]) -> float:
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def annotation(number: int, image: int, category: int, polygon: list[float]) -> Content:
    """A COCO annotation whose box and area are right."""
    xs, ys = polygon[::2], polygon[1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [polygon],
        "bbox": box,
        "area": area_of(polygon),
        "iscrowd": 0,
    }


class Planted:
    """A COCO dataset in a folder: change ``content`` or the files, then ``write``."""

    def __init__(self, folder: Path, name: str, images: int, seed: int):
        self.name, self.root = name, folder / name
        self.root.mkdir()
        self.json = folder / f"{name}.json"
        listed, annotations = [], []
        for i in range(1, images + 1):
            file_name = f"{i:03}.png"
            cv2.imwrite(str(self.root / file_name), picture(seed + i))
            listed.append({"id": i, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
            for k, x in enumerate((16, 46, 78)):
                place = (x + (i * 3) % 7, 24 + (i * 5 + 17 * k) % 26)
                annotations.append(annotation(3 * i + k - 2, i, (i + k) % 2 + 1, blob(*place)))
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
        self.content: Content = {
            "images": listed,
            "annotations": annotations,
            "categories": categories,
        }
        self.options: dict[str, Any] = {}

    @property
    def annotations(self) -> list[Content]:
        found: list[Content] = self.content["annotations"]
        return found

    def image(self, number: int) -> Path:
        """The file of an image, by its id."""
        return self.root / self.content["images"][number - 1]["file_name"]

    def spec(self) -> DatasetSpec:
        self.json.write_text(json.dumps(self.content, indent=1))
        values: dict[str, Any] = {
            "name": self.name,
            "format": "coco",
            "annotations": str(self.json),
            "image_root": str(self.root),
            "classes": None,
            "hold_out_every": None,
            "part": None,
            "prepare": None,
        }
        return DatasetSpec(**{**values, **self.options})


@pytest.fixture
def train(tmp_path: Path) -> Planted:
    return Planted(tmp_path, "toy_train", images=8, seed=0)


@pytest.fixture
def val(tmp_path: Path) -> Planted:
    return Planted(tmp_path, "toy_val", images=4, seed=100)


MapperOf = Callable[[str], MapperForCheck]


@pytest.fixture(scope="session")
def mapper_of() -> MapperOf:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    return partial(MapperForCheck, cfg)


@pytest.fixture
def diagnose(mapper_of: MapperOf) -> Callable[..., Diagnosis]:
    """Examine datasets, given as :class:`Planted` or as specs."""

    def diagnose(*datasets: Any, settings: Settings = SETTINGS) -> Diagnosis:
        specs = [d.spec() if isinstance(d, Planted) else d for d in datasets]
        subjects = [subject_of(spec.name, spec=spec) for spec in specs]
        return examine(subjects, settings, mapper_of)

    return diagnose
