"""A small dataset in several formats, and a cache that takes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data import datasets
from transfer_maskrcnn.data.datasets import DatasetSpec
from transfer_maskrcnn.data.formats import FORMATS

SIDE = 16
SQUARE = [2.0, 2.0, 10.0, 2.0, 10.0, 10.5, 2.0, 10.5]
RLE = {"size": [SIDE, SIDE], "counts": [40, 5, SIDE * SIDE - 45]}
LABELS = {"kind": "cat", "colour": "red"}


def coco(segmentations: list[Any]) -> dict[str, Any]:
    """Six images: 1.png is missing, 2.png of another size, and no annotation is of 5.png."""
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 7, "segmentation": s, "iscrowd": int(s is RLE)}
        for s in segmentations
    ]
    annotations += [{**annotations[0], "image_id": i} for i in (1, 2, 3, 4, 99)]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE + (i == 2)}
            for i in range(6)
        ],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def via() -> dict[str, Any]:
    shape = {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]}
    regions = [
        {"shape_attributes": shape, "region_attributes": LABELS},
        {"shape_attributes": {"name": "point"}, "region_attributes": LABELS},
    ]
    return {f"{i}.png": {"filename": f"{i}.png", "regions": regions} for i in range(6)}


CONTENTS = {
    "polygons": ("coco", coco([[SQUARE], [SQUARE, SQUARE], None]), {}),
    "crowd": ("coco", coco([[SQUARE], RLE]), {"classes": ("cat", "dog")}),
    "bitmasks": ("coco", coco([{**RLE}, [SQUARE]]), {}),
    "via": ("via", via(), {"options": {"attribute": "kind"}}),
}
WriteSpec = Callable[[str], DatasetSpec]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder. Every dataset is large enough, and no image too young."""
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "_MIN_ITEMS", 1)
    monkeypatch.setattr(datasets, "_YOUNG_NS", 0)
    return tmp_path / "cache" / "datasets"


@pytest.fixture
def write_spec(tmp_path: Path, cache: Path) -> WriteSpec:
    """A function content -> the spec of that dataset, which is not cached yet."""

    def write(content: str) -> DatasetSpec:
        images = tmp_path / "images"
        images.mkdir()
        for i in (0, 2, 3, 4, 5):
            Image.fromarray(np.full((SIDE, SIDE, 3), i, np.uint8)).save(images / f"{i}.png")
        format, data, arguments = CONTENTS[content]
        (tmp_path / "a.json").write_text(json.dumps(data))
        annotations = str(tmp_path / "a.json")
        return DatasetSpec("toy", format, annotations, str(images), **arguments)

    return write


@pytest.fixture
def spec(write_spec: WriteSpec) -> DatasetSpec:
    return write_spec("polygons")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats of all that is parsed from here on."""
    seen: list[str] = []
    for format, loader in list(FORMATS.items()):

        @wraps(loader)
        def spy(*args: Any, _loader: Any = loader, _format: str = format, **kwargs: Any) -> Any:
            seen.append(_format)
            return _loader(*args, **kwargs)

        monkeypatch.setitem(FORMATS, format, spy)
    return seen
