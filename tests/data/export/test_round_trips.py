"""Whatever is written in one format, read, and written in another, is still the same dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.data.formats import LoadedDataset
from transfer_maskrcnn.data.registry import register_catalog
from transfer_maskrcnn.errors import DatasetError

from .conftest import MASKS, POLYGONS, Images, MakeDataset, pixels, square, with_two_classes

ReadBack = Callable[[Path], LoadedDataset]
# One region of its own for each instance, as a PNG of class numbers needs it.
APART: Images = {
    "1.png": [("cat", [square(2, 2, 8)], 0), ("dog", [square(10, 2, 8)], 0)],
    "2.png": [("dog", [square(2, 2, 3)], 0), ("dog", [square(20, 20, 8)], 0)],
    "none.png": [],
}
OF_ONE_CLASS = ["coco", "yolo", "labelme", "labelme_masks", "png_masks"]
OF_SEVERAL = ["coco", "yolo", "labelme", "labelme_masks"]
CASES = [
    *(("masks", MASKS, a, b) for a in OF_ONE_CLASS for b in OF_ONE_CLASS),
    *(("polygons", POLYGONS, a, b) for a in OF_ONE_CLASS for b in OF_ONE_CLASS),
    *(("apart", APART, a, b) for a in OF_ONE_CLASS for b in OF_ONE_CLASS),
    *(("classes", with_two_classes(MASKS), a, b) for a in OF_SEVERAL for b in OF_SEVERAL),
    *(("classes", with_two_classes(POLYGONS), a, b) for a in OF_SEVERAL for b in OF_SEVERAL),
]


def by_content(dataset: LoadedDataset) -> dict[str, dict[str, Any]]:
    """The records by the digest of their image: names may change, bytes may not."""
    records = {
        hashlib.sha256(Path(record["file_name"]).read_bytes()).hexdigest(): record
        for record in dataset.dicts
    }
    assert len(records) == len(dataset.dicts)
    return records


def lowest_iou(before: LoadedDataset, after: LoadedDataset) -> float:
    """Of the worst instance; every one must have exactly one partner, of its own class."""
    assert before.classes == after.classes
    old, new = by_content(before), by_content(after)
    assert old.keys() == new.keys()
    lowest = 1.0
    for key, record in old.items():
        size = record["height"], record["width"]
        assert (new[key]["height"], new[key]["width"]) == size
        sides = [record["annotations"], new[key]["annotations"]]
        if not any(a["iscrowd"] for a in sides[1]):  # most formats hold none
            sides[0] = [a for a in sides[0] if not a["iscrowd"]]
        assert len(sides[0]) == len(sides[1])
        if not sides[0]:
            continue
        masks = [[as_rle(a["segmentation"], *size) for a in side] for side in sides]
        overlap = mask_util.iou(*masks, [0] * len(masks[1]))
        partners = overlap.argmax(axis=1)
        assert sorted(partners.tolist()) == list(range(len(sides[1])))
        for annotation, partner in zip(sides[0], partners, strict=True):
            assert annotation["category_id"] == sides[1][partner]["category_id"]
        lowest = min(lowest, float(np.min(overlap.max(axis=1))))
    return lowest


def crowds(dataset: LoadedDataset) -> int:
    return sum(a["iscrowd"] for record in dataset.dicts for a in record["annotations"])


@pytest.mark.parametrize(
    ("images", "first", "second"),
    [case[1:] for case in CASES],
    ids=["-".join((case[0], *case[2:])) for case in CASES],
)
def test_there_and_back(
    images: Images,
    first: str,
    second: str,
    tmp_path: Path,
    make_dataset: MakeDataset,
    read_back: ReadBack,
) -> None:
    original = make_dataset(images)
    once = EXPORTERS[first](original, tmp_path / "once")
    between = read_back(tmp_path / "once")
    twice = EXPORTERS[second](between, tmp_path / "twice")
    final = read_back(tmp_path / "twice")
    count = total = sum(map(len, images.values()))
    for copy, format in ((between, first), (final, second)):
        count -= crowds(original) if format != "coco" and count == total else 0
        assert (len(copy.dicts), sum(copy.instances)) == (len(images), count)
    lowest = 0.98 if {"yolo", "labelme"}.intersection((first, second)) else 1.0
    assert lowest_iou(original, between) >= lowest
    assert lowest_iou(original, final) >= lowest
    keeps_crowds = first == second == "coco"
    assert crowds(final) == (crowds(original) if keeps_crowds else 0)
    lost = [note for note in once + twice if "crowd" in note]
    assert bool(lost) == (crowds(original) > 0 and not keeps_crowds)


@pytest.mark.parametrize("format", OF_ONE_CLASS)
def test_its_catalog_registers(format: str, tmp_path: Path, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(APART)
    out = tmp_path / f"exported as {format}"
    EXPORTERS[format](dataset, out)
    (name,) = register_catalog(out / "catalog.yaml")
    assert name == f"exported as {format}_{format}"
    assert len(DatasetCatalog.get(name)) == 3
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "images",
    [
        # instances of one class that touch would become one
        {"a.png": [("cat", pixels((0, 0, 5, 5)), 0), ("cat", pixels((5, 0, 9, 5)), 0)]},
        # so would those that meet at a corner
        {"a.png": [("cat", pixels((0, 0, 5, 5)), 0), ("cat", pixels((5, 5, 9, 9)), 0)]},
        # one of two parts would become two, and one that touches makes up for the number
        {"a.png": [("cat", pixels((0, 0, 5, 5), (8, 0, 9, 5)), 0)]},
        # a pixel has one class
        {"a.png": [("cat", pixels((0, 0, 5, 5)), 0), ("dog", pixels((4, 0, 9, 5)), 0)]},
    ],
)
def test_png_masks_say_what_does_not_fit(
    images: Images, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset({**images, "b.png": [("dog", pixels((20, 20, 25, 25)), 0)]})
    with pytest.raises(DatasetError, match=r"a\.png has instances that overlap.* as coco"):
        EXPORTERS["png_masks"](dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
