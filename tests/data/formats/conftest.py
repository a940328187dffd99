"""Tiny generated files that the tests of all formats use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.formats import LoadedDataset

ImageMaker = Callable[..., Path]


@pytest.fixture
def make_image(tmp_path: Path) -> ImageMaker:
    """make_image("a.jpg", height=20, width=30, orientation=6) -> its path under tmp_path."""

    def make(name: str, height: int = 20, width: int = 30, orientation: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, exif=exif)
        return path

    return make


@pytest.fixture
def write_mask() -> Callable[[Path, Any], None]:
    """write_mask(path, mask): an image, an array of values, or the bytes of a file."""

    def write(path: Path, mask: Any) -> None:
        if isinstance(mask, bytes):
            path.write_bytes(mask)
        else:
            (Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask).save(path)

    return write


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[..., Path]:
    def write(data: Any, name: str = "annotations.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))
        return path

    return write


@pytest.fixture
def check_counts() -> Callable[[LoadedDataset], None]:
    """The invariants of every load: the report adds up, and the dicts are sound."""

    def check(dataset: LoadedDataset) -> None:
        report = dataset.report
        assert report.images_read == report.images_kept + sum(report.images_left_out.values())
        assert report.instances_read == report.instances_kept + sum(report.left_out.values())
        assert report.images_kept == len(dataset.dicts) == len(set(dataset.positions))
        assert list(dataset.positions) == sorted(dataset.positions)
        assert report.instances_kept == sum(len(d["annotations"]) for d in dataset.dicts)
        assert len(dataset.category_ids) == len(dataset.classes) == len(set(dataset.category_ids))
        assert len({d["image_id"] for d in dataset.dicts}) == len(dataset.dicts)
        for record in dataset.dicts:
            for annotation in record["annotations"]:
                x0, y0, x1, y1 = annotation["bbox"]
                assert 0 <= x0 < x1 <= record["width"] and 0 <= y0 < y1 <= record["height"]
                assert 0 <= annotation["category_id"] < len(dataset.classes)
                if dataset.mask_format == "bitmask":
                    assert isinstance(annotation["segmentation"], dict)
                elif not annotation["iscrowd"]:
                    assert all(len(p) >= 6 and len(p) % 2 == 0 for p in annotation["segmentation"])
                    assert all(type(v) is float for p in annotation["segmentation"] for v in p)
        json.dumps(dataset.dicts)

    return check
