from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.formats import LoadedDataset, load_png_masks
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.masks import rle_to_mask
from transfer_maskrcnn.errors import DatasetError

LABELS = np.zeros((20, 30), dtype=np.uint8)
LABELS[2:6, 2:9] = 1
LABELS[10:14, 3:8] = 2
LABELS[10:14, 15:20] = 2
COLOURS = np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]], dtype=np.uint8)[LABELS]


def palette_image(values: np.ndarray) -> Image.Image:
    """Indices whose colours have nothing to do with them."""
    image = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    image.putpalette([(255 - 7 * k) % 256 for k in range(768)])
    return image


def one_bit(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values != 0)


@pytest.fixture
def load(
    tmp_path: Path, make_image: Callable[..., Path], write_mask: Any, check_counts: Any
) -> Any:
    def load(mask: Any, **options: Any) -> LoadedDataset:
        """images/a.jpg and its mask masks/a.png: an image, an array or a file's bytes."""
        make_image("images/a.jpg")
        path = tmp_path / "masks/a.png"
        path.parent.mkdir(exist_ok=True)
        write_mask(path, mask)
        dataset = load_png_masks(tmp_path / "masks", tmp_path / "images", **options)
        check_counts(dataset)
        return dataset

    return load


def decoded(dataset: LoadedDataset, record: int = 0) -> list[np.ndarray]:
    return [rle_to_mask(a["segmentation"]) for a in dataset.dicts[record]["annotations"]]


@pytest.mark.parametrize(
    "mask, values",
    [
        (LABELS, [1, 2]),
        (palette_image(LABELS), [1, 2]),
        (LABELS.astype(np.uint16) * 300, [300, 600]),
    ],
    ids=["grey", "palette", "16 bits"],
)
def test_instance_numbers(load: Any, mask: Any, values: list[int], tmp_path: Path) -> None:
    dataset = load(mask)
    assert dataset.classes == ("object",)
    assert dataset.mask_format == "bitmask"
    assert dataset.dicts[0]["file_name"] == str(tmp_path / "images/a.jpg")
    first, second = decoded(dataset)
    assert (first == (LABELS == 1)).all() and (second == (LABELS == 2)).all()
    assert dataset.dicts[0]["annotations"][0]["bbox"] == [2, 2, 9, 6]


@pytest.mark.parametrize(
    "mask, instances",
    [
        (np.where(LABELS == 1, 255, LABELS), 1),  # grey: void beside a low number
        (np.where(LABELS == 1, 255, LABELS * 60), 2),  # but not beside a high one: 120
        (np.where(LABELS == 1, 255, LABELS).astype(np.uint16) * 9, 2),  # nor where it is 9 x 255
        (palette_image(np.where(LABELS == 1, 255, LABELS)), 1),  # palette: Pascal VOC's void
        (one_bit(LABELS), 1),
        ((LABELS > 0).astype(np.uint8) * 255, 1),  # 255 alone is the object
        (palette_image((LABELS > 0).astype(np.uint8) * 255), 1),
        (np.stack([LABELS] * 3, axis=2), 2),  # grey, saved as colours
        (COLOURS, 2),
        (np.zeros_like(LABELS), 0),  # background
    ],
    ids=[
        *("grey 255", "grey 255 and 120", "16 bits", "palette 255", "one bit", "grey 255 alone"),
        *("palette 255 alone", "grey as colours", "colours", "all zero"),
    ],
)
def test_special_values(load: Any, mask: Any, instances: int) -> None:
    assert len(decoded(load(mask))) == instances


@pytest.mark.parametrize("mask", [LABELS, palette_image(LABELS)], ids=["grey", "palette"])
def test_class_numbers(load: Any, mask: Any) -> None:
    dataset = load(mask, classes=["cat", "dog"], pixel_values="class")
    assert [a["category_id"] for a in dataset.dicts[0]["annotations"]] == [0, 1, 1]
    assert [int(m.sum()) for m in decoded(dataset)] == [28, 20, 20]  # each region an instance


def test_regions_that_touch_at_a_corner_are_one(load: Any) -> None:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[2:4, 2:4] = mask[4:6, 4:6] = 1
    assert len(decoded(load(mask, pixel_values="class"))) == 1


