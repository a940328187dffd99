"""Which datasets are examined, what they are for, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from transfer_maskrcnn.data.datasets import DatasetSpec, parse
from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.formats import base
from transfer_maskrcnn.data.formats.names import belong_together
from transfer_maskrcnn.doctor import examine
from transfer_maskrcnn.doctor.fix import repair
from transfer_maskrcnn.doctor.subject import Subject, looks_like_validation, subject_of
from transfer_maskrcnn.errors import DatasetError

from .conftest import HEIGHT, SETTINGS, WIDTH, MapperOf, Planted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("balloon_train", False),
        ("balloon_val", True),
        ("my-valid", True),
        ("instances_val2017", True),
        ("interval_shots", False),  # "val" within a word
        ("test_cells_train", False),  # "train" decides
        ("coco96_480", False),
    ],
)
def test_what_a_name_says(name: str, expected: bool) -> None:
    assert looks_like_validation(name) is expected


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        ("balloon_train", "balloon_val", True),
        ("balloon_train", "kudzu_val", False),
        ("test_cells_train", "test_cells_val", True),
        ("cells", "cells_test", True),
        ("train", "val", True),
    ],
)
def test_sets_of_one_name_belong_together(train: str, validation: str, expected: bool) -> None:
    assert belong_together(train, validation) is expected


def test_a_name_that_nobody_registered() -> None:
    with pytest.raises(DatasetError, match="did you mean 'balloon_train'"):
        subject_of("baloon_train")


@pytest.mark.parametrize("has_classes", [True, False])
def test_dicts_that_another_package_registered(
    has_classes: bool,
    train: Planted,
    mapper_of: MapperOf,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    name = f"stock_{tmp_path.name}"
    dicts = parse(train.spec()).dicts
    dicts[1]["annotations"][1]["segmentation"] = [[30.0, 20, 60, 20, 60, 50, 30, 50]]
    DatasetCatalog.register(name, lambda: dicts)
    request.addfinalizer(lambda: DatasetCatalog.remove(name))
    request.addfinalizer(lambda: MetadataCatalog.remove(name))
    if has_classes:
        MetadataCatalog.get(name).thing_classes = ["nut", "bolt"]
    diagnosis = examine([subject_of(name)], SETTINGS, mapper_of)
    kinds = {f.kind: f for f in diagnosis.findings}
    if has_classes:
        assert "box_apart" in kinds
        place = kinds["box_apart"].places[0]
        assert place.file.endswith("002.png") and place.item == "annotation 1"
    else:
        assert "no thing_classes" in kinds["unloadable"].places[0].seen["message"]


def _parts(planted: Planted) -> list[Subject]:
    """Images 1, 4 and 7 for validation, the other five for training."""
    specs = []
    for part in ("train", "val"):
        planted.name = f"toy_{part}"
        planted.options = {"hold_out_every": 3, "part": part}
        specs.append(planted.spec())
    return [subject_of(spec.name, spec=spec) for spec in specs]


def test_each_part_of_a_file_is_told_of_its_own_losses(
    train: Planted, mapper_of: MapperOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4, 7):  # of train, val, val
        train.image(number).unlink()
    for a in (0, 1, 3, 9):  # of images 1 (val), 1, 2 (train), 4 (lost)
        train.annotations[a]["segmentation"] = []
    train.annotations[6]["image_id"] = 77  # of no image: told of with the training set
    monkeypatch.setattr(base, "_MOST_PLACES", 1)  # of the whole file
    diagnosis = examine(_parts(train), SETTINGS, mapper_of)
    told = {
        (f.dataset, f.kind): (f.count, f.places[0].image[-7:])
        for f in diagnosis.findings
        if f.severity == "error" or f.kind == "lost_with_image"
    }
    assert told == {
        ("toy_train", "image_missing"): (1, "003.png"),
        ("toy_train", "lost_with_image"): (2, "003.png"),
        ("toy_train", "no_mask"): (1, "002.png"),
        ("toy_train", "unknown_image"): (1, ""),
        ("toy_val", "image_missing"): (2, "004.png"),
        ("toy_val", "lost_with_image"): (6, "004.png"),
        ("toy_val", "no_mask"): (2, "001.png"),
    }
    loaded = [dataset["loader"] for dataset in diagnosis.as_json()["datasets"]]
    assert [text.split(";")[0] for text in loaded] == [
        "4 of 5 images, 11 of 15 instances kept",
        "1 of 3 images, 1 of 9 instances kept",
    ]


@pytest.mark.parametrize("lost", [(1, 4, 7), range(1, 9)])
def test_a_part_that_cannot_be_loaded_is_told_of(
    lost: Sequence[int], train: Planted, mapper_of: MapperOf
) -> None:
    for number in lost:
        train.image(number).unlink()
    diagnosis = examine(_parts(train), SETTINGS, mapper_of)
    errors = diagnosis.findings
    told = {(f.dataset, f.kind): f.count for f in errors if f.severity == "error"}
    told |= {(f.dataset, f.kind): f.count for f in errors if f.kind == "lost_with_image"}
    parts = [("toy_val", 3)] if len(lost) == 3 else [("toy_val", 3), ("toy_train", 5)]
    assert told == {
        (name, kind): count
        for name, images in parts
        for kind, count in (
            *(("unloadable", 1), ("image_missing", images)),
            ("lost_with_image", 3 * images),
        )
    }
    assert errors[0].kind == "unloadable"
    assert [one.name for one in diagnosis.examined] == ["toy_train"] * (len(parts) == 1)


def test_two_splits_of_one_data_yaml_have_losses_of_their_own(
    train: Planted, tmp_path: Path, mapper_of: MapperOf
) -> None:
    for split in ("train", "val"):
        EXPORTERS["yolo"](parse(train.spec()), tmp_path / split)
        next((tmp_path / split).rglob("003.png")).unlink()
    data = tmp_path / "data.yaml"
    data.write_text("names: [nut, bolt]\ntrain: train/images\nval: val/images\n")
    specs = [
        DatasetSpec(f"toy_{split}", "yolo", str(data), options={"split": split})
        for split in ("train", "val")
    ]
    diagnosis = examine([subject_of(s.name, spec=s) for s in specs], SETTINGS, mapper_of)
    lost = [f.dataset for f in diagnosis.findings if f.kind == "labels_without_image"]
    assert sorted(lost) == ["toy_train", "toy_val"]


def test_how_to_get_a_dataset_that_is_missing(train: Planted, mapper_of: MapperOf) -> None:
    train.options = {"prepare": "python make_it.py", "annotations": "nowhere.json"}
    diagnosis = examine([subject_of(train.name, spec=train.spec())], SETTINGS, mapper_of)
    assert (
        "To get this dataset: python make_it.py" in diagnosis.findings[0].places[0].seen["message"]
    )


@pytest.mark.parametrize("with_crowd", [False, True])
@pytest.mark.parametrize("masks", ["polygon", "rle"])
def test_stock_sets_are_mapped_in_the_format_of_their_masks(
    masks: str,
    with_crowd: bool,
    train: Planted,
    mapper_of: MapperOf,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """Also with crowds, which are RLE wherever COCO has them; boxes of COCO's form are right."""
    crowd = {**train.annotations[0], "id": 99, "iscrowd": 1, "bbox": [0, 0, 5, HEIGHT]}
    crowd["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [0, 300, HEIGHT * WIDTH - 300]}
    for one in train.annotations if masks == "rle" else ():
        rle = mask_util.merge(mask_util.frPyObjects(one["segmentation"], HEIGHT, WIDTH))
        one["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    train.annotations.extend([crowd] * with_crowd)
    spec = train.spec()
    name = f"stock_{tmp_path.name}"
    register_coco_instances(name, {}, spec.annotations, str(spec.image_root))
    request.addfinalizer(lambda: DatasetCatalog.remove(name))
    request.addfinalizer(lambda: MetadataCatalog.remove(name))
    diagnosis = examine([subject_of(name)], SETTINGS, mapper_of)
    assert [f.kind for f in diagnosis.findings] == ["only_crowd"] * with_crowd
    (one,) = diagnosis.examined
    assert one.dataset.mask_format == ("bitmask" if masks == "rle" else "polygon")
    assert [change.kind for change in repair(one.dataset, tmp_path / "out")] == []
