"""Other tools read what is exported here, and what they write is read here: the same instances.

They live in an environment of their own, which `make peers` makes; tests/peers runs there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.data.formats import (
    LoadedDataset,
    load_coco_json,
    load_labelme_json,
    load_yolo,
)
from transfer_maskrcnn.data.formats.masks import mask_to_rle

ROOT = Path(__file__).resolve().parents[3]
PEERS = ROOT / ".venv-peers"
HEIGHT, WIDTH = 240, 320
# The lowest IoU of an instance. supervision rounds corners to whole pixels, and fills the outline's
# own pixels too; what it writes is the outline of that.
READ = {
    "pycocotools-coco": 0.99,
    "supervision-coco": 0.95,
    "supervision-yolo": 0.95,
    "supervision-labelme": 0.95,
    "ultralytics-yolo": 0.98,
    "labelme-labelme": 0.98,
    "labelme-labelme_masks": 0.98,
    "datumaro-coco": 0.99,
}
Instances = Mapping[str, list[tuple[str, Any]]]  # image stem -> class, segmentation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PEERS / ".made").exists(), reason="no other tools here: `make peers` gets them"
    ),
]


def star(x: float, y: float, radius: float, points: int = 5) -> list[float]:
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, radius * 0.8, radius)
    outline = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return [float(value) for value in outline.round(2).reshape(-1)]


def disc(x: int, y: int, radius: int, hole: int = 0) -> np.ndarray:
    mask = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (x, y), radius, 1, -1)
    return cv2.circle(mask, (x, y), hole, 0, -1) if hole else mask


POLYGONS = {
    "a": [("cat", [star(80.3, 90.7, 60)]), ("black dog", [star(220, 60, 45), star(230, 170, 50)])],
    "b.1": [("black dog", [star(160, 120, 100)])],
    "none": [],
}
MASKS = {
    "a": [
        ("cat", mask_to_rle(disc(80, 90, 60, hole=25))),
        ("black dog", mask_to_rle(disc(220, 60, 40) | disc(240, 180, 45))),
    ],
    "b.1": [("black dog", [star(160, 120, 100)])],
    "none": [],
}


def make_dataset(folder: Path, images: Instances) -> LoadedDataset:
    names = ["cat", "black dog"]
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 3 + k, "name": name} for k, name in enumerate(names)]
    (folder / "images").mkdir(parents=True)
    for number, (stem, instances) in enumerate(images.items()):
        image = Image.fromarray(np.full((HEIGHT, WIDTH, 3), 60 + number, np.uint8))
        image.save(folder / "images" / f"{stem}.png")
        content["images"].append({"id": number + 1, "file_name": f"{stem}.png"})
        content["annotations"] += [
            {"id": 10 * number + k, "image_id": number + 1, "segmentation": segmentation}
            | {"category_id": 3 + names.index(name), "iscrowd": 0}
            for k, (name, segmentation) in enumerate(instances)
        ]
    (folder / "a.json").write_text(json.dumps(content))
    return load_coco_json(folder / "a.json", folder / "images")


@pytest.fixture(scope="module", params=["polygons", "masks"])
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Instances, dict[str, Any]]:
    """The folder with our exports and the peers' own, what is in ours, and what the peers read."""
    folder = tmp_path_factory.mktemp(request.param)
    images = POLYGONS if request.param == "polygons" else MASKS
    dataset = make_dataset(folder / "own", images)
    for format in ("coco", "yolo", "labelme", "labelme_masks"):
        EXPORTERS[format](dataset, folder / format)
    script = ROOT / "tests/peers/read_and_write.py"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [PEERS / "bin/python", script, folder],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, images, json.loads(done.stdout)


def lowest_iou(expected: Instances, found: Instances) -> float:
    """Of the worst instance; each image must have as many, with one partner each of its class."""
    assert {stem: len(own) for stem, own in found.items()} == {
        stem: len(own) for stem, own in expected.items()
    }
    lowest = 1.0
    for stem, instances in expected.items():
        if not instances:
            continue
        sides = [[as_rle(s, HEIGHT, WIDTH) for _, s in side] for side in (instances, found[stem])]
        overlap = mask_util.iou(*sides, [0] * len(instances))
        partners = overlap.argmax(axis=1).tolist()
        assert sorted(partners) == list(range(len(instances)))
        for (name, _), partner in zip(instances, partners, strict=True):
            assert name == found[stem][partner][0]
        lowest = min(lowest, float(overlap.max(axis=1).min()))
    return lowest


def instances_of(dataset: LoadedDataset) -> Instances:
    report = dataset.report
    assert not report.left_out and not report.images_left_out
    return {
        Path(record["file_name"]).stem: [
            (dataset.classes[a["category_id"]], a["segmentation"]) for a in record["annotations"]
        ]
        for record in dataset.dicts
    }


@pytest.mark.parametrize("peer", READ)
def test_they_read_what_we_write(peer: str, asked: Any) -> None:
    _, images, found = asked
    assert isinstance(found[peer], dict), found[peer]
    assert lowest_iou(images, found[peer]) >= READ[peer]


def load_datumaro(folder: Path) -> LoadedDataset:
    (file,) = (folder / "annotations").glob("instances_*.json")
    (images,) = [path for path in (folder / "images").iterdir() if path.is_dir()]
    return load_coco_json(file, images)


WRITTEN = {
    "supervision-coco": lambda out: load_coco_json(out / "annotations.json", out / "images"),
    "supervision-yolo": lambda out: load_yolo(out / "data.yaml", out),
    "supervision-labelme": lambda out: load_labelme_json(out / "images", out / "images"),
    "labelme-labelme": lambda out: load_labelme_json(out / "images", out / "images"),
    "labelme-labelme_masks": lambda out: load_labelme_json(out / "images", out / "images"),
    "datumaro-coco": load_datumaro,
}


@pytest.mark.parametrize("peer", WRITTEN)
def test_we_read_what_they_write(peer: str, asked: Any) -> None:
    folder, _, found = asked
    dataset = WRITTEN[peer](folder / peer)
    assert lowest_iou(found[peer], instances_of(dataset)) >= READ[peer]
