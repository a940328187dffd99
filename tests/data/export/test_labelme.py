from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from transfer_maskrcnn.data.export import EXPORTERS, labelme_document
from transfer_maskrcnn.data.formats.labelme_via import load_labelme_json
from transfer_maskrcnn.errors import DatasetError

from .conftest import HEIGHT, POLYGONS, RING, WIDTH, MakeDataset, pixels, square


def document_of(*annotations: dict[str, Any]) -> dict[str, Any]:
    record = {"file_name": "/x/a.jpg", "height": HEIGHT, "width": WIDTH}
    full = [{"category_id": 1, **annotation} for annotation in annotations]
    return labelme_document({**record, "annotations": full}, ["cat", "dog"])


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


def test_mask_shapes() -> None:
    (shape,) = document_of({"segmentation": pixels((3, 4, 9, 8), holes=[(5, 5, 6, 7)])})["shapes"]
    assert shape["shape_type"] == "mask"
    assert shape["points"] == [[3, 4], [8, 7]]  # the last column and row, not the far edges
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
        # labelme 5 uses the decoded array as an index: only a bool one does what is meant
        assert image.mode == "1"
        mask = np.asarray(image)
    assert mask.tolist() == [[True] * 6, *[[True, True, False, True, True, True]] * 2, [True] * 6]


def test_predictions() -> None:
    rle = mask_util.encode(
        np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
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
        "1 crowd region became ordinary: labelme has no flag for crowds. Remove them, or use coco, "
        "which has one.",
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
