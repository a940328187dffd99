"""Which mask belongs to which image: each image has a mask of its own size, in its own column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.formats import LoadedDataset, load_png_masks
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.errors import DatasetError

NAMED = {Reason.MASK_NAMED: 2}


@pytest.fixture
def load(tmp_path: Path, make_image: Callable[..., Path], check_counts: Any) -> Any:
    """load(["images/a.jpg", ...], ["masks/a.png", ...], annotations="masks", ...): mask k covers 3
    pixels, k from the left."""

    def load(
        images: Sequence[str], masks: Sequence[str], annotations: str, **options: Any
    ) -> LoadedDataset:
        for name in images:
            make_image(name)
        for k, name in enumerate(masks):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = np.zeros((20, 30), np.uint16 if "Ids" in name else np.uint8)
            mask[:3, k] = 26_001 if "Ids" in name else 1
            Image.fromarray(mask).save(path)
        root = options.pop("image_root", None)
        folder = None if root is None else tmp_path / root
        dataset = load_png_masks(tmp_path / annotations, folder, **options)
        check_counts(dataset)
        return dataset

    return load


def pairs(dataset: LoadedDataset, root: Path) -> dict[str, list[int]]:
    """Image -> the numbers of its masks."""
    return {
        Path(d["file_name"]).relative_to(root).as_posix(): [
            int(annotation["bbox"][0]) for annotation in d["annotations"]
        ]
        for d in dataset.dicts
    }


# images, masks, annotations, image_root -> numbers of masks by image, in order
LAYOUTS: dict[str, tuple[list[str], list[str], str, str | None, list[list[int]]]] = {
    # a folder with both, by their usual names
    "one folder": (["d/images/a.jpg"], ["d/masks/a.png"], "d", None, [[0]]),
    "its name for both": (["d/images/a.jpg"], ["d/masks/a.png"], "d", "d", [[0]]),
    "masks only": (["d/images/a.jpg"], ["d/masks/a.png"], "d/masks", None, [[0]]),
    "root above": (["d/images/a.jpg"], ["d/masks/a.png"], "d/masks", "d", [[0]]),
    "VOC": (["d/JPEGImages/a.jpg"], ["d/SegmentationObject/a.png"], "d", None, [[0]]),
    "PennFudan": (
        ["d/PNGImages/FudanPed00001.png", "d/PNGImages/FudanPed00011.png"],
        ["d/PedMasks/FudanPed00001_mask.png", "d/PedMasks/FudanPed00011_mask.png"],
        *("d", None, [[0], [1]]),
    ),
    # sub-folders
    "nested": (["i/a/x.jpg", "i/b/x.jpg"], ["m/b/x.png", "m/a/x.png"], "m", "i", [[1], [0]]),
    "nested images": (["i/a/x.jpg", "i/b/y.jpg"], ["m/x.png", "m/y.png"], "m", "i", [[0], [1]]),
    "nested masks": (["i/x.jpg", "i/y.jpg"], ["m/1/x.png", "m/2/y.png"], "m", "i", [[0], [1]]),
    # a part that is the same for all
    "suffix": (["i/im1.jpg", "i/im10.jpg"], ["m/im10_m.png", "m/im1_m.png"], "m", "i", [[1], [0]]),
    "prefix": (["i/1.jpg", "i/11.jpg"], ["m/mask_1.png", "m/mask_11.png"], "m", "i", [[0], [1]]),
    "both": (
        ["i/1_sat.jpg", "i/2_sat.jpg"],
        ["m/1_mask.png", "m/2_mask.png"],
        "m",
        "i",
        [[0], [1]],
    ),
    "img and mask": (
        ["i/img_1.jpg", "i/img_2.jpg"],
        ["m/mask_1.png", "m/mask_2.png"],
        "m",
        "i",
        [[0], [1]],
    ),
    "file name": (["i/a.jpg", "i/b.jpg"], ["m/a.jpg.png", "m/b.jpg.png"], "m", "i", [[0], [1]]),
    "Cityscapes": (
        ["leftImg8bit/bonn/bonn_0_leftImg8bit.png", "leftImg8bit/ulm/ulm_0_leftImg8bit.png"],
        ["gtFine/ulm/ulm_0_gtFine_instanceIds.png", "gtFine/bonn/bonn_0_gtFine_instanceIds.png"],
        *("gtFine", "leftImg8bit", [[1], [0]]),
    ),
    # beside the images
    "beside": (["d/a.jpg", "d/b.jpg"], ["d/a_mask.png", "d/b_mask.png"], "d", "d", [[0], [1]]),
    "all PNG": (["d/a.png", "d/a_b.png"], ["d/a_m.png", "d/a_b_m.png"], "d", None, [[0], [1]]),
    "same name": (["d/a.tif", "d/b.tif"], ["d/a.png", "d/b.png"], "d", "d", [[0], [1]]),
    # several files an image: one instance each
    "numbers": (
        ["d/X.jpg", "d/Y.jpg"],
        ["d/X_object_3.png", "d/X_object_12.png", "d/Y_object_0.png"],
        *("d", "d", [[0, 1], [2]]),
    ),
    "bare numbers": (
        ["i/X.jpg", "i/Y.jpg"],
        ["m/X_0.png", "m/X_1.png", "m/Y_0.png"],
        "m",
        "i",
        [[0, 1], [2]],
    ),
    "a folder an image": (
        ["i/X.jpg", "i/Y.jpg"],
        ["m/X/q.png", "m/X/r.png", "m/Y/s.png"],
        "m",
        "i",
        [[0, 1], [2]],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(load: Any, tmp_path: Path, layout: str) -> None:
    images, masks, annotations, image_root, expected = LAYOUTS[layout]
    dataset = load(images, masks, annotations, image_root=image_root)
    assert pairs(dataset, tmp_path) == dict(zip(images, expected, strict=True))
    report = dataset.report
    named = {name for p in masks for name in (Path(p).stem, Path(p).parent.name)}
    differs = {Path(p).stem for p in images}.isdisjoint(named)
    assert report.repaired == ({Reason.MASK_NAMED: len(images)} if differs else {})
    assert not report.needs_a_look and not report.doubted


@pytest.mark.parametrize(
    "images, masks, lost, unmasked",
    [
        # a number is a part of the name: im1 has no mask, and im10_mask no image
        (["i/im1.jpg", "i/im2.jpg"], ["m/im10_mask.png", "m/im2_mask.png"], 1, 1),
        (["i/img_1.jpg", "i/img_11.jpg"], ["m/mask_1.png", "m/mask_111.png"], 1, 1),
        # so is a word
        (["i/cat.jpg", "i/dog.jpg"], ["m/category.png", "m/dog.png"], 1, 1),
        # and a folder: the same name, of another camera
        (["i/cam0/im0.jpg", "i/cam1/im1.jpg"], ["m/cam1/im0.png", "m/cam1/im1.png"], 1, 1),
        # two images of one name, flat masks: whose is it?
        (["i/a/x.jpg", "i/b/x.jpg", "i/b/y.jpg"], ["m/x.png", "m/y.png"], 1, 2),
        # two images of one name in one folder: the first has it
        (["i/x.jpg", "i/x.png"], ["m/x.png"], 0, 1),
    ],
)
def test_no_mask_of_another_image(
    load: Any, images: list[str], masks: list[str], lost: int, unmasked: int
) -> None:
    report = load(images, masks, "m", image_root="i").report
    assert report.images_left_out[Reason.IMAGE_MISSING] == lost
    assert report.images_left_out[Reason.IMAGE_WITHOUT_MASK_FILE] == unmasked
    assert report.images_kept == 1


KINDS = ["m/a_labelIds.png", "m/a_instanceIds.png", "m/b_labelIds.png", "m/b_instanceIds.png"]


def test_several_kinds_of_masks(load: Any, tmp_path: Path) -> None:
    images = ["i/a.jpg", "i/b.jpg"]
    with pytest.raises(DatasetError, match=r"_cells, \*_parts\. State .*mask_suffix: _cells"):
        load(
            images,
            [f"n/{k}_{kind}.png" for k in "ab" for kind in ("cells", "parts")],
            "n",
            image_root="i",
        )
    dataset = load(images, KINDS, "m", image_root="i")
    assert pairs(dataset, tmp_path) == {"i/a.jpg": [1], "i/b.jpg": [3]}
    assert dataset.report.doubted == {Reason.MASK_NOT_READ: 2}
    for suffix in ("_instanceIds", "_instanceIds.png", "_inst*"):
        dataset = load(images, KINDS, "m", image_root="i", mask_suffix=suffix)
        assert pairs(dataset, tmp_path) == {"i/a.jpg": [1], "i/b.jpg": [3]}
        assert dataset.report.repaired == NAMED
    several = load(images, KINDS, "m", image_root="i", mask_suffix="_*Ids")
    assert pairs(several, tmp_path) == {"i/a.jpg": [1, 0], "i/b.jpg": [3, 2]}


def test_masks_that_are_not_read(load: Any) -> None:
    masks = ["m/a.png", "m/b.png", "m/a_shown.png", "m/b_shown.png"]
    dataset = load(["i/a.jpg", "i/b.jpg"], masks, "m", image_root="i")
    assert dataset.report.doubted == {Reason.MASK_NOT_READ: 2}
    assert dataset.report.instances_kept == 2


def test_names_without_anything_in_common(load: Any) -> None:
    with pytest.raises(DatasetError, match=r"without a mask file .*named as q\.png"):
        load(["i/a.jpg", "i/b.jpg"], ["m/q.png", "m/r.png"], "m", image_root="i")


def test_masks_of_another_kind_of_file(load: Any, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.npy").touch()
    with pytest.raises(DatasetError, match=r"1 of \.npy\. Masks .* saved as PNG"):
        load(["i/a.jpg"], [], "m", image_root="i")
