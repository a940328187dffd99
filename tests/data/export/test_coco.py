from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.export import EXPORTERS, coco_document
from transfer_maskrcnn.data.export.documents import COCO_FILE
from transfer_maskrcnn.data.export.masks import segmentation_area, segmentation_box

from .conftest import HEIGHT, MASKS, POLYGONS, RING, WIDTH, MakeDataset, square, with_two_classes


@pytest.mark.parametrize(
    ("segmentation", "area"),
    [
        # a bitmask: its pixels
        (RING, 12 * 12 - 9 - 6),
        # a polygon: what it encloses, also between pixels
        ([square(10.25, 10, 5.5)], 5.5**2),
        # parts
        ([square(10, 10, 5), square(20, 10, 6)], 25 + 36),
        # parts that overlap cover less than they enclose
        ([square(10, 10, 20), square(10, 10, 20)], 400),
        # a bow tie: the signed areas of its halves cancel out
        ([[10.0, 10, 30, 30, 30, 10, 10, 30]], pytest.approx(200, abs=20)),
        # less than a pixel, around none's centre
        ([square(10.6, 10.6, 0.5)], pytest.approx(0.25)),
    ],
)
def test_area(segmentation: Any, area: float) -> None:
    assert segmentation_area(segmentation, HEIGHT, WIDTH) == area


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        (RING, [2, 2, 12, 12]),
        ([square(10.25, 10, 5.5), square(30, 4, 2)], [10.25, 4, 21.75, 11.5]),
    ],
)
def test_box(segmentation: Any, box: list[float]) -> None:
    assert segmentation_box(segmentation) == box


def test_document(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(with_two_classes(MASKS))
    records = [{**r, "file_name": f"{k}.png"} for k, r in enumerate(dataset.dicts, start=1)]
    document = coco_document(records, dataset.classes, dataset.category_ids)
    assert document["images"][1] == {
        "id": 1,
        "file_name": "2.png",
        "height": HEIGHT,
        "width": WIDTH,
    }
    assert document["categories"] == [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}]
    annotations = document["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, 10))
    assert [a["category_id"] for a in annotations] == [5, 9, 5, 9, 5, 5, 9, 5, 9]
    assert [a["iscrowd"] for a in annotations] == [0] * 7 + [1, 0]
    assert annotations[0] == {
        "id": 1,
        "image_id": 0,
        "category_id": 5,
        "segmentation": RING,
        "bbox": [2, 2, 12, 12],
        "area": 129,
        "iscrowd": 0,
    }


def test_what_the_dataset_says_of_boxes_and_areas_does_not_count(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(POLYGONS)
    document = coco_document(dataset.dicts, dataset.classes)
    wrong = [
        {
            **record,
            "annotations": [
                {**a, "bbox": [0, 0, 1, 1], "area": 3.0} for a in record["annotations"]
            ],
        }
        for record in dataset.dicts
    ]
    assert coco_document(wrong, dataset.classes) == document


def test_files(tmp_path: Path, make_dataset: MakeDataset) -> None:
    EXPORTERS["coco"](make_dataset(MASKS), tmp_path / "out")
    document = json.loads((tmp_path / "out" / COCO_FILE).read_text())
    names = [image["file_name"] for image in document["images"]]
    assert names == ["a b.png", "sub_a b.png", "größe.in.dots.jpg"]
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == sorted(names)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"annotations", "catalog.yaml", "images"}
