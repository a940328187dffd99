"""Counts on real sets, where ../shared (or TRANSFER_SHARED) has them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.base import Reason

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("TRANSFER_SHARED", REPOSITORY.parent / "shared")) / "data"
VIA = "via_region_data.json"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there (set TRANSFER_SHARED)")
@pytest.mark.parametrize(
    "name, annotations, image_root, options, images, instances, classes, mask_format",
    [
        ("via", f"balloon/train/{VIA}", "balloon/train", {"classes": ["b"]}, 61, 255, 1, "polygon"),
        ("via", f"balloon/val/{VIA}", "balloon/val", {"classes": ["b"]}, 13, 50, 1, "polygon"),
        (
            "via",
            f"kudzu/train/{VIA}",
            "kudzu/train",
            {"attribute": "insect"},
            24,
            520,
            1,
            "polygon",
        ),
        ("via", f"kudzu/train/{VIA}", "kudzu/train", {"classes": ["kudzu"]}, 24, 520, 1, "polygon"),
        ("via", f"kudzu/val/{VIA}", "kudzu/val", {"classes": ["kudzu"]}, 16, 349, 1, "polygon"),
        ("coco", "fruits_nuts/trainval.json", "fruits_nuts/images", {}, 18, 165, 3, "polygon"),
        (
            "coco",
            "coco549_480/annotations.json",
            "coco549_480/images",
            {},
            549,
            4710,
            80,
            "polygon",
        ),
        ("coco", "coco96_480/annotations.json", "coco96_480/images", {}, 96, 667, 80, "polygon"),
        ("png_masks", "dsb2018/val", "dsb2018/val", {}, 40, 2185, 1, "bitmask"),
        pytest.param(
            *("png_masks", "dsb2018/train", "dsb2018/train", {}, 120, 5214, 1, "bitmask"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_counts(
    name: str,
    annotations: str,
    image_root: str,
    options: Any,
    images: int,
    instances: int,
    classes: int,
    mask_format: str,
    check_counts: Any,
) -> None:
    dataset = FORMATS[name](DATA / annotations, DATA / image_root, **options)
    check_counts(dataset)
    assert (dataset.report.images_kept, dataset.report.instances_kept) == (images, instances)
    assert not dataset.report.left_out and not dataset.report.images_left_out
    assert (len(dataset.classes), dataset.mask_format) == (classes, mask_format)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there (set TRANSFER_SHARED)")
def test_coco_boxes_and_areas_are_the_file_s_own() -> None:
    path = DATA / "coco96_480/annotations.json"
    records = json.loads(path.read_text())["annotations"]
    stated: dict[int, list[Any]] = {}
    for record in records:
        stated.setdefault(record["image_id"], []).append(record)
    dataset = FORMATS["coco"](path, DATA / "coco96_480/images")
    assert dataset.report.repaired[Reason.AREA_MISMATCH] == 3  # slivers, whose pixels were counted
    for image in dataset.dicts:
        pairs = zip(image["annotations"], stated.get(image["image_id"], []), strict=True)
        for annotation, record in pairs:
            if len(annotation["segmentation"]) < len(record["segmentation"]):
                continue  # a part without area was dropped, and the box with it
            x, y, w, h = record["bbox"]
            assert annotation["bbox"] == pytest.approx([x, y, x + w, y + h], abs=1.0)
            assert annotation.get("area", record["area"]) == record["area"]
