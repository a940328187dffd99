from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.formats import LoadedDataset, load_labelme_json
from transfer_maskrcnn.data.formats.base import Place, Reason, UnusableDataset
from transfer_maskrcnn.data.formats.masks import rle_to_mask
from transfer_maskrcnn.errors import DatasetError

POINTS = [[2, 2], [8, 2], [8, 8], [2, 8]]
FLAT = [2, 2, 8, 2, 8, 8, 2, 8]


def shape(label: str = "cat", points: Any = POINTS, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon"} | more


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mask_shape(x: int = 4, y: int = 3, **more: Any) -> dict[str, Any]:
    """A 5x7 mask without its first row, at x, y; the box includes its far edge, as in labelme."""
    mask = np.ones((5, 7), dtype=bool)
    mask[0] = False
    box = [[x, y], [x + 6, y + 4]]
    return shape(points=box, shape_type="mask", mask=png(mask)) | more


@pytest.fixture
def load(tmp_path: Path, make_image: Callable[..., Path], check_counts: Any) -> Any:
    def load(*shapes: Any, data: Any = None, **options: Any) -> LoadedDataset:
        """One file 0001.json for images/0001.jpg; ``data`` changes or, if no dict, replaces it."""
        make_image("images/0001.jpg")
        content = {
            "imagePath": "0001.jpg",
            "imageHeight": 20,
            "imageWidth": 30,
            "imageData": None,
            "shapes": list(shapes),
        }
        content = content | (data or {}) if isinstance(data, (dict, type(None))) else data
        (tmp_path / "json").mkdir(exist_ok=True)
        (tmp_path / "json/0001.json").write_text(json.dumps(content))
        dataset = load_labelme_json(tmp_path / "json", tmp_path / "images", **options)
        check_counts(dataset)
        return dataset

    return load


@pytest.mark.parametrize(
    "one, bbox",
    [
        (shape(), [2, 2, 8, 8]),
        (shape(shape_type=None), [2, 2, 8, 8]),  # labelme 3 wrote none
        (shape(points=[[8, 9], [2, 3]], shape_type="rectangle"), [2, 3, 8, 9]),  # any two corners
        (shape(points=[["8", "9"], [2, 3]], shape_type="rectangle"), [2, 3, 8, 9]),
        (shape(shape_type="rectangle"), [2, 2, 8, 8]),  # or all four
        (shape(shape_type="rotation", direction=0.3, difficult=True), [2, 2, 8, 8]),
        (shape(shape_type="oriented_rectangle"), [2, 2, 8, 8]),
        (shape(points=[[10, 9], [10, 13]], shape_type="circle"), [6, 5, 14, 13]),
        (mask_shape(), [4, 4, 11, 8]),
        (mask_shape(x=-3), [0, 4, 4, 8]),  # cut off at the border
        (mask_shape(x=26, y=17), [26, 18, 30, 20]),
    ],
)
def test_shapes(load: Any, one: Any, bbox: list[float]) -> None:
    dataset = load(one)
    assert dataset.classes == ("cat",)
    assert dataset.dicts[0]["annotations"][0]["bbox"] == pytest.approx(bbox, abs=0.1)
    assert dataset.mask_format == ("bitmask" if one["shape_type"] == "mask" else "polygon")


def test_mask_pixels(load: Any) -> None:
    mask = rle_to_mask(load(mask_shape()).dicts[0]["annotations"][0]["segmentation"])
    expected = np.zeros((20, 30), dtype=bool)
    expected[4:8, 4:11] = True
    assert (mask == expected).all()


@pytest.mark.parametrize(
    "shapes, parts",
    [
        ([shape(group_id=1), shape(group_id=1)], [2]),
        ([shape(group_id=0), shape(group_id=0)], [2]),  # 0 is a group as well
        ([shape(group_id=1), shape(group_id=2)], [1, 1]),
        ([shape(group_id=1), shape("dog", group_id=1)], [1, 1]),
        ([shape(), shape()], [1, 1]),
        ([shape(group_id=1), shape(), shape(group_id=1)], [2, 1]),
    ],
)
def test_groups(load: Any, shapes: Any, parts: list[int]) -> None:
    annotations = load(*shapes).dicts[0]["annotations"]
    assert [len(a["segmentation"]) for a in annotations] == parts


def test_group_of_mask_and_polygon(load: Any) -> None:
    dataset = load(mask_shape(group_id=3), shape(group_id=3), shape())
    assert dataset.mask_format == "bitmask"
    both, single = (rle_to_mask(a["segmentation"]) for a in dataset.dicts[0]["annotations"])
    assert both[2:8, 2:8].all() and both[4:8, 4:11].all()
    assert both.sum() == 36 + 28 - 16
    assert single.sum() == 36


@pytest.mark.parametrize(
    "one, reason",
    [
        (shape(points=[[3, 3]], shape_type="point"), Reason.OTHER_SHAPE),
        (shape("dog", points=POINTS[:2], shape_type="line"), Reason.OTHER_SHAPE),
        (shape("look here", shape_type="linestrip"), Reason.NOTE_SHAPE),
        (shape(points=POINTS * 2, shape_type="cuboid"), Reason.OTHER_SHAPE),
        (shape(points=POINTS[:3], shape_type="rotation"), Reason.OTHER_SHAPE),
        (shape("__ignore__"), Reason.IGNORED_LABEL),
        (shape(""), Reason.NO_LABEL),
        (shape(" "), Reason.NO_LABEL),
        (shape(None), Reason.NO_LABEL),  # type: ignore[arg-type]
        (shape(1.5), Reason.NO_LABEL),  # type: ignore[arg-type]
        ({"points": POINTS}, Reason.NO_LABEL),
        (shape("_background_"), Reason.IGNORED_LABEL),
        (shape(points=[[2], [3], [4]]), Reason.BAD_COORDINATES),
        (shape(points=[2, 2, 8, 8]), Reason.BAD_COORDINATES),
        (shape(points=[], shape_type="polygon"), Reason.BAD_COORDINATES),
        (shape(points=POINTS[:2]), Reason.TOO_FEW_POINTS),
        (shape(points=POINTS[:1], shape_type="rectangle"), Reason.BAD_COORDINATES),
        (shape(points=[[2, None], [3, 3]], shape_type="circle"), Reason.BAD_COORDINATES),
        (shape(points=[[2, 2], [2, 2]], shape_type="circle"), Reason.BAD_COORDINATES),
        (mask_shape(mask=None), Reason.BAD_MASK),
        (mask_shape(mask="AAAA"), Reason.BAD_MASK),
        (mask_shape(mask="%%"), Reason.BAD_MASK),
        (mask_shape(points=[[4, 3], [20, 9]]), Reason.BAD_MASK),  # does not fit its box
        (mask_shape(mask=png(np.zeros((5, 7), dtype=bool))), Reason.ZERO_AREA),
        (mask_shape(x=50), Reason.OUTSIDE_IMAGE),
    ],
)
def test_left_out(load: Any, one: Any, reason: str) -> None:
    dataset = load(shape(), one, classes=["cat", "dog"])  # of unusable shapes, labels do not matter
    assert dataset.report.left_out == {reason: 1}
    place = dataset.report.places[reason][0]
    assert (Path(place.image).name, place.part, place.number) == ("0001.jpg", "shapes", 1)


@pytest.mark.parametrize(
    "image_path",
    [
        "0001.jpg",
        None,
        "",
        "elsewhere.jpg",
        "..\\photos\\0001.jpg",
        "../photos/0001.jpg",
        "/home/someone/0001.jpg",
        "C:\\photos\\IMG_7.jpg",
        "../json/0001.json",  # exists, but outside image_root
        7,
        "a\0b",
    ],
)
def test_image_path(load: Any, tmp_path: Path, image_path: Any) -> None:
    dataset = load(shape(), data={"imagePath": image_path})
    assert dataset.dicts[0]["file_name"] == str(tmp_path / "images/0001.jpg")


def test_image_path_in_a_subfolder(load: Any, make_image: Callable[..., Path]) -> None:
    path = make_image("images/cam1/0007.jpg")
    dataset = load(shape(), data={"imagePath": "cam1\\0007.jpg"})
    assert dataset.dicts[0]["file_name"] == str(path)


def test_image_path_outside_image_root(load: Any, make_image: Callable[..., Path]) -> None:
    elsewhere = make_image("old/0001.jpg")  # and not the image of that name in image_root
    dataset = load(shape(), data={"imagePath": str(elsewhere)})
    assert dataset.dicts[0]["file_name"] == str(elsewhere)


def test_an_image_that_only_the_json_holds(load: Any, tmp_path: Path) -> None:
    load(shape(), data={"imageData": "AAAA"})  # it is on disk, too
    (tmp_path / "images/0001.jpg").unlink()
    with pytest.raises(UnusableDataset) as error:
        load_labelme_json(tmp_path / "json", tmp_path / "images")
    assert error.value.report.images_left_out == {Reason.IMAGE_IN_JSON: 1}


def test_json_files_of_another_kind(load: Any, tmp_path: Path) -> None:
    load(shape())
    (tmp_path / "json/0000.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "json/package.json").write_text("[]")
    dataset = load(shape())
    assert [d["image_id"] for d in dataset.dicts] == [1]
    assert dataset.report.doubted == {Reason.OTHER_JSON: 2}
    place = dataset.report.places[Reason.OTHER_JSON][0]
    assert place.image.endswith("0000.json") and "format: coco" in place.note
    (tmp_path / "json/0001.json").unlink()
    with pytest.raises(DatasetError, match=r"0000\.json is not a labelme json: .*COCO"):
        load_labelme_json(tmp_path / "json", tmp_path / "images")


@pytest.mark.parametrize("size", [{"imageHeight": None}, {"imageWidth": None}])
def test_size_missing(load: Any, size: Any) -> None:
    assert load(shape(), data=size).dicts[0]["height"] == 20


def test_other_size(load: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 whose size differs from the annotation"):
        load(shape(), data={"imageHeight": 21})


def test_merged_labels(load: Any) -> None:
    shapes = [shape("cat1"), shape("cat2", group_id=1), shape("cat1", group_id=1), shape("dog")]
    dataset = load(*shapes, merge={"cat": ("cat1", "cat2")}, classes=["dog", "cat"])
    # grouped by the label in the file: cat1 and cat2 are two instances
    assert [a["category_id"] for a in dataset.dicts[0]["annotations"]] == [1, 1, 1, 0]
    assert load(*shapes).classes == ("cat1", "cat2", "dog")


def test_label_map(load: Any) -> None:
    shapes = [shape("cat1"), shape("cat2", group_id=1), shape("cat1", group_id=1), shape("dog")]
    dataset = load(*shapes, label_map={"cat1": "cat", "cat2": "cat"}, classes=["dog", "cat"])
    # grouped by the label in the file: cat1 and cat2 are two instances
    assert [a["category_id"] for a in dataset.dicts[0]["annotations"]] == [1, 1, 1, 0]
    assert load(*shapes).classes == ("cat1", "cat2", "dog")


def test_label_map_patterns(load: Any) -> None:
    shapes = [shape("yolk1"), shape("yolk_old"), shape("egg"), shape("yolk2")]
    dataset = load(*shapes, label_map={"yolk*": "yolk", "yolk_old": "waste", "eg?": "egg"})
    assert dataset.classes == ("egg", "waste", "yolk")
    assert [a["category_id"] for a in dataset.dicts[0]["annotations"]] == [2, 1, 0, 2]
    with pytest.raises(DatasetError, match=r"label_map: .*'yolk1' fits 'yolk\*' and '\*1'"):
        load(*shapes, label_map={"yolk*": "yolk", "*1": "one"})
    with pytest.raises(DatasetError, match=r"label_map: 'yulk\*' fits none of the labels: 'egg'"):
        load(*shapes, label_map={"yulk*": "yolk"})


@pytest.mark.parametrize(
    "options", [{"classes": ["cat", "__ignore__"]}, {"label_map": {"__ignore__": "b"}}]
)
def test_an_ignored_label_that_the_user_names_is_a_class(load: Any, options: Any) -> None:
    assert load(shape(), shape("__ignore__"), **options).report.instances_kept == 2
    report = load(shape(), shape("__ignore__"), label_map={"*": "thing"}).report  # names none
    assert report.left_out == {Reason.IGNORED_LABEL: 1}


def test_numbers_as_text_and_text_as_numbers(load: Any) -> None:
    dataset = load(shape(label=3, points=[[str(x), y] for x, y in POINTS]))  # type: ignore[arg-type]
    assert dataset.classes == ("3",)
    assert dataset.report.repaired == {Reason.OTHER_TYPE: 1}
    assert dataset.dicts[0]["annotations"][0]["segmentation"] == [FLAT]


def test_two_json_files_of_one_image(load: Any, tmp_path: Path) -> None:
    load(shape())
    text = (tmp_path / "json/0001.json").read_text().replace('"cat"', '"dog"')
    (tmp_path / "json/0002.json").write_text(text)
    dataset = load(shape())
    assert [a["category_id"] for a in dataset.dicts[0]["annotations"]] == [0, 1]
    assert dataset.report.repaired == {Reason.SAME_FILE: 1}
    assert "0001.json and 0002.json" in dataset.report.places[Reason.SAME_FILE][0].note


def test_three_coordinates(load: Any) -> None:
    deep = [[x, y, 0] for x, y in POINTS]
    dataset = load(shape(points=deep), shape(points=deep, group_id=1), shape(group_id=1))
    assert dataset.report.repaired == {Reason.THIRD_COORDINATE: 2}
    assert dataset.dicts[0]["annotations"][0]["segmentation"] == [FLAT]


def test_label_map_with_a_number(load: Any) -> None:
    assert load(shape("2"), label_map={2: "dog"}).classes == ("dog",)  # as yaml reads {2: dog}


@pytest.mark.parametrize("label_map", [["a"], "a", {"red cat": 1}, {"a": ""}, {None: "a"}, 0])
def test_unusable_label_map(load: Any, label_map: Any) -> None:
    with pytest.raises(DatasetError, match=r"label_map is .*expected a mapping of labels"):
        load(shape(), label_map=label_map)


def test_images_without_a_json_file(load: Any, make_image: Callable[..., Path]) -> None:
    path = make_image("images/0002.jpg")
    report = load(shape()).report
    assert report.images_left_out == {Reason.IMAGE_WITHOUT_JSON: 1}
    assert report.places[Reason.IMAGE_WITHOUT_JSON] == [Place(str(path))]


@pytest.mark.parametrize(
    "shapes, data, message",
    [
        ([{"label": "cat"}], None, r"shapes\[0\] has no 'points'"),
        ([3], None, r"shapes\[0\] is 3; expected an object"),
        ([shape()], {"imageHeight": "20px"}, "imageHeight is '20px'; expected a whole number"),
        ([shape()], {"shapes": None}, "is not a labelme json"),
        ([shape()], {"imagePath": "x.jpg"}, ""),
        ([shape("cta")], None, r"'cta' \(1 instance; did you mean 'cat'\?\).*merge"),
        ([], {"images": [], "annotations": []}, ""),
        ([], [], "a list of 0 items"),
    ],
)
def test_errors(load: Any, shapes: Any, data: Any, message: str) -> None:
    if not message:
        assert load(*shapes, data=data, classes=["cat"]).dicts
        return
    with pytest.raises(DatasetError, match=message):
        load(*shapes, data=data, classes=["cat"])


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no \*.json file"):
        load_labelme_json(tmp_path, tmp_path)


# where the images lie, what imagePath says, whether it is told that this is another way to say it
NESTED = [
    ("json/{}.jpg", "im.jpg", False),  # beside the json file
    ("imgs/{}.jpg", "im.jpg", False),  # in a tree of the same folders
    ("imgs/{}.jpg", "../../imgs/{}.jpg", False),
    ("imgs/{}.jpg", "..\\..\\imgs\\{}.jpg", False),
    ("imgs/{}.jpg", "old.jpg", True),  # named as the json file is
    ("imgs/{}.png", "im.jpg", True),
    ("imgs/{}.jpg", "/home/someone/{}.jpg", True),
    ("imgs/{}.jpg", None, False),
]


@pytest.mark.parametrize(("images", "stated", "is_told"), NESTED)
def test_folders_below(
    tmp_path: Path,
    make_image: Callable[..., Path],
    write_json: Any,
    check_counts: Any,
    images: str,
    stated: str | None,
    is_told: bool,
) -> None:
    for name in ("a/im", "b/im", "b/.hidden/im"):
        make_image(images.format(name))
        content = {"shapes": [shape(name[0])], "imagePath": stated and stated.format(name)}
        write_json(content, f"json/{name}.json")
    dataset = load_labelme_json(tmp_path / "json", tmp_path / images.split("/")[0])
    check_counts(dataset)
    expected = [os.path.normpath(tmp_path / images.format(name)) for name in ("a/im", "b/im")]
    assert [os.path.normpath(d["file_name"]) for d in dataset.dicts] == expected
    assert [d["annotations"][0]["category_id"] for d in dataset.dicts] == [0, 1]
    assert (Reason.FOUND_ELSEWHERE in dataset.report.repaired) == is_told
    origins = [place.origin for places in dataset.places for place in places]
    assert origins == [str(tmp_path / f"json/{name}.json") for name in ("a/im", "b/im")]


def test_images_below_that_no_json_belongs_to(load: Any, make_image: Callable[..., Path]) -> None:
    make_image("images/b/0001.jpg")  # of the same name, but another one
    make_image("images/0001_json/img.png")  # exported by labelme
    make_image("images/0001_json/label.png")
    make_image("images/photos_json/0002.jpg")  # not
    report = load(shape()).report
    assert report.images_left_out == {Reason.IMAGE_WITHOUT_JSON: 2}


@pytest.mark.parametrize(
    "paths, used, reasons",
    [
        # copies: each has its own image
        (["1.jpg", "1.jpg", "1.jpg"], ["1.jpg", "2.jpg", "3.jpg"], {Reason.FOUND_ELSEWHERE: 2}),
        # a single one is believed, with a doubt
        (["1.jpg", "2.jpg", "9.jpg"], ["1.jpg", "2.jpg", "9.jpg"], {Reason.OTHER_IMAGE: 1}),
        (["2.jpg", "3.jpg", "9.jpg"], ["2.jpg", "3.jpg", "9.jpg"], {Reason.OTHER_IMAGE: 3}),
        # no image, though it is there
        (["1.txt", "2.jpg", "3.json"], ["1.jpg", "2.jpg", "3.jpg"], {Reason.FOUND_ELSEWHERE: 2}),
        (["1.mp4", "2.jpg", "3.jpg"], ["1.jpg", "2.jpg", "3.jpg"], {Reason.FOUND_ELSEWHERE: 1}),
    ],
)
def test_an_image_path_that_is_not_of_the_json_file(
    tmp_path: Path,
    make_image: Callable[..., Path],
    write_json: Any,
    paths: Sequence[str],
    used: Sequence[str],
    reasons: dict[Reason, int],
) -> None:
    for name in (1, 2, 3, 9):
        make_image(f"{name}.jpg")
    for number, path in enumerate(paths, start=1):
        write_json({"shapes": [shape()], "imagePath": path}, f"{number}.json")
    (tmp_path / "1.txt").write_text("cat")
    (tmp_path / "1.mp4").write_bytes(b"\0\0\0 ftypisom")
    dataset = load_labelme_json(tmp_path)
    assert [Path(d["file_name"]).name for d in dataset.dicts] == used
    assert dataset.report.repaired + dataset.report.doubted == reasons


@pytest.mark.parametrize("text", ["", '{"shapes": [', "\0"])
def test_a_broken_json_file_among_others(load: Any, tmp_path: Path, text: str) -> None:
    load(shape())
    (tmp_path / "json/0000.json").write_text(text)
    report = load(shape()).report
    assert (report.instances_kept, report.doubted) == (1, {Reason.BROKEN_JSON: 1})
    (tmp_path / "json/0001.json").unlink()
    with pytest.raises(DatasetError, match=r"0000\.json is not valid json"):
        load_labelme_json(tmp_path / "json", tmp_path / "images")


def test_files_in_natural_order(load: Any, tmp_path: Path, make_image: Callable[..., Path]) -> None:
    load(shape())
    text = (tmp_path / "json/0001.json").read_text()
    for name in ("x10", "x9"):
        make_image(f"images/{name}.jpg")
        (tmp_path / f"json/{name}.json").write_text(text.replace("0001.jpg", f"{name}.jpg"))
    dicts = load_labelme_json(tmp_path / "json", tmp_path / "images").dicts
    assert [Path(d["file_name"]).stem for d in dicts] == ["0001", "x9", "x10"]
    assert [d["image_id"] for d in dicts] == [1, 2, 3]
