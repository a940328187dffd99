from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from transfer_maskrcnn.data.export import EXPORTERS, labelme_document
from transfer_maskrcnn.data.formats.labelme_via import load_labelme_json
from transfer_maskrcnn.data.formats.masks import mask_to_rle, polygons_to_rle, rle_to_mask
from transfer_maskrcnn.errors import DatasetError

from .conftest import HEIGHT, POLYGONS, RING, WIDTH, MakeDataset, pixels, square


def document_of(*annotations: dict[str, Any], masks: bool = False) -> dict[str, Any]:
    record = {"file_name": "/x/a.jpg", "height": HEIGHT, "width": WIDTH}
    full = [{"category_id": 1, **annotation} for annotation in annotations]
    return labelme_document({**record, "annotations": full}, ["cat", "dog"], masks)


def test_document() -> None:
    assert document_of({"segmentation": [[1, 2, 5, 2, 5, 9]], "category_id": 0}) == {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {
                "label": "cat",
                "points": [[1, 2], [5, 2], [5, 9]],
                "group_id": None,
                "shape_type": "polygon",
                "description": "",
                "flags": {},
                "mask": None,
            }
        ],
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def test_parts_share_a_group_of_their_own() -> None:
    parts = [square(1, 1, 3), square(9, 9, 3)]
    document = document_of(*({"segmentation": s} for s in (parts, [square(30, 1, 5)], parts)))
    groups = [shape["group_id"] for shape in document["shapes"]]
    assert groups == [1, 1, None, 3, 3]


def test_an_rle_becomes_polygons_that_a_hand_can_edit() -> None:
    disc = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (20, 20), 14, 1, -1)
    disc[18:22, 16:24] = 0  # a hole
    disc[3:9, 50:58] = 1  # a second part
    document = document_of({"segmentation": mask_to_rle(disc)})
    kinds = [(s["shape_type"], s["group_id"], s["mask"]) for s in document["shapes"]]
    assert kinds == [("polygon", 1, None)] * 2
    assert sum(len(shape["points"]) for shape in document["shapes"]) < 40
    flat = [np.reshape(shape["points"], -1).tolist() for shape in document["shapes"]]
    drawn = rle_to_mask(polygons_to_rle(flat, HEIGHT, WIDTH))
    assert (drawn & disc).sum() / (drawn | disc).sum() >= 0.98
    assert not drawn[19:21, 17:23].any(), "the hole is cut in by a bridge"


def test_masks_on_request() -> None:
    rle = pixels((3, 4, 9, 8), holes=[(5, 5, 6, 7)])
    (shape,) = document_of({"segmentation": rle}, masks=True)["shapes"]
    assert shape["shape_type"] == "mask"
    assert shape["points"] == [[3, 4], [8, 7]]  # the last column and row, not the far edges
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
        # labelme 5 uses the decoded array as an index: only a bool one does what is meant
        assert image.mode == "1"
        mask = np.asarray(image)
    assert mask.tolist() == [[True] * 6, *[[True, True, False, True, True, True]] * 2, [True] * 6]


def test_predictions() -> None:
    rle = mask_util.encode(
        np.asfortranarray(np.tri(HEIGHT, WIDTH, dtype=np.uint8))
    )  # counts: bytes
    empty = mask_util.encode(np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F"))
    document = document_of(
        {"segmentation": rle, "score": 0.98765},
        {"segmentation": [square(1, 1, 5)], "score": np.float32(1)},
        {"segmentation": empty, "score": 0.5},
    )
    assert [s["description"] for s in document["shapes"]] == ["score 0.988", "score 1.000"]
    assert [s["label"] for s in document["shapes"]] == ["dog", "dog"]


def test_crowds_are_told_of(tmp_path: Path, make_dataset: MakeDataset) -> None:
    notes = EXPORTERS["labelme"](make_dataset(POLYGONS), tmp_path / "out")
    assert notes == [
        "1 crowd region left out: they are not trained on, and labelme has no flag for them. coco "
        "has one.",
    ]


def test_json_lies_beside_its_image(tmp_path: Path, make_dataset: MakeDataset) -> None:
    images = {"a.png": [("cat", RING, 0)], "sub/a.png": [("cat", [square(1, 1, 5)], 0)]}
    notes = EXPORTERS["labelme"](make_dataset(images), tmp_path / "out")
    folder = tmp_path / "out" / "images"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["a.json", "a.png", "sub_a.json", "sub_a.png"]
    assert notes == ["Renamed, since another had the same name: 1 image."]
    with pytest.raises(DatasetError, match="labels that are not among the classes"):
        load_labelme_json(folder, folder, classes=["dog"])
