"""Labels merged into classes, in every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from transfer_maskrcnn.data.datasets import DatasetSpec, parse
from transfer_maskrcnn.data.formats.assemble import check_merge
from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.errors import DatasetError

WriteDataset = Callable[[str, Path], dict[str, Any]]


def load(entry: dict[str, Any], folder: Path, merge: Any, classes: Any) -> LoadedDataset:
    entry = {key: value for key, value in entry.items() if key != "classes"}
    format, annotations = entry.pop("format"), str(folder / entry.pop("annotations"))
    root = entry.pop("image_root", None)
    root = root and str(folder / root)
    spec = DatasetSpec("toy", format, annotations, root, classes and tuple(classes))
    return parse(replace(spec, options=entry, merge=check_merge(merge, classes)))


def found(loaded: LoadedDataset) -> list[list[str]]:
    return [[loaded.classes[a["category_id"]] for a in d["annotations"]] for d in loaded.dicts]


# merge, classes as stated, classes as loaded, what blob and bar of the four images become
MERGES = [
    # one class of both labels, in the annotations' order of classes or the user's
    ({"thing": ["blob", "bar"]}, None, ("thing",), {"blob": "thing", "bar": "thing"}),
    ({"thing": ["bar", "blob"]}, ["thing"], ("thing",), {"blob": "thing", "bar": "thing"}),
    # a label that is not mentioned stays
    ({"stick": ["bar"]}, ["stick", "blob"], ("stick", "blob"), {"blob": "blob", "bar": "stick"}),
    # a class may keep the name of one of its labels, and state labels that no file has
    ({"bar": ["bar", "blob", "rod"]}, ["bar"], ("bar",), {"blob": "bar", "bar": "bar"}),
    # or take in others beside its own, unmentioned, label
    ({"bar": ["blob"]}, ["bar"], ("bar",), {"blob": "bar", "bar": "bar"}),
]


@pytest.mark.parametrize("format", ["coco", "via", "labelme", "yolo"])
@pytest.mark.parametrize(("merge", "classes", "loaded_classes", "becomes"), MERGES)
def test_labels_become_classes(
    format: str,
    merge: Any,
    classes: Any,
    loaded_classes: tuple[str, ...],
    becomes: dict[str, str],
    write_dataset: WriteDataset,
    tmp_path: Path,
) -> None:
    entry = write_dataset(format, tmp_path)
    plain = load(entry, tmp_path, None, ["blob", "bar"])
    merged = load(entry, tmp_path, merge, classes)
    assert merged.classes == loaded_classes
    assert found(merged) == [[becomes[name] for name in image] for image in found(plain)]
    assert len(set(merged.category_ids)) == len(merged.classes)
    assert merged.report == plain.report


def test_a_merged_class_has_the_lowest_id_of_its_labels(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    entry = write_dataset("coco", tmp_path)
    assert load(entry, tmp_path, {"thing": ["bar", "blob"]}, ["thing"]).category_ids == (10,)


def test_pixel_values_are_those_of_the_labels_in_order(tmp_path: Path) -> None:
    for name in ("masks", "images"):
        (tmp_path / name).mkdir()
    mask = np.zeros((32, 32), np.uint8)
    for value in (1, 2, 3):
        mask[8 * value : 8 * value + 6, 2:20] = value
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), mask)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((32, 32, 3), 90, np.uint8))
    entry = {"format": "png_masks", "annotations": "masks", "image_root": "images"}
    merge = {"vehicle": ["car", "truck"]}
    loaded = load({**entry, "pixel_values": "class"}, tmp_path, merge, ["vehicle", "person"])
    assert found(loaded) == [["vehicle", "vehicle", "person"]]


def test_a_class_of_which_the_annotations_know_no_label(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    entry = write_dataset("coco", tmp_path)
    with pytest.raises(DatasetError, match=r"'vehicle' has none of its labels \['car'\]"):
        load(entry, tmp_path, {"vehicle": ["car"]}, None)


@pytest.mark.parametrize("format", ["coco", "via", "labelme", "yolo"])
def test_a_pattern_stands_for_labels(
    format: str, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    entry = write_dataset(format, tmp_path)
    plain = load(entry, tmp_path, None, ["blob", "bar"])
    # a label goes before a pattern, whichever is stated first
    merged = load(entry, tmp_path, {"thing": ["b*", "x?"], "stick": ["bar"]}, ["thing", "stick"])
    becomes = {"blob": "thing", "bar": "stick"}
    assert found(merged) == [[becomes[name] for name in image] for image in found(plain)]
    with pytest.raises(DatasetError, match=r"merge: .*'blob' fits 'b\*' and '\*b'"):
        load(entry, tmp_path, {"thing": ["b*"], "other": ["*b"]}, None)
    with pytest.raises(DatasetError, match=r"'thing' has none of its labels \['x\*'\]"):
        load(entry, tmp_path, {"thing": ["x*"]}, None)


# merge, classes, words of the error
WRONG = [
    (["car"], None, "expected a class and its labels"),
    ({"vehicle": "car"}, None, "expected a class and its labels"),
    ({"vehicle": []}, None, "expected a class and its labels"),
    # yaml reads numbers
    ({"vehicle": [1]}, None, "expected a class and its labels"),
    ({"vehicle": ["car"], "toy": ["car"]}, None, "the label 'car' cannot go to 'toy' and also"),
    # no chains
    ({"vehicle": ["car"], "thing": ["vehicle"]}, None, "the label 'vehicle' cannot go to 'thing'"),
    ({"vehicle": ["car"]}, ["vehicle", "car"], "classes names 'car', which merge makes part of"),
    ({"vehicle": ["car"]}, ["bus"], "the class 'vehicle', which classes lacks"),
]


@pytest.mark.parametrize(("merge", "classes", "words"), WRONG)
def test_what_cannot_be_merged(merge: Any, classes: list[str] | None, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        check_merge(merge, classes)
