"""The datasets that the benchmark runs on: generated, the same for every side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

CLASSES = [f"class_{i}" for i in range(1, 81)]  # as many as COCO has


def noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3), every pixel for itself."""
    return rng.integers(90, 160, (*size, 3), dtype=np.uint8)


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3): as large a JPEG, and as slow to decode, as a photograph: less of every
    octave than of the one before it."""
    height, width = size
    pixels = np.full((*size, 3), 128, dtype=np.float32)
    for side in (6, 24, 96):
        coarse = rng.standard_normal((side, side, 3), dtype=np.float32) * 120 / side**0.5
        pixels += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    grain = rng.integers(0, 18, (*size, 1), dtype=np.uint8)
    return np.asarray(pixels.clip(0, 235).astype(np.uint8) + grain)


def write_pictures(
    folder: Path,
    images: int,
    size: tuple[int, int],
    objects: int,
    seed: int = 0,
    background: Callable[[np.random.Generator, tuple[int, int]], np.ndarray] = noise,
) -> Path:
    """JPEG images of ellipses on a background and a COCO json beside them; returns the json.

    Args:
        folder: made if it is not there.
        size: height, width in pixels.
        objects: an image, each with a polygon of 24 points.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }
    for image_id in range(1, images + 1):
        pixels = background(rng, size)
        for _ in range(objects):
            annotation = _ellipse(rng, size)
            outline = np.array(annotation["segmentation"][0]).reshape(-1, 2)
            color = rng.integers(0, 255, 3).tolist()
            cv2.fillPoly(pixels, [np.rint(outline).astype(np.int32)], color)
            number = len(content["annotations"]) + 1
            content["annotations"].append({**annotation, "id": number, "image_id": image_id})
        name = f"{image_id:06d}.jpg"
        cv2.imwrite(str(folder / name), pixels)
        content["images"].append(
            {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        )
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def _ellipse(rng: np.random.Generator, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    radii = rng.uniform(0.02, 0.15, 2) * min(size)
    center = rng.uniform([radii[0], radii[1]], [width - radii[0] - 1, height - radii[1] - 1])
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    low, high = points.min(0), points.max(0)
    return {
        "category_id": int(rng.integers(1, len(CLASSES) + 1)),
        "segmentation": [np.round(points, 2).ravel().tolist()],
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float(np.pi * radii.prod()),
        "iscrowd": 0,
    }


def write_detections(annotations: Path, path: Path, detections: int, seed: int = 0) -> None:
    """COCO results for a json of :func:`write_pictures`: its objects, moved, and false alarms.

    Args:
        detections: how many of each image.
    """
    rng = np.random.default_rng(seed)
    content = json.loads(annotations.read_text())
    truth: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        truth.setdefault(annotation["image_id"], []).append(annotation)
    results = []
    for image in content["images"]:
        size = image["height"], image["width"]
        for k in range(detections):
            known = truth[image["id"]]
            found = known[k] if k < len(known) else _ellipse(rng, size)
            outline = np.array(found["segmentation"][0]).reshape(-1, 2) + rng.normal(0, 3, 2)
            rle = mask_util.frPyObjects([outline.ravel().tolist()], *size)[0]
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": found["category_id"],
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "score": float(rng.random()),
                    "segmentation": {**rle, "counts": rle["counts"].decode()},
                }
            )
    path.write_text(json.dumps(results))
