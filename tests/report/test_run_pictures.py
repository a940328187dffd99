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

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.tiles import comparison_tiles


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One grey image with one square; folders of models that are sure of it, and not sure."""
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
    paths = {}
    for name, score in (("seen", 0.9), ("doubted", 0.3)):
        paths[name] = tmp_path / name / "val"
        paths[name].mkdir(parents=True)
        found = [{**thing, "segmentation": segmentation, "score": score}]
        (paths[name] / "coco_instances_results.json").write_text(json.dumps(found))
        (paths[name] / "val_ground_truth.json").write_text(json.dumps(truth))
    return paths


def truth_of(files: dict[str, Path]) -> Path:
    """The ground truth that is shown: the first model's."""
    return files["seen"] / "val_ground_truth.json"


def tiles_of(files: dict[str, Path], *names: str) -> dict[str, Any] | None:
    return comparison_tiles({name: [files[name] / "gone", files[name]] for name in names})


def coloured(picture: npt.NDArray[np.uint8]) -> int:
    """Pixels of a contour's colour: neither grey picture nor black or white text."""
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return int((spread > 80).sum())


def decoded(picture: Picture) -> npt.NDArray[np.uint8]:
    return cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)


def test_tiles_are_single_pictures_in_words_and_colours(files: dict[str, Path]) -> None:
    tiles = tiles_of(files, "seen", "doubted")
    assert tiles is not None
    assert tiles["titles"] == ["ground truth", "seen", "doubted"]
    assert [[p.alt for p in row] for row in tiles["rows"]] == [["box", "box 0.90", "nothing"]]
    assert list(tiles["colours"]) == ["box"]
    truth, seen, doubted = (coloured(decoded(picture)) for picture in tiles["rows"][0])
    assert truth > 300 and seen > 300 and doubted == 0


def test_images_that_are_gone_give_no_tiles(files: dict[str, Path]) -> None:
    (files["seen"].parents[1] / "a.png").unlink()
    assert tiles_of(files, "seen") is None


def test_without_predictions_there_are_no_tiles(files: dict[str, Path]) -> None:
    (files["seen"] / "coco_instances_results.json").unlink()
    assert tiles_of(files, "seen") is None


def outline(files: dict[str, Path], change: dict[str, Any], side: int = 60) -> list[int]:
    """Left, top, right and bottom of the coloured pixels of one tile, in 60ths of its side."""
    picture = np.full((side, side, 3), 128, np.uint8)
    cv2.imwrite(str(files["seen"].parents[1] / "a.png"), picture)
    truth = json.loads(truth_of(files).read_text())
    truth["images"][0] |= {"height": side, "width": side}
    truth["categories"][0]["name"] = " "
    truth["annotations"][0] |= change
    if not truth["annotations"][0].get("segmentation"):
        del truth["annotations"][0]["segmentation"]
    truth_of(files).write_text(json.dumps(truth))
    tiles = tiles_of(files, "seen")
    assert tiles is not None
    pixels = decoded(tiles["rows"][0][0])
    rows, columns = np.nonzero(pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 80)
    scale = 60 / len(pixels)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [round(edge * scale) for edge in edges]


OUTLINES = [
    # a polygon
    ({}, 60),
    # an outline of COCO's own tools: run lengths as numbers, column by column
    ({"segmentation": {"size": [60, 60], "counts": [610, *([30, 30] * 29), 30, 1220]}}, 60),
    # a model without masks has boxes
    ({"segmentation": None}, 60),
    # a large photograph
    (
        {
            "bbox": [500, 500, 1500, 1500],
            "segmentation": [[500, 500, 2000, 500, 2000, 2000, 500, 2000]],
        },
        3000,
    ),
]


@pytest.mark.parametrize(("change", "side"), OUTLINES, ids=["polygon", "counts", "box", "large"])
def test_outlines_lie_where_the_objects_are(
    files: dict[str, Path], change: dict[str, Any], side: int
) -> None:
    assert outline(files, change, side) == pytest.approx([10, 10, 40, 40], abs=1)


def test_an_object_at_the_border_has_a_closed_outline(files: dict[str, Path]) -> None:
    whole = [[0, 0, 60, 0, 60, 60, 0, 60]]
    change = {"bbox": [0, 0, 60, 60], "segmentation": whole}
    assert outline(files, change) == pytest.approx([0, 0, 60, 60], abs=1)


def test_a_mask_without_pixels_is_no_outline(files: dict[str, Path]) -> None:
    truth = json.loads(truth_of(files).read_text())
    truth["annotations"][0]["segmentation"] = {"size": [60, 60], "counts": [3600]}
    truth_of(files).write_text(json.dumps(truth))
    tiles = tiles_of(files, "seen")
    assert tiles is not None and coloured(decoded(tiles["rows"][0][0])) == 0


def test_names_are_left_out_where_there_are_too_many(files: dict[str, Path]) -> None:
    counts = []
    for many in (1, 11):
        truth = json.loads(truth_of(files).read_text())
        truth["annotations"] = [dict(truth["annotations"][0], id=i) for i in range(many)]
        truth_of(files).write_text(json.dumps(truth))
        tiles = tiles_of(files, "seen")
        assert tiles is not None
        counts.append(int((decoded(tiles["rows"][0][0]).max(axis=2) < 60).sum()))
    assert counts[0] > 50 and counts[1] == 0  # the black rim of letters


def test_damaged_predictions_are_named(files: dict[str, Path]) -> None:
    (files["seen"] / "coco_instances_results.json").write_text("[{")
    with pytest.raises(TransferError, match=r"results\.json cannot be read as JSON"):
        tiles_of(files, "seen")
