"""Generated data that several test files share."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ["TRANSFER_CACHE"] = ""  # no test, nor a process it starts, writes to a user's home
SIDE = 64
CLASSES = ["blob", "bar"]
# class, x0, y0, x1, y1 of each image's rectangles
RECTANGLES = [
    [("blob", 4, 4, 30, 28), ("bar", 34, 10, 44, 60)],
    [("blob", 20, 30, 50, 58)],
    [("bar", 6, 6, 16, 50), ("bar", 40, 8, 52, 56)],
    [("blob", 8, 8, 40, 36), ("bar", 46, 4, 58, 60)],
]
Rectangle = tuple[str, int, int, int, int]


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """caplog sees the messages: a command in this process takes them from the root logger."""
    logger = logging.getLogger("transfer_maskrcnn")
    logger.propagate = True
    yield
    logger.propagate = True


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real datasets and weights; tests that need it skip where it is absent."""
    path = Path(os.environ.get("TRANSFER_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: real datasets and weights (TRANSFER_SHARED) are not here")
    return path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy, without network and without leaving anything in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("configs", "transfer_maskrcnn"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--wheel-dir", str(source / "wheels"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = (source / "wheels").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def write_dataset() -> Callable[[str, Path], dict[str, Any]]:
    """A function (format, folder) -> catalog entry that writes four tiny images and annotations."""

    def write(format: str, folder: Path) -> dict[str, Any]:
        images = folder / "images" / "train"
        images.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i, rectangles in enumerate(RECTANGLES):
            pixels = rng.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
            for name, x0, y0, x1, y1 in rectangles:
                pixels[y0:y1, x0:x1] = (200, 200, 40) if name == "blob" else (40, 90, 220)
            cv2.imwrite(str(images / f"{i}.png"), pixels)
        entry = WRITERS[format](folder, images)
        return {"format": format, **entry}

    return write


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Any]:
    """toy(*opts, sizes=four squares of 64) -> the fitted config of a tiny run; see toy_runs."""
    from .toy_runs import toy_configs  # not above: most tests need no torch

    return toy_configs(tmp_path)


@pytest.fixture(scope="session")
def train() -> Callable[..., Any]:
    """train(cfg, *hooks, resume=False) -> the toy_runs.Run that has ended."""
    from .toy_runs import run_training

    return run_training


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each entry of a feature cache that is computed."""
    from .toy_runs import count_computed

    return count_computed(monkeypatch)


def corners(rectangle: Rectangle) -> list[tuple[int, int]]:
    _, x0, y0, x1, y1 = rectangle
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _coco(folder: Path, images: Path) -> dict[str, Any]:
    annotations = [
        {
            "image_id": i,
            "category_id": 10 * (CLASSES.index(r[0]) + 1),
            "segmentation": [[float(v) for point in corners(r) for v in point]],
            "bbox": [r[1], r[2], r[3] - r[1], r[4] - r[2]],
            "area": (r[3] - r[1]) * (r[4] - r[2]),
            "iscrowd": 0,
        }
        for i, rectangles in enumerate(RECTANGLES)
        for r in rectangles
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE}
            for i in range(len(RECTANGLES))
        ],
        "annotations": annotations,
        "categories": [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return {"annotations": "coco.json", "image_root": "images/train", "classes": CLASSES}


def _via(folder: Path, images: Path) -> dict[str, Any]:
    content = {}
    for i, rectangles in enumerate(RECTANGLES):
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in corners(r)],
                    "all_points_y": [y for _, y in corners(r)],
                },
                "region_attributes": {"kind": r[0]},
            }
            for r in rectangles
        ]
        content[f"{i}.png1"] = {"filename": f"{i}.png", "size": 1, "regions": regions}
    (folder / "via.json").write_text(json.dumps(content))
    return {"annotations": "via.json", "image_root": "images/train", "classes": CLASSES}


def _labelme(folder: Path, images: Path) -> dict[str, Any]:
    (folder / "json").mkdir()
    for i, rectangles in enumerate(RECTANGLES):
        shapes = [
            {"label": r[0], "shape_type": "polygon", "points": corners(r), "group_id": None}
            for r in rectangles
        ]
        content = {"imagePath": f"{i}.png", "imageHeight": SIDE, "imageWidth": SIDE}
        (folder / "json" / f"{i}.json").write_text(json.dumps({**content, "shapes": shapes}))
    return {"annotations": "json", "image_root": "images/train", "classes": CLASSES}


def _yolo(folder: Path, images: Path) -> dict[str, Any]:
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for i, rectangles in enumerate(RECTANGLES):
        lines = [
            " ".join(
                [str(CLASSES.index(r[0])), *(f"{v / SIDE:.6f}" for p in corners(r) for v in p)]
            )
            for r in rectangles
        ]
        (labels / f"{i}.txt").write_text("\n".join(lines))
    names = dict(enumerate(CLASSES))
    content = {"path": ".", "train": "images/train", "val": "images/train", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return {"annotations": "data.yaml", "split": "train"}


def _png_masks(folder: Path, images: Path) -> dict[str, Any]:
    """One class: the format holds instances, not names."""
    (folder / "masks").mkdir()
    for i, rectangles in enumerate(RECTANGLES):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for number, (_, x0, y0, x1, y1) in enumerate(rectangles, 1):
            mask[y0:y1, x0:x1] = number
        cv2.imwrite(str(folder / "masks" / f"{i}.png"), mask)
    return {"annotations": "masks", "image_root": "images/train", "classes": ["thing"]}


WRITERS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "coco": _coco,
    "via": _via,
    "labelme": _labelme,
    "yolo": _yolo,
    "png_masks": _png_masks,
}
