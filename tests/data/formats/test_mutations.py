"""Whatever happens to the files of a dataset, or to its catalog: it loads with counts that add up,
or the error is one of ours, at once.

Each mutation is told by its seed alone: `mutate(files, Random("coco 17"))` does it again.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.recognise import recognise
from transfer_maskrcnn.data.registry import register_catalog
from transfer_maskrcnn.errors import TransferError

from .mutations import HEIGHT, SQUARE, WIDTH, mutate, png

MOST_SECONDS = 3.0  # of one mutation; a sound load takes milliseconds


# ---------------------------------------------------------------------------- small datasets


def coco(folder: Path) -> dict[str, Any]:
    crowd = {"size": [HEIGHT, WIDTH], "counts": [5, 9, 586]}
    text = {"size": [HEIGHT, WIDTH], "counts": "T14`000001N1"}
    content = {
        "images": [
            {"id": 5 + k, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for k, name in enumerate(("a.png", "sub/b.jpg"))
        ],
        "annotations": [
            {"id": k, "image_id": 5 + k % 2, "category_id": 7 + k % 2, "segmentation": shape}
            | {"bbox": [2, 2, 7, 7], "area": 49.0, "iscrowd": int(shape is crowd)}
            for k, shape in enumerate(([SQUARE], [SQUARE, [v + 9 for v in SQUARE]], crowd, text))
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return {"annotations": "a.json", "image_root": "images"}


def via(folder: Path) -> dict[str, Any]:
    shapes = (
        {"name": "polygon", "all_points_x": [2, 8, 8], "all_points_y": [2, 2, 8]},
        {"name": "ellipse", "cx": 9, "cy": 9, "rx": 4, "ry": 3, "theta": 0.5},
        {"name": "rect", "x": 9, "y": 9, "width": 4, "height": 3},
        {"name": "point", "cx": 9, "cy": 9},
    )
    regions = [{"shape_attributes": s, "region_attributes": {"kind": "cat"}} for s in shapes]
    records = {
        f"{name}1": {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}
        for name in ("a.png", "sub/b.jpg")
    }
    content = {"_via_settings": {}, "_via_img_metadata": records, "_via_attributes": {}}
    (folder / "a.json").write_text(json.dumps(content))
    return {"annotations": "a.json", "image_root": "images"}


def labelme(folder: Path) -> dict[str, Any]:
    mask = base64.b64encode(png(np.ones((4, 7), bool))).decode("ascii")
    shapes = [
        {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}
        | {"mask": mask if kind == "mask" else None}
        for label, points, group, kind in (
            ("cat", [[2, 2], [8, 2], [8, 8]], 1, "polygon"),
            ("cat", [[2, 2], [8, 2]], 1, "circle"),
            ("dog", [[2, 2], [8, 5]], None, "rectangle"),
            ("dog", [[2, 2], [8, 5]], None, "mask"),
            ("dog", [[2, 2]], None, "point"),
        )
    ]
    (folder / "json" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.jpg"):
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        content |= {"imagePath": name, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / "json" / name).with_suffix(".json").write_text(json.dumps(content))
    return {"annotations": "json", "image_root": "images"}


def yolo(folder: Path) -> dict[str, Any]:
    (folder / "labels" / "sub").mkdir(parents=True)
    (folder / "labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.1 0.6 0.9 0.6 0.9 0.9\n")
    (folder / "labels/sub/b.txt").write_text("0 0.2 0.2 0.6 0.2 0.6 0.6 0.2 0.6\n")
    content = {"path": ".", "train": "images", "val": "images", "names": ["cat", "dog"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return {"annotations": "data.yaml", "split": "train"}


def png_masks(folder: Path) -> dict[str, Any]:
    (folder / "masks" / "sub").mkdir(parents=True)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:9, 2:9], mask[2:9, 9:15], mask[12:18, 3:9] = 1, 2, 3
    for name in ("a.png", "sub/b.png"):
        (folder / "masks" / name).write_bytes(png(mask))
    return {"annotations": "masks", "image_root": "images", "classes": ["cat"]}


def catalog(folder: Path) -> dict[str, Any]:
    entry = {"format": "coco", **coco(folder), "classes": ["cat", "dog", "bird"]}
    other = {"format": "coco", **coco(folder), "merge": {"animal": ["cat", "dog"]}}
    parts = {
        f"fuzz_{part}": {**other, "classes": ["animal"], "hold_out_every": 2, "part": part}
        for part in ("train", "val")
    }
    content = {"fuzz_plain": entry, **parts}
    (folder / "my.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return {}


MAKERS = {f.__name__: f for f in (coco, via, labelme, yolo, png_masks, catalog)}


# ---------------------------------------------------------------------------- the tests

_LATER = 1000 * int(os.environ.get("TRANSFER_FAULT_SEED", "1"))
SEEDS = [
    range(100),
    pytest.param(range(100, 300), marks=pytest.mark.slow),
    pytest.param(range(_LATER, _LATER + 600), marks=pytest.mark.faults),
]


def make(folder: Path, name: str) -> dict[str, Any]:
    """A small sound dataset; returns what its catalog would say of it."""
    (folder / "images" / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for image in ("a.png", "sub/b.jpg"):
        Image.fromarray(pixels).save(folder / "images" / image)
    return MAKERS[name](folder)


def run(name: str, seeds: range, folder: Path, load: Callable[[Path, dict[str, Any]], Any]) -> int:
    """How many of the mutations load all the same; any other error than ours ends the test."""
    entry = make(folder / "sound", name)
    loaded = 0
    for seed in seeds:
        own = folder / str(seed)
        shutil.copytree(folder / "sound", own)
        files = sorted(path for path in own.rglob("*") if path.is_file())
        if name == "catalog":
            files = [own / "my.yaml"]
        mutate(files, Random(f"{name} {seed}"))
        started = time.process_time()
        try:
            load(own, dict(entry))
            loaded += 1
        except TransferError as error:
            assert len(str(error)) < 3000, f"{name} {seed}"
        except Exception as error:
            raise AssertionError(f"{name} {seed}: {error!r}") from error
        assert time.process_time() - started < MOST_SECONDS, f"{name} {seed}"
        shutil.rmtree(own)
    return loaded


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("format", FORMATS)
def test_files_of_a_dataset(
    format: str, seeds: range, tmp_path: Path, check_counts: Callable[[Any], None]
) -> None:
    def load(folder: Path, entry: dict[str, Any]) -> None:
        paths = {k: folder / entry.pop(k) for k in ("annotations", "image_root") if k in entry}
        with suppress(TransferError):
            recognise(folder)
        check_counts(FORMATS[format](**paths, **entry))

    assert 0 < run(format, seeds, tmp_path, load) < len(seeds)


@pytest.mark.parametrize("seeds", SEEDS)
def test_catalogs(seeds: range, tmp_path: Path) -> None:
    known = set(DatasetCatalog.list())

    def load(folder: Path, entry: dict[str, Any]) -> None:
        try:
            for name in register_catalog(folder / "my.yaml"):
                DatasetCatalog.get(name)
        finally:
            for name in set(DatasetCatalog.list()) - known:
                DatasetCatalog.remove(name)
                MetadataCatalog.pop(name, None)

    assert 0 < run("catalog", seeds, tmp_path, load) < len(seeds)
