"""The comparison picture shows what the COCO files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.report.pictures import comparison_figure, comparison_picture


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One grey image with one square, and three predictions: right, elsewhere, below the score."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 60, 3), 128, np.uint8))
    mask = np.zeros((60, 60), np.uint8, order="F")
    mask[10:40, 10:40] = 1
    rle = mask_util.encode(mask)
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    thing: dict[str, Any] = {"image_id": 1, "category_id": 5, "bbox": [10, 10, 30, 30]}
    image = {"id": 1, "file_name": str(tmp_path / "a.png"), "height": 60, "width": 60}
    truth = {
        "images": [image],
        "categories": [{"id": 5, "name": "box"}],
        "annotations": [{**thing, "id": 1, "segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]]}],
    }
    contents: dict[str, Any] = {
        "truth": truth,
        "seen": [{**thing, "segmentation": segmentation, "score": 0.9}],
        "doubted": [{**thing, "segmentation": segmentation, "score": 0.3}],
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(content))
    return paths


def coloured(picture: npt.NDArray[np.uint8]) -> int:
    """Pixels of a contour's colour: neither grey picture nor black or white text."""
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return int((spread > 80).sum())


def test_columns_are_named(files: dict[str, Path]) -> None:
    figure = comparison_figure(files["truth"], {"seen": files["seen"]}, 4, 0.5)
    assert [axis.get_title() for axis in figure.axes] == ["ground truth", "seen (score > 0.5)"]


def test_contours_are_drawn_where_the_score_is_high(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("seen", "doubted"):
        comparison_picture(files["truth"], {name: files[name]}, tmp_path / f"{name}.png")
    seen, doubted = (cv2.imread(str(tmp_path / f"{n}.png")) for n in ("seen", "doubted"))
    half = seen.shape[1] // 2
    assert coloured(seen[:, :half]) > 300 and coloured(seen[:, half:]) > 300
    assert coloured(doubted[:, :half]) > 300 and coloured(doubted[:, half:]) == 0
