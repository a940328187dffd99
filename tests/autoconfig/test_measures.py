"""Boxes of any mode are measured; crowds are not."""

from __future__ import annotations

import pytest
from detectron2.structures import BoxMode

from transfer_maskrcnn.doctor.anchors import measure


def annotation(box: list[float], mode: BoxMode, category: int = 0, crowd: int = 0) -> dict:
    return {"bbox": box, "bbox_mode": mode, "category_id": category, "iscrowd": crowd}


RECORDS = [
    {
        "height": 40,
        "width": 60,
        "annotations": [
            annotation([10, 10, 14, 19], BoxMode.XYXY_ABS),
            annotation([10, 10, 4, 9], BoxMode.XYWH_ABS, category=2),
            annotation([0, 0, 60, 40], BoxMode.XYXY_ABS, crowd=1),
        ],
    },
    {"height": 80, "width": 20, "annotations": []},
    {"height": 80, "width": 20, "annotations": [annotation([0, 0, 16, 4], BoxMode.XYWH_ABS)]},
    {"height": 80, "width": 20},
]


def test_measures() -> None:
    found = measure(RECORDS, classes=4)
    assert found.images_hw.tolist() == [[40, 60], [80, 20], [80, 20], [80, 20]]
    assert found.boxes_wh.tolist() == [[4, 9], [4, 9], [16, 4]]
    assert found.class_counts.tolist() == [2, 0, 1, 0]
    assert found.objects_an_image.tolist() == [2, 0, 1, 0]
    assert (found.images, found.empty_images) == (4, 2)
    assert found.number_of_box.tolist() == [0, 1, 0]


def test_sizes_of_enlarged_images() -> None:
    found = measure(RECORDS, classes=3)
    scales = found.images_hw.min(axis=1) / 20
    assert found.boxes_at(scales).tolist() == [[8, 18], [8, 18], [16, 4]]
    assert found.across_at(scales) == pytest.approx([12, 12, 8])


def test_no_image() -> None:
    found = measure([], classes=1)
    assert found.images_hw.shape == found.boxes_wh.shape == (0, 2)
    assert found.class_counts.tolist() == [0]
