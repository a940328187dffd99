"""The generated datasets: reproducible, whole, and what their annotations say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.data import shapes
from transfer_maskrcnn.data.shapes import ShapesSplit, draw_image, prepare_shapes

TINY = (ShapesSplit("train", ("star", "ring"), 3, 1), ShapesSplit("val", ("star", "ring"), 2, 2))


@pytest.fixture(autouse=True)
def tiny_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SPLITS", TINY)


def test_a_seed_gives_the_same_picture_and_another_another() -> None:
    (first, _), (again, _), (other, _) = (
        draw_image(("star",), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", sorted(shapes.SHAPES))
def test_every_shape_has_a_mask_of_its_own(name: str) -> None:
    mask = shapes._shape_mask(name, np.random.default_rng(0), 128)
    assert 200 < mask.sum() < 128 * 128 / 4
    others = (shapes._shape_mask(n, np.random.default_rng(0), 128) for n in shapes.SHAPES)
    assert sum(np.array_equal(mask, other) for other in others) == 1


def test_masks_of_one_picture_do_not_overlap() -> None:
    for seed in range(20):
        _, instances = draw_image(("star", "ring"), np.random.default_rng(seed))
        assert sum(mask.astype(int) for _, mask in instances).max() <= 1


def test_annotations_match_their_masks(tmp_path: Path) -> None:
    folder = prepare_shapes(tmp_path, ("train", "val"))
    content = json.loads((folder / "train" / "annotations.json").read_text())
    assert len(list((folder / "train" / "images").iterdir())) == len(content["images"]) == 3
    for annotation in content["annotations"]:
        mask = mask_util.decode(annotation["segmentation"])
        ys, xs = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert annotation["area"] == mask.sum() >= shapes.SMALLEST_VISIBLE_AREA


def test_only_what_is_asked_for_and_missing_is_made(tmp_path: Path) -> None:
    folder = prepare_shapes(tmp_path, ("train",))
    assert [p.name for p in folder.iterdir()] == ["train"]
    before = (folder / "train" / "annotations.json").stat().st_mtime_ns
    prepare_shapes(tmp_path, ("train", "val"))
    assert sorted(p.name for p in folder.iterdir()) == ["train", "val"]
    assert (folder / "train" / "annotations.json").stat().st_mtime_ns == before


def test_a_kill_in_the_middle_leaves_no_half_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: str, pixels: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes.cv2, "imwrite", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_shapes(tmp_path, ("train",))
    assert list((tmp_path / "shapes").iterdir()) == []