@pytest.mark.parametrize(
    "mask, options, message",
    [
        (LABELS, {"classes": ["a", "b"]}, "one class, or use indexed PNGs .*pixel_values: class"),
        (LABELS, {"pixel_values": "class"}, r"no class: '2' \(40 .*1 to 1 for \['object'\]"),
        (LABELS, {"pixel_values": "color"}, "expected 'instance' or 'class'"),
        (COLOURS, {"pixel_values": "class"}, r"no class: '#ff0000' \(40 pixels\), '#00ff00'"),
        (b"no image", {}, "1 with an unreadable mask file"),
        (LABELS[:, :-1], {}, "1 whose size differs from the annotation .*as 29x20"),
    ],
)
def test_errors(load: Any, mask: Any, options: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(mask, **options)


def test_images_and_masks_that_do_not_pair(
    load: Any, make_image: Callable[..., Path], tmp_path: Path
) -> None:
    make_image("images/b.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "masks/c.png")
    report = load(LABELS).report
    assert report.images_left_out == {Reason.IMAGE_WITHOUT_MASK_FILE: 1, Reason.IMAGE_MISSING: 1}
    assert report.left_out == {Reason.IN_LEFT_OUT_IMAGE: 2}


def test_masks_beside_the_images(make_image: Callable[..., Path], tmp_path: Path) -> None:
    make_image("a.tiff")
    Image.fromarray(LABELS).save(tmp_path / "a.png")
    dataset = load_png_masks(tmp_path, tmp_path)
    assert [d["file_name"] for d in dataset.dicts] == [str(tmp_path / "a.tiff")]


def test_neither_layout(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"neither \*.png masks nor sample folders"):
        load_png_masks(tmp_path, tmp_path)


@pytest.fixture
def samples(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    """Folders s10 and s9, each with an image and two binary masks."""
    for name in ("s10", "s9"):
        make_image(f"samples/{name}/images/{name}.png")
        for value in (1, 2):
            path = tmp_path / f"samples/{name}/masks/m{value}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((value == LABELS).astype(np.uint8) * 255).save(path)
    return tmp_path / "samples"


def test_samples(samples: Path, check_counts: Any) -> None:
    dataset = load_png_masks(samples, samples, classes=["nucleus"])
    check_counts(dataset)
    assert dataset.classes == ("nucleus",)
    assert [Path(d["file_name"]).name for d in dataset.dicts] == ["s9.png", "s10.png"]
    first, second = decoded(dataset)
    assert (first == (LABELS == 1)).all() and (second == (LABELS == 2)).all()


@pytest.mark.parametrize(
    "convert",
    [one_bit, palette_image, lambda v: Image.fromarray(np.stack([v * 100] * 3, axis=2))],
    ids=["one bit", "palette", "colour"],
)
def test_binary_masks_of_any_mode(samples: Path, convert: Any) -> None:
    convert((LABELS == 2).astype(np.uint8)).save(samples / "s9/masks/m2.png")
    assert (decoded(load_png_masks(samples, samples))[1] == (LABELS == 2)).all()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"no image", Reason.BAD_MASK),
        (np.zeros((20, 30), dtype=np.uint8), Reason.ZERO_AREA),
        (np.ones((30, 20), dtype=np.uint8), Reason.MASK_OTHER_SIZE),
    ],
)
def test_bad_mask_of_a_sample(samples: Path, content: Any, reason: str, check_counts: Any) -> None:
    path = samples / "s9/masks/m2.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    dataset = load_png_masks(samples, samples)
    check_counts(dataset)
    assert dataset.report.left_out == {reason: 1}
    place = dataset.report.places[reason][0]
    assert (Path(place.image).name, place.where) == ("s9.png", "m2.png")


def test_incomplete_samples(samples: Path, make_image: Callable[..., Path]) -> None:
    make_image("samples/s11/images/s11.png")
    (samples / "s9/images/s9.png").unlink()
    report = load_png_masks(samples, samples).report
    assert report.images_left_out == {Reason.IMAGE_WITHOUT_MASK_FILE: 1, Reason.IMAGE_MISSING: 1}
    assert report.instances_kept == 2


def test_errors_of_samples(samples: Path, make_image: Callable[..., Path]) -> None:
    with pytest.raises(DatasetError, match="one binary PNG an instance cannot tell one class"):
        load_png_masks(samples, samples, classes=["a", "b"])
    make_image("samples/s9/images/second.png")
    with pytest.raises(DatasetError, match="s9/images has 2 images; expected one"):
        load_png_masks(samples, samples)
