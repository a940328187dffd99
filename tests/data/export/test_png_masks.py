from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.formats import LoadedDataset, load_png_masks

from .conftest import HEIGHT, WIDTH, Images, MakeDataset, pixels, square

CAT, OVERLAPPING = ("cat", pixels((2, 2, 9, 9)), 0), ("cat", pixels((5, 5, 12, 12)), 0)
DOG = ("dog", pixels((30, 2, 33, 5)), 0)


def values(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_one_class_is_a_folder_per_sample(tmp_path: Path, make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"a.png": [CAT, OVERLAPPING], "b.c.png": [CAT]})
    notes = EXPORTERS["png_masks"](dataset, tmp_path / "out")
    assert notes == []
    samples = tmp_path / "out" / "samples"
    files = sorted(str(p.relative_to(samples)) for p in samples.rglob("*.png"))
    assert files == [
        "a/images/a.png",
        "a/masks/1.png",
        "a/masks/2.png",
        "b.c/images/b.c.png",
        "b.c/masks/1.png",
    ]
    mask = values(samples / "a" / "masks" / "2.png")
    assert mask.sum() == 49 * 255 and (mask[5:12, 5:12] == 255).all()


def test_images_without_objects_need_the_indexed_layout(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    touching = ("cat", pixels((9, 2, 12, 9)), 0)
    EXPORTERS["png_masks"](make_dataset({"a.png": [CAT, touching], "b.png": []}), tmp_path / "out")
    mask = values(tmp_path / "out" / "masks" / "a.png")
    assert np.unique(mask).tolist() == [0, 1, 2] and (mask == 2).sum() == 21
    assert not values(tmp_path / "out" / "masks" / "b.png").any()


def test_overlaps_beside_images_without_objects(tmp_path: Path, make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"a.png": [CAT, OVERLAPPING], "b.png": []})
    notes = EXPORTERS["png_masks"](dataset, tmp_path / "out")
    assert notes == [
        "1 image without objects got an empty mask, since the layout cannot do without: the loader "
        "counts it as an instance left out.",
    ]
    loaded = load_png_masks(tmp_path / "out" / "samples", tmp_path / "out" / "samples")
    assert [len(record["annotations"]) for record in loaded.dicts] == [2, 0]


def test_several_classes_are_values(tmp_path: Path, make_dataset: MakeDataset) -> None:
    EXPORTERS["png_masks"](make_dataset({"a.png": [DOG, CAT]}), tmp_path / "out")
    mask = values(tmp_path / "out" / "masks" / "a.png")
    assert ((mask == 1).sum(), (mask == 2).sum()) == (49, 9)


def test_more_instances_than_a_byte_has_values(
    tmp_path: Path, make_dataset: MakeDataset, read_back: Callable[[Path], LoadedDataset]
) -> None:
    cells = [(x, y) for x in range(0, WIDTH, 2) for y in range(0, HEIGHT, 4)]
    many = [("cat", pixels((x, y, x + 1, y + 1)), 0) for x, y in cells]
    EXPORTERS["png_masks"](make_dataset({"a.png": many, "b.png": []}), tmp_path / "out")
    assert len(read_back(tmp_path / "out").dicts[0]["annotations"]) == len(cells) == 300


@pytest.mark.parametrize("others", [[], [("cat", [square(20, 20, 5)], 0)]])
def test_what_covers_no_pixel_becomes_one(
    others: list[tuple[str, list[list[float]], int]],
    tmp_path: Path,
    make_dataset: MakeDataset,
    read_back: Callable[[Path], LoadedDataset],
) -> None:
    images: Images = {"a.png": [("cat", [square(10.6, 30.6, 0.3)], 0), *others]}
    notes = EXPORTERS["png_masks"](make_dataset(images), tmp_path / "out")
    assert notes == ["1 instance that covered no pixel's centre became one pixel."]
    (record,) = read_back(tmp_path / "out").dicts
    assert record["annotations"][0]["bbox"] == [10, 30, 11, 31]
    assert len(record["annotations"]) == 1 + len(others)
