"""Folders and files as annotation tools export them: what each is, its name, and that it loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.formats.base import Reason, UnusableDataset
from transfer_maskrcnn.data.given import catalog_of, catalog_text, names_of
from transfer_maskrcnn.data.recognise import recognise
from transfer_maskrcnn.data.registry import register_catalog, spec_of
from transfer_maskrcnn.errors import DatasetError

SIDE = 16
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
Entry = tuple[Any, ...]  # format, annotations, image_root, other keys


def picture(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = list("/".join(path.parts[-3:]).encode())  # none looks like another
        noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3))
        cv2.imwrite(str(path), noise.astype(np.uint8))


def mask(*paths: Path, value: int = 7) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[2:12, 2:12] = value
        cv2.imwrite(str(path), pixels)


def text(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def labelme(path: Path, image: str = "") -> None:
    points = [SQUARE[i : i + 2] for i in range(0, 8, 2)]
    shapes = [{"label": "cat", "points": points, "shape_type": "polygon"}]
    text(path, {"shapes": shapes, "imagePath": image or f"{path.stem}.jpg"})


def coco(path: Path, *images: str) -> None:
    records = [
        {"id": i, "file_name": name, "height": SIDE, "width": SIDE} for i, name in enumerate(images)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0}
        | {"bbox": [2, 2, 10, 10], "area": 100}
        for i in range(len(images))
    ]
    categories = [{"id": 1, "name": "cat"}]
    text(path, {"images": records, "annotations": annotations, "categories": categories})


def via(path: Path, *images: str, project: bool = False, **attributes: str) -> None:
    shape = {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]}
    region = {"shape_attributes": shape, "region_attributes": attributes}
    content = {f"{name}9": {"filename": name, "regions": [region]} for name in images}
    text(path, {"_via_settings": {}, "_via_img_metadata": content} if project else content)


def yolo(*paths: Path) -> None:
    for path in paths:
        text(path, "0 0.1 0.1 0.8 0.1 0.8 0.8\n")


def labelme_flat(d: Path) -> None:
    picture(d / "a.jpg", d / "b.jpg", d / "c.jpg")
    labelme(d / "a.json")
    labelme(d / "c.json")


def labelme_nested(d: Path) -> None:
    for folder in (d, d / "day 1", d / "day 2"):
        picture(folder / f"{len(folder.parts)}{folder.name}.jpg")
        labelme(folder / f"{len(folder.parts)}{folder.name}.json")


def labelme_apart_by_part(d: Path) -> None:
    for part in ("train", "val"):  # of the same names
        picture(d / "images" / part / "a.jpg", d / "images" / part / "b.jpg")
        labelme(d / "json" / part / "a.json")
        labelme(d / "json" / part / "b.json", "..\\..\\images\\b.jpg")


def coco_beside(d: Path) -> None:
    picture(d / "pics/a.jpg", d / "pics/b.jpg")
    coco(d / "result.json", "a.jpg", "b.jpg")
    text(d / "predictions.json", [{"image_id": 0, "category_id": 1}])


def coco_official(d: Path) -> None:
    for part in ("train2017", "val2017"):
        picture(d / part / "1.jpg", d / part / "2.jpg")
        coco(d / f"annotations/instances_{part}.json", "1.jpg", "2.jpg")
        drawn = json.loads((d / f"annotations/instances_{part}.json").read_text())
        drawn["annotations"] = [{**a, "keypoints": [1, 1, 2]} for a in drawn["annotations"]]
        text(d / f"annotations/person_keypoints_{part}.json", drawn)
        captions = {"images": [], "annotations": [{"image_id": 1, "caption": "a cat"}]}
        text(d / f"annotations/captions_{part}.json", captions)


def coco_with_folders_in_names(d: Path) -> None:
    picture(d / "data/cam0/a.jpg", d / "data/cam1/a.jpg")
    coco(d / "annotations/instances_default.json", "cam0/a.jpg", "cam1/a.jpg")


def roboflow_coco(d: Path) -> None:
    """Unzipped into a folder of its own, with what macOS leaves."""
    for part in ("train", "valid", "test"):
        folder = d / "Cats.v1i.coco" / part
        picture(folder / "a.jpg")
        coco(folder / "_annotations.coco.json", "a.jpg")
    text(d / "__MACOSX/Cats.v1i.coco/train/._a.json", "{}")
    text(d / "Cats.v1i.coco/README.roboflow.txt", "Cats")


def roboflow_yolo(d: Path) -> None:
    """The test set is named, and was not exported."""
    parts = {"train": "train", "val": "valid", "test": "test"}
    paths = {key: f"../{folder}/images" for key, folder in parts.items()}
    text(d / "data.yaml", yaml.safe_dump({**paths, "nc": 1, "names": ["cat"]}))
    for part in ("train", "valid"):
        picture(d / part / "images/a.jpg")
        yolo(d / part / "labels/a.txt")


def ultralytics_from_another_machine(d: Path) -> None:
    content = {"path": "/content/datasets/cats", "train": "images/train", "names": {0: "cat"}}
    text(d / "cats.yaml", yaml.safe_dump(content))
    picture(d / "images/train/a.jpg", d / "images/train/b.jpg")
    yolo(d / "labels/train/a.txt", d / "labels/train/b.txt")


def supervision_yolo(d: Path) -> None:
    text(d / "data.yaml", "names: [cat]\nnc: 1\n")
    picture(d / "images/a.jpg", d / "images/b.jpg")
    yolo(d / "labels/a.txt", d / "labels/b.txt")


def label_studio_yolo(d: Path) -> None:
    picture(d / "images/a.jpg", d / "images/b.jpg")
    yolo(d / "labels/a.txt", d / "labels/b.txt")
    text(d / "classes.txt", "cat\n")
    text(d / "notes.json", {"categories": [{"id": 0, "name": "cat"}]})


def yolo_without_any_names(d: Path) -> None:
    for part in ("train", "val"):
        for batch in ("1", "2"):
            picture(d / "images" / part / batch / "a.jpg")
            yolo(d / "labels" / part / batch / "a.txt")


def via_in_parts(d: Path) -> None:
    """Only the regions of one say their class."""
    picture(d / "train/a.jpg", d / "val/b.jpg")
    via(d / "train/via_region_data.json", "a.jpg", kind="kudzu", insect="kudzu")
    via(d / "val/via_region_data.json", "b.jpg")


def via_project(d: Path) -> None:
    picture(d / "a.jpg", d / "b.jpg")
    via(d / "my project.json", "a.jpg", "b.jpg", project=True)


def indexed_by_part(d: Path) -> None:
    for part in ("train", "val"):
        picture(d / "images" / part / "a.jpg", d / "images" / part / "b.jpg")
        mask(d / "masks" / part / "a.png", d / "masks" / part / "b.png")


def masks_that_no_name_tells(d: Path) -> None:
    picture(d / "x/a.png", d / "x/b.png")
    mask(d / "y/a.png", d / "y/b.png")


def samples_by_part(d: Path) -> None:
    for part in ("stage1_train", "stage1_test"):
        for name in ("a", "b"):
            picture(d / part / name / "images" / f"{name}.png")
            mask(*(d / part / name / "masks" / f"{k}.png" for k in range(2)))


def penn_fudan(d: Path) -> None:
    picture(d / "PNGImages/Fudan01.png", d / "PNGImages/Fudan02.png")
    mask(d / "PedMasks/Fudan01_mask.png", d / "PedMasks/Fudan02_mask.png")


def a_mask_an_object(d: Path) -> None:
    picture(d / "photos/a.jpg", d / "photos/b.jpg")
    mask(*(d / "annotated" / f"{name}_object_{k}.png" for name in "ab" for k in range(3)))


def masks_beside_photographs(d: Path) -> None:
    picture(d / "a.jpg", d / "b.jpg")
    mask(d / "a_mask.png", d / "b_mask.png")


def cityscapes(d: Path) -> None:
    """With the masks of other kinds that come in the same zip."""
    for part in ("train", "val"):
        for name in ("bonn_000000_000019", "bonn_000001_000019"):
            picture(d / "leftImg8bit" / part / "bonn" / f"{name}_leftImg8bit.png")
            start = d / "gtFine" / part / "bonn" / f"{name}_gtFine"
            mask(*(start.with_name(f"{start.name}_{kind}.png") for kind in ("color", "labelIds")))
            objects = np.zeros((SIDE, SIDE), np.uint16)
            objects[2:12, 2:12] = 26_001
            cv2.imwrite(f"{start}_instanceIds.png", objects)
            text(start.with_name(f"{start.name}_polygons.json"), {"imgHeight": SIDE, "objects": []})


def a_folder_of_masks_an_image(d: Path) -> None:
    picture(d / "photos/a.jpg", d / "photos/b.jpg")
    mask(*(d / "masks" / name / f"{k}.png" for name in "ab" for k in range(3)))


def masks_as_tif(d: Path) -> None:
    picture(d / "images/a.tif", d / "images/b.tif")
    mask(d / "masks/a.tif", d / "masks/b.tif")


def photographs_alone(d: Path) -> None:
    labelme_flat(d)
    picture(d / "more/a.png", d / "more/a_flipped.png")


def pascal_voc(d: Path) -> None:
    picture(d / "VOC2012/JPEGImages/a.jpg", d / "VOC2012/JPEGImages/b.jpg")
    mask(d / "VOC2012/SegmentationObject/a.png", value=1)
    mask(d / "VOC2012/SegmentationClass/a.png", value=15)
    text(d / "VOC2012/Annotations/a.xml", "<annotation/>")


def two_datasets(d: Path) -> None:
    for name in ("one", "two"):
        picture(d / name / "a.jpg", d / name / "b.jpg")
        coco(d / name / "coco.json", "a.jpg", "b.jpg")


def twice_the_same(d: Path) -> None:
    """Drawn in labelme, and converted."""
    labelme_flat(d)
    coco(d / "converted.json", "a.jpg", "b.jpg", "c.jpg")


LAYOUTS: list[tuple[Callable[[Path], None], dict[str, Entry], list[int]]] = [
    # what is written, the entries, and how many images of each are kept
    (labelme_flat, {"cats": ("labelme", ".", ".")}, [2]),
    (labelme_nested, {"cats": ("labelme", ".", ".")}, [3]),
    (
        labelme_apart_by_part,
        {f"cats_{p}": ("labelme", f"json/{p}", f"images/{p}") for p in ("train", "val")},
        [2, 2],
    ),
    (coco_beside, {"cats": ("coco", "result.json", "pics")}, [2]),
    (
        coco_official,
        {
            f"cats_{p}": ("coco", f"annotations/instances_{p}2017.json", f"{p}2017")
            for p in ("train", "val")
        },
        [2, 2],
    ),
    (
        coco_with_folders_in_names,
        {"cats": ("coco", "annotations/instances_default.json", "data")},
        [2],
    ),
    (
        roboflow_coco,
        {
            f"cats_{p}": ("coco", f"Cats.v1i.coco/{f}/_annotations.coco.json", f"Cats.v1i.coco/{f}")
            for p, f in (("train", "train"), ("val", "valid"), ("test", "test"))
        },
        [1, 1, 1],
    ),
    (
        roboflow_yolo,
        {
            "cats_train": ("yolo", "data.yaml", None),
            "cats_val": ("yolo", "data.yaml", None, {"split": "val"}),
        },
        [1, 1],
    ),
    (ultralytics_from_another_machine, {"cats_train": ("yolo", "cats.yaml", ".")}, [2]),
    (supervision_yolo, {"cats_train": ("yolo", "data.yaml", None)}, [2]),
    (label_studio_yolo, {"cats": ("yolo", "labels", "images")}, [2]),
    (
        yolo_without_any_names,
        {f"cats_{p}": ("yolo", f"labels/{p}", f"images/{p}") for p in ("train", "val")},
        [2, 2],
    ),
    (
        via_in_parts,
        {
            f"cats_{p}": ("via", f"{p}/via_region_data.json", p, {"classes": ["kudzu"]})
            for p in ("train", "val")
        },
        [1, 1],
    ),
    (via_project, {"cats": ("via", "my project.json", ".", {"classes": ["object"]})}, [2]),
    (
        indexed_by_part,
        {f"cats_{p}": ("png_masks", f"masks/{p}", f"images/{p}") for p in ("train", "val")},
        [2, 2],
    ),
    (masks_that_no_name_tells, {"cats": ("png_masks", "y", "x")}, [2]),
    (
        samples_by_part,
        {f"cats_{p}": ("png_masks", f"stage1_{p}", f"stage1_{p}") for p in ("train", "test")},
        [2, 2],
    ),
    (penn_fudan, {"cats": ("png_masks", "PedMasks", "PNGImages")}, [2]),
    (a_mask_an_object, {"cats": ("png_masks", "annotated", "photos")}, [2]),
    (masks_beside_photographs, {"cats": ("png_masks", ".", ".")}, [2]),
    (
        cityscapes,
        {
            f"cats_{p}": ("png_masks", f"gtFine/{p}/bonn", f"leftImg8bit/{p}/bonn")
            for p in ("train", "val")
        },
        [2, 2],
    ),
    (a_folder_of_masks_an_image, {"cats": ("png_masks", "masks", "photos")}, [2]),
    (masks_as_tif, {"cats": ("png_masks", "masks", "images")}, [2]),
    (photographs_alone, {"cats": ("labelme", ".", ".")}, [2]),
    (
        pascal_voc,
        {"cats": ("png_masks", "VOC2012/SegmentationObject", "VOC2012/JPEGImages")},
        [1],
    ),
    (two_datasets, {f"cats_{n}": ("coco", f"{n}/coco.json", n) for n in ("one", "two")}, [2, 2]),
    (twice_the_same, {"cats": ("coco", "converted.json", ".")}, [3]),
]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    folder = tmp_path / "cats"
    folder.mkdir()
    return folder


def entries_of(folder: Path, expected: dict[str, Entry]) -> dict[str, Any]:
    entries = {}
    for name, (format, file, root, *more) in expected.items():
        entry = {"format": format, "annotations": str(folder / file)}
        beside = str(Path(file).parent) if format in ("coco", "via") else file
        if root is not None and (root != beside or format == "yolo"):  # the default stays unsaid
            entry["image_root"] = str(folder / root)
        entries[name] = entry | (more[0] if more else {})
    return entries


@pytest.mark.parametrize(("write", "expected", "kept"), LAYOUTS)
def test_layouts(
    cats: Path, write: Callable[[Path], None], expected: dict[str, Entry], kept: list[int]
) -> None:
    write(cats)
    catalog = catalog_of(cats, split=False)
    assert catalog.entries == entries_of(cats, expected)
    assert [len(DatasetCatalog.get(name)) for name in catalog.register()] == kept


@pytest.mark.parametrize(("write", "expected", "kept"), LAYOUTS[2:4])
def test_a_catalog_of_what_was_found_can_be_moved_with_it(
    tmp_path: Path,
    cats: Path,
    write: Callable[[Path], None],
    expected: dict[str, Entry],
    kept: list[int],
) -> None:
    write(cats)
    file = tmp_path / "my.yaml"
    file.write_text(catalog_text([catalog_of(cats)], file))
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    names = register_catalog(tmp_path.with_name("moved") / "my.yaml")
    assert sum(len(DatasetCatalog.get(name)) for name in names) == sum(kept)
    shutil.move(tmp_path.with_name("moved"), tmp_path)


def test_one_set_is_divided_unless_its_name_says_a_part(cats: Path) -> None:
    ultralytics_from_another_machine(cats)
    (entry,) = catalog_of(cats).entries.values()
    assert entry["split"] == {"val": 0.2, "seed": 0}
    names, _ = names_of([str(cats)])
    assert names == ["cats_train", "cats_val"]
    assert [len(DatasetCatalog.get(name)) for name in names] == [1, 1]
    two_datasets(cats / "more")
    coco(cats / "more/train.json", "a.jpg", "b.jpg")
    coco(cats / "more/val.json", "a.jpg", "b.jpg")
    divided = {name: "split" in entry for name, entry in catalog_of(cats / "more").entries.items()}
    assert divided == dict.fromkeys(
        ("more_train", "more_one_coco", "more_two_coco", "more_val"), False
    )
    roboflow_coco(cats / "part")
    assert list(catalog_of(cats / "part/Cats.v1i.coco/train").entries) == ["Cats_v1i_coco_train"]


def test_what_is_lost_before_a_split_is_told_once(cats: Path) -> None:
    coco(cats / "a.json", "1.jpg", "2.jpg")
    lost = {}
    for name in names_of([str(cats)])[0]:
        with pytest.raises(UnusableDataset) as error:
            DatasetCatalog.get(name)
        lost[name] = error.value.report.images_left_out[Reason.IMAGE_MISSING]
    assert lost == {"cats_train": 2, "cats_val": 0}


def test_a_path_through_another_folder_is_the_same(cats: Path, tmp_path: Path) -> None:
    """As a catalog in another folder states it."""
    coco_beside(cats)
    (tmp_path / "other").mkdir()
    file = tmp_path / "other/my.yaml"
    file.write_text(catalog_text([catalog_of(cats)], file))
    names, _ = names_of([str(cats)])
    assert register_catalog(file) == names
    spec = spec_of(names[0])
    assert spec is not None and ".." not in spec.annotations


def test_parts_share_their_classes(cats: Path) -> None:
    """A class that only one of them has does not make training refuse them."""
    roboflow_coco(cats / "coco")
    for part, label in (("train", "cat"), ("val", "dog")):
        picture(cats / "drawn" / part / "a.jpg")
        labelme(cats / "drawn" / part / "a.json")
        path = cats / "drawn" / part / "a.json"
        path.write_text(path.read_text().replace('"cat"', f'"{label}"'))
    coco_entries = catalog_of(cats / "coco").entries.values()
    assert not any("classes" in entry for entry in coco_entries), "they agree"
    drawn = catalog_of(cats / "drawn").entries.values()
    assert [entry["classes"] for entry in drawn] == [["cat", "dog"]] * 2


FILES: list[tuple[Callable[[Path], None], str, str, int]] = [
    # what is written, the file that is named, the dataset's name, images kept
    (coco_beside, "result.json", "cats", 2),
    (coco_official, "annotations/instances_val2017.json", "annotations_val", 2),
    (labelme_flat, "a.json", "cats", 2),
    (ultralytics_from_another_machine, "cats.yaml", "cats_train", 2),
]


@pytest.mark.parametrize(("write", "file", "name", "kept"), FILES)
def test_files(cats: Path, write: Callable[[Path], None], file: str, name: str, kept: int) -> None:
    write(cats)
    assert list(catalog_of(cats / file, split=False).entries) == [name]
    (registered,) = names_of([str(cats / file)], split=False)[0]
    assert registered == name and len(DatasetCatalog.get(name)) == kept


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.zip", "PK\x03\x04", "zip archive; unzip it"),
        ("a.dcm", "\0" * 128 + "DICM", "DICOM; save"),
        ("a.xml", "<annotation><object/></annotation>", "1 .xml"),
        ("cvat.xml", "<?xml version='1.0'?>\n<annotations>", "CVAT.* export"),
        ("a.csv", "filename,file_size,region_shape_attributes", "VIA csv"),
        ("tasks.json", '[{"data": {}, "annotations": []}]', "Label Studio"),
        ("broken.json", '{"images": [', "broken.json is not valid json"),
        ("predictions.json", '[{"image_id": 1, "category_id": 1}]', "predictions"),
        ("", "", "nothing"),
    ],
)
def test_what_is_no_dataset_says_what_lies_there(
    cats: Path, name: str, content: str, words: str
) -> None:
    if name:
        text(cats / name, content)
        with pytest.raises(DatasetError):
            recognise(cats / name)
    with pytest.raises(DatasetError, match=words) as error:
        recognise(cats)
    lines = str(error.value).split("\n")
    assert all(len(line) <= 80 for line in lines if "cats" not in line)


def test_a_broken_part_is_told(cats: Path, caplog: pytest.LogCaptureFixture) -> None:
    roboflow_coco(cats)
    text(cats / "Cats.v1i.coco/train/_annotations.coco.json", '{"images": [')
    assert list(catalog_of(cats).entries) == ["cats_val", "cats_test"]
    assert "not read" in caplog.text and "train/_annotations.coco.json is not" in caplog.text


@pytest.mark.parametrize(
    ("folders", "jsons", "kept"),
    [  # where images lie, which annotations there are, and how many of these are read
        (("cam0",), ("cam0", "cam1"), 1),
        (("val2017",), ("instances_train2017", "instances_val2017"), 1),
        (("front",), ("front", "back"), 1),
        (("train",), ("val",), 0),
        (("cam0", "cam1"), ("cam0", "cam1"), 2),
        (("images",), ("train", "val"), 2),
    ],
)
def test_images_of_another_part_or_set_are_not_taken(
    cats: Path,
    folders: tuple[str, ...],
    jsons: tuple[str, ...],
    kept: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    picture(*(cats / folder / f"{k}.jpg" for folder in folders for k in "12"))
    for name in jsons:
        coco(cats / f"annotations/{name}.json", "1.jpg", "2.jpg")
    if kept:
        assert len(catalog_of(cats, split=False).entries) == kept
        assert caplog.text.count("not there; only") == len(jsons) - kept
    else:
        with pytest.raises(DatasetError, match="not there; only"):
            catalog_of(cats)


def test_names(cats: Path, tmp_path: Path) -> None:
    """After the folder; after the one above, where it is a part; never those of another."""
    roboflow_coco(cats)
    assert list(catalog_of(cats / "Cats.v1i.coco/valid").entries) == ["Cats_v1i_coco_val"]
    balloon = tmp_path / "balloon"
    shutil.move(cats, balloon)
    parts = [f"my_balloon_{part}" for part in ("train", "val", "test")]
    assert names_of([str(balloon)])[0] == parts
    assert names_of([str(balloon), "kudzu_val", "nothere"])[0] == [*parts, "kudzu_val", "nothere"]


def test_what_the_user_says_wins(cats: Path, caplog: pytest.LogCaptureFixture) -> None:
    twice_the_same(cats)
    recognise(cats)
    assert "not read: labelme" in caplog.text
    names, _ = names_of([str(cats)], "labelme", {"classes": ["cat", "dog"]}, split=False)
    with pytest.raises(DatasetError, match=r"no dataset of format via, but: coco, cats/converted"):
        recognise(cats, "via")
    assert names == ["cats"]
    spec = spec_of("cats")
    assert spec is not None and (spec.format, spec.classes) == ("labelme", ("cat", "dog"))


def test_a_folder_or_a_data_yaml_is_a_catalog(cats: Path, tmp_path: Path) -> None:
    roboflow_yolo(cats)
    assert register_catalog(cats) == register_catalog(cats / "data.yaml")
    declared = {"mine": {"format": "yolo", "annotations": "../cats/data.yaml"}}
    other = tmp_path / "other"
    text(other / "catalog.yaml", yaml.safe_dump(declared))
    assert register_catalog(other) == names_of([str(other)])[0] == ["mine"]
    text(other / "more.yaml", yaml.safe_dump(declared))
    with pytest.raises(DatasetError, match=r"catalog\.yaml and more\.yaml"):
        register_catalog(other)
