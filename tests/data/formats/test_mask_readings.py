"""What the values of PNG masks mean: instances or classes, void, noise."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.formats import LoadedDataset, load_png_masks
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.masks import rle_to_mask
from transfer_maskrcnn.errors import DatasetError

HEIGHT, WIDTH = 60, 80
Mask = Any  # an array, an image, or a file's bytes


@pytest.fixture
def load(
    tmp_path: Path, make_image: Callable[..., Path], write_mask: Any, check_counts: Any
) -> Any:
    def load(masks: Sequence[Mask], name: str = "i{}.png", **options: Any) -> LoadedDataset:
        (tmp_path / "masks").mkdir()
        for k, mask in enumerate(masks):
            make_image(f"images/i{k}.jpg", HEIGHT, WIDTH)
            path = tmp_path / "masks" / name.format(k)
            write_mask(path, mask)
        dataset = load_png_masks(tmp_path / "masks", tmp_path / "images", **options)
        check_counts(dataset)
        return dataset

    return load


def blocks(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    """A mask of blocks of 10 x 12 pixels, 4 in a row, which do not touch; 0 leaves one out."""
    mask = np.zeros((HEIGHT, WIDTH), dtype)
    for k, value in enumerate(values):
        y, x = 4 + k // 4 * 20, 4 + k % 4 * 19
        mask[y : y + 10, x : x + 12] = value
    return mask


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask, "P")
    image.putpalette([k % 256 for k in range(768)])
    return image


def jpeg(mask: np.ndarray, quality: int = 75) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return file.getvalue()


def smooth(mask: np.ndarray) -> np.ndarray:
    half = cv2.resize(mask, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(half, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


WITH_SPECK = blocks(1)
WITH_SPECK[50, 70] = 1
PICTURE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize(
    "masks, options, instances, doubted",
    [
        # one value in all masks, several pieces: it says what is object, not which
        ([blocks(255, 255, 255)] * 4, {}, 4, {Reason.SEMANTIC_MASK: 4}),
        ([blocks(1, 1)] * 2 + [blocks(1)] * 2, {}, 4, {Reason.SEMANTIC_MASK: 2}),
        ([Image.fromarray(blocks(1, 1) > 0)] * 2, {}, 2, {Reason.SEMANTIC_MASK: 2}),
        # another in each: a class number
        ([blocks(2, 2), blocks(3, 3)], {}, 2, {Reason.SEMANTIC_MASK: 2}),
        # classes among others: most do not count from 1, and many are in pieces
        ([blocks(2, 5, 2), blocks(1, 5, 5), blocks(5)], {}, 5, {Reason.SEMANTIC_MASK: 2}),
        # the other reading: each piece is an instance, and a single value needs no number
        ([blocks(255, 255, 255)] * 4, {"pixel_values": "class"}, 12, {}),
        ([palette(blocks(255, 255))] * 2, {"pixel_values": "class"}, 4, {}),
        # who says that these are instances is believed
        ([blocks(255, 255)] * 2, {"pixel_values": "instance"}, 2, {}),
        # objects of one piece, or, rarely, of several: no doubt
        ([blocks(1)] * 4, {}, 4, {}),
        ([blocks(1)] * 10 + [blocks(1, 1)], {}, 11, {}),
        ([blocks(1, 2, 3, 3), blocks(1, 2), blocks(1)], {}, 6, {}),
        # unless these lie far apart
        ([blocks(1, 2, 3, 0, 0, 0, 0, 1), blocks(1, 2)], {}, 5, {Reason.SCATTERED: 1}),
        # specks of a class are instances, too
        ([WITH_SPECK], {"pixel_values": "class"}, 2, {Reason.FRAGMENT: 1}),
    ],
)
def test_instances_or_classes(
    load: Any, masks: list[Mask], options: Any, instances: int, doubted: Any
) -> None:
    report = load(masks, **options).report
    assert report.instances_kept == instances
    assert report.doubted == doubted
    assert report.needs_a_look == bool(doubted)


BORDERED = blocks(1, 2)
BORDERED[3, 3:17] = BORDERED[3:15, 3] = 255
COLOURS = np.zeros((256, 3), np.uint8)
COLOURS[[1, 2, 255]] = (128, 0, 0), (0, 128, 0), (224, 224, 192)


@pytest.mark.parametrize(
    "masks, instances, void",
    [
        ([blocks(1, 2, 255)], 2, 1),  # grey: void beside low numbers, in any mask of the set
        ([blocks(1, 2), blocks(255)], 2, 1),
        ([palette(blocks(1, 2, 255))], 2, 1),
        ([Image.fromarray(COLOURS[blocks(1, 2, 255)])], 2, 1),
        ([palette(BORDERED)], 2, 0),  # Pascal VOC's border around objects is nobody's loss
        ([Image.fromarray(COLOURS[BORDERED])], 2, 0),
        ([blocks(85, 170, 255)], 3, 0),  # spread, so that an eye tells them apart
        ([blocks(255), blocks(0)], 1, 0),  # the only value
        ([blocks(255, 300, dtype=np.uint16)], 2, 0),
    ],
)
def test_void(load: Any, masks: list[Mask], instances: int, void: int) -> None:
    report = load(masks).report
    assert report.instances_kept == instances
    assert report.left_out == ({Reason.VOID: void} if void else {})


@pytest.mark.parametrize(
    "masks",
    [
        [np.where(blocks(1, 1) > 0, 0, 255).astype(np.uint8)] * 2,  # inverted
        [np.where(blocks(1, k) > 0, blocks(1, k) - 1, 255).astype(np.uint8) for k in (2, 3)],
        [palette(np.where(blocks(1, 2) > 0, blocks(1, 2) - 1, 255).astype(np.uint8))] * 2,
    ],
)
def test_background_that_is_not_0(load: Any, masks: list[Mask], tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"255 covers the border of every image.* is 0 the object"
    ):
        load(masks)
    read = load_png_masks(tmp_path / "masks", tmp_path / "images", pixel_values="instance")
    assert read.report.instances_kept > 0


def test_objects_with_classes_beside_them(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """Pascal VOC: an object in two pieces, one that touches another of its class, and void."""
    objects, classes = blocks(1, 2, 1, 3), blocks(15, 9, 15, 15)
    objects[14:24, 4:16], classes[14:24, 4:16] = 4, 15
    classes[4, 4:16] = 255
    make_image("voc/JPEGImages/a.jpg", HEIGHT, WIDTH)
    for name, values in (("Object", objects), ("Class", classes)):
        (tmp_path / f"voc/Segmentation{name}").mkdir()
        palette(values).save(tmp_path / f"voc/Segmentation{name}/a.png")
    names = [f"c{k}" for k in range(1, 21)]
    (record,) = load_png_masks(tmp_path / "voc", classes=names, pixel_values="class").dicts
    assert [a["category_id"] for a in record["annotations"]] == [14, 8, 14, 14]


def test_void_among_classes(load: Any) -> None:
    dataset = load([blocks(1, 2, 255)], classes=["a", "b"], pixel_values="class")
    assert [a["category_id"] for a in dataset.dicts[0]["annotations"]] == [0, 1]
    assert dataset.report.left_out == {Reason.VOID: 1}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [
        smooth,
        lambda m: cv2.GaussianBlur(m, (5, 5), 1),
        *(lambda m, q=q: jpeg(m, q) for q in (50, 75, 95)),
        lambda m: jpeg(np.stack([m] * 3, axis=2)),
    ],
    ids=["resized", "blurred", "JPEG 50", "JPEG 75", "JPEG 95", "JPEG in colour"],
)
def test_two_values_with_soft_edges(load: Any, spoil: Any, several: bool) -> None:
    clean = blocks(255, 0, 255)
    masks = [spoil(clean), spoil(clean)]
    dataset = load(masks, "i0_{}.png" if several else "i{}.png")
    assert dataset.report.repaired[Reason.MASK_CUT] == 2
    assert dataset.report.needs_a_look
    for annotation in dataset.dicts[0]["annotations"]:
        found = rle_to_mask(annotation["segmentation"])
        assert (found & (clean > 0)).sum() >= 0.9 * (found | (clean > 0)).sum()


@pytest.mark.parametrize(
    "mask, reason",
    [
        (smooth(blocks(40, 90, 150, 200)), Reason.MASK_SEAMS),
        (jpeg(blocks(85, 170, 255, 85)), Reason.MASK_SEAMS),
        (PICTURE[..., 0], Reason.MASK_IS_PICTURE),
        (jpeg(PICTURE), Reason.MASK_IS_PICTURE),
    ],
    ids=["resized", "JPEG", "grey picture", "picture"],
)
def test_masks_that_are_none(load: Any, mask: Mask, reason: Reason) -> None:
    report = load([mask, blocks(1, 2)]).report
    assert report.images_left_out == {reason: 1}
    assert report.instances_kept == 2


def test_images_for_masks(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    for k in range(3):
        make_image(f"images/{k}.jpg", HEIGHT, WIDTH)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(blocks(1)).save(tmp_path / "masks" / f"{k}.png")
    with pytest.raises(DatasetError, match="3 whose mask file is a picture"):
        load_png_masks(tmp_path / "images", tmp_path / "masks")


def test_thin_and_tiny_objects_are_no_noise(load: Any) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(10):
        mask[6 * k, 5:60] = 100 + 2 * k
        mask[6 * k, 70 + k % 5] = 101 + 2 * k
    assert load([mask, blocks(1)]).report.instances_kept == 21


def test_transparency_is_background(load: Any) -> None:
    mask = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    mask[..., 3] = blocks(255)
    (annotation,) = load([mask]).dicts[0]["annotations"]
    assert (rle_to_mask(annotation["segmentation"]) == (blocks(255) > 0)).all()


def test_what_has_no_number_in_instance_ids(load: Any) -> None:
    report = load([blocks(7, 24, 24_000, 26_001, dtype=np.uint16)], "i{}_instanceIds.png").report
    assert report.left_out == {Reason.STUFF: 2}
    assert report.instances_kept == 2


def test_files_of_one_instance_each(load: Any) -> None:
    masks = [blocks(255), blocks(0, 255), blocks(0, 0, 7, 255), b"nothing", blocks()]
    report = load(masks, "i0_{}.png", mask_suffix="_*").report
    assert report.instances_kept == 3
    assert report.left_out == {Reason.BAD_MASK: 1, Reason.ZERO_AREA: 1}
    assert report.places[Reason.BAD_MASK][0].where == "i0_3.png"
