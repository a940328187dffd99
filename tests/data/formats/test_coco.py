from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from transfer_maskrcnn.data.formats import LoadedDataset, load_coco_json
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.errors import DatasetError

Write = Callable[..., Path]
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
MASK = np.zeros((20, 30), dtype=bool)
MASK[5:9, 10:16] = True
PLAIN_RLE = {"size": [20, 30], "counts": [205, *[4, 16] * 5, 4, 600 - 205 - 6 * 4 - 5 * 16]}
RLE = {
    "size": [20, 30],
    "counts": mask_util.encode(np.asfortranarray(MASK, dtype=np.uint8))["counts"].decode(),
}


def coco(*segmentations: Any, **changes: Any) -> dict[str, Any]:
    """One 20x30 image, categories cat (id 7) and dog (id 3), an annotation of 7 a segmentation."""
    annotations = [
        {"id": k, "image_id": 5, "category_id": 7, "bbox": [2, 2, 6, 6], "iscrowd": 0}
        | ({"segmentation": segmentation} if segmentation is not None else {})
        for k, segmentation in enumerate(segmentations)
    ]
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 20, "width": 30}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    } | changes


@pytest.fixture
def load(make_image: Callable[..., Path], write_json: Write, check_counts: Any) -> Any:
    def load(data: Any, **options: Any) -> LoadedDataset:
        make_image("images/a.jpg")
        path = write_json(data)
        dataset = load_coco_json(path, path.parent / "images", **options)
        check_counts(dataset)
        return dataset

    return load


def test_one_polygon(load: Any, tmp_path: Path) -> None:
    dataset = load(coco([SQUARE]))
    assert dataset.classes == ("dog", "cat")  # by category id, as detectron2's own loader
    assert dataset.category_ids == (3, 7)
    assert dataset.mask_format == "polygon"
    assert dataset.dicts == [
        {
            "file_name": str(tmp_path / "images/a.jpg"),
            "image_id": 5,
            "height": 20,
            "width": 30,
            "annotations": [
                {
                    "bbox": [2, 2, 8, 8],
                    "bbox_mode": 0,  # XYXY_ABS
                    "category_id": 1,
                    "segmentation": [SQUARE],
                    "iscrowd": 0,
                }
            ],
        }
    ]
    assert dataset.report.summary() == "1 of 1 images, 1 of 1 instances kept"


@pytest.mark.parametrize("rle", [RLE, PLAIN_RLE], ids=["compressed", "uncompressed"])
def test_bitmasks(load: Any, rle: Any) -> None:
    dataset = load(coco(rle, [SQUARE]))  # one bitmask: the polygon becomes one too
    assert dataset.mask_format == "bitmask"
    first, second = (a["segmentation"] for a in dataset.dicts[0]["annotations"])
    assert first == RLE
    assert mask_util.area(second) == 36


def test_crowd_is_kept_and_does_not_mix(load: Any) -> None:
    data = coco([SQUARE], PLAIN_RLE)
    data["annotations"][1]["iscrowd"] = 1
    dataset = load(data)
    assert dataset.mask_format == "polygon"
    assert [a["iscrowd"] for a in dataset.dicts[0]["annotations"]] == [0, 1]
    assert dataset.dicts[0]["annotations"][1]["segmentation"] == RLE


def test_crowd_polygons_follow_the_bitmasks(load: Any) -> None:
    data = coco([SQUARE], PLAIN_RLE)
    data["annotations"][0]["iscrowd"] = 1
    dataset = load(data)
    assert dataset.mask_format == "bitmask"
    assert isinstance(dataset.dicts[0]["annotations"][0]["segmentation"], dict)


@pytest.mark.parametrize(
    "segmentations", [([SQUARE], [SQUARE, SQUARE[::-1]]), (RLE, [SQUARE]), ([SQUARE], "crowd")]
)
def test_detectron2_reads_the_dicts(load: Any, segmentations: Any) -> None:
    """Its mapper makes training masks of them, and its COCO conversion evaluates them."""
    data = coco(*(PLAIN_RLE if s == "crowd" else s for s in segmentations))
    for annotation, segmentation in zip(data["annotations"], segmentations, strict=True):
        annotation["iscrowd"] = int(segmentation == "crowd")
    dataset = load(data)
    name = "test_coco_formats"
    DatasetCatalog.register(name, lambda: dataset.dicts)
    MetadataCatalog.get(name).set(thing_classes=list(dataset.classes))
    try:
        converted = convert_to_coco_dict(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    expected = [24 if s in (RLE, "crowd") else 36 for s in segmentations]
    if len(segmentations[1]) == 2 and segmentations[1] is not RLE:
        expected[1] = 72  # detectron2 adds up the areas of overlapping parts
    assert [a["area"] for a in converted["annotations"]] == expected
    cfg = get_cfg()
    cfg.INPUT.MASK_FORMAT = dataset.mask_format
    cfg.MODEL.MASK_ON = True
    instances = DatasetMapper(cfg, is_train=True)(dataset.dicts[0])["instances"]
    assert len(instances) == sum(s != "crowd" for s in segmentations)
    assert len(instances.gt_masks) == len(instances)


@pytest.mark.parametrize(
    "segmentation, reason",
    [
        (None, Reason.NO_MASK),
        ([], Reason.NO_MASK),
        ({}, Reason.NO_MASK),
        ("", Reason.BAD_COORDINATES),
        ([SQUARE[:4]], Reason.TOO_FEW_POINTS),
        ([[2, 2, 4, 4, 6, 6]], Reason.ZERO_AREA),
        ([[40, 2, 50, 2, 50, 8]], Reason.OUTSIDE_IMAGE),
        ({"size": [20, 30], "counts": [600]}, Reason.ZERO_AREA),
        ({"size": [20, 30], "counts": [6]}, Reason.BAD_MASK),
        ({"size": [30, 20], "counts": [100, 500]}, Reason.MASK_OTHER_SIZE),
    ],
)
def test_left_out(load: Any, segmentation: Any, reason: str) -> None:
    dataset = load(coco([SQUARE], segmentation))
    assert dataset.report.left_out == {reason: 1}
    place = dataset.report.places[reason][0]
    assert (Path(place.image).name, place.part, place.number) == ("a.jpg", "annotations", 1)
    assert dataset.report.instances_kept == 1


@pytest.mark.parametrize(
    "segmentation, repair, box",
    [
        ([[2, 2, *SQUARE]], Reason.REPEATED_POINTS, [2, 2, 8, 8]),
        ([[20, 0, 50, 0, 50, 9]], Reason.CLIPPED, [20, 0, 30, 3]),
        ([[4, 4, 5, 4, 5, 5], [1, 1]], Reason.PART_DROPPED, [4, 4, 5, 5]),
        (SQUARE, Reason.NESTED, [2, 2, 8, 8]),  # not wrapped in a list of parts
        ([[[4, 4], [5, 4], [5, 5]]], Reason.NESTED, [4, 4, 5, 5]),  # points as pairs
    ],
)
def test_repaired(load: Any, segmentation: Any, repair: str, box: list[float]) -> None:
    data = coco(segmentation)
    x0, y0, x1, y1 = box
    data["annotations"][0]["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    dataset = load(data)
    assert dataset.report.repaired == {repair: 1}
    assert dataset.dicts[0]["annotations"][0]["bbox"] == box


def test_every_instance_is_judged_by_its_own_parts(load: Any) -> None:
    data = coco([[1, 1], SQUARE], [[20, 0, 50, 0, 50, 9]], [SQUARE])
    data["annotations"][1]["bbox"] = [20, 0, 10, 3]
    dataset = load(data)
    assert dataset.report.repaired == {Reason.PART_DROPPED: 1, Reason.CLIPPED: 1}


@pytest.mark.parametrize(
    "bbox, box, repairs",
    [
        ([2, 2, 6, 6], [2, 2, 8, 8], 0),
        ([1.5, 1.5, 7, 7], [1.5, 1.5, 8.5, 8.5], 0),  # the file's own box, as long as it is sound
        ([-0.5, 2, 8, 6], [0, 2, 7.5, 8], 0),  # up to a pixel outside is cut off without a word
        ([8, 8, -6, -6], [2, 2, 8, 8], 1),  # negative
        ([2, 2, 0, 6], [2, 2, 8, 8], 1),
        ([2, 2, 6], [2, 2, 8, 8], 1),
        ([2, 2, None, 6], [2, 2, 8, 8], 1),
        (None, [2, 2, 8, 8], 1),
    ],
)
def test_boxes(load: Any, bbox: Any, box: list[float], repairs: int) -> None:
    data = coco([SQUARE])
    data["annotations"][0]["bbox"] = bbox
    dataset = load(data)
    assert dataset.dicts[0]["annotations"][0]["bbox"] == box
    assert dataset.report.repaired[Reason.BOX_RECOMPUTED] == repairs


def test_a_box_that_sticks_out_is_clipped(load: Any) -> None:
    data = coco([[0, 2, 8, 2, 8, 20, 0, 20]])
    data["annotations"][0]["bbox"] = [-9, 2, 18, 60]
    dataset = load(data)
    assert dataset.dicts[0]["annotations"][0]["bbox"] == [0, 2, 9, 20]
    assert dataset.report.repaired == {Reason.BOX_CLIPPED: 1}


@pytest.mark.parametrize("segmentation", [[SQUARE], RLE], ids=["polygon", "bitmask"])  # 36, 24
@pytest.mark.parametrize(
    "area, kept, repairs",
    [
        (30.5, True, 0),
        (30, True, 0),
        (5, False, 1),
        (90, False, 1),
        *((value, False, 0) for value in (None, 0, -36, "", True, float("nan"), float("inf"))),
    ],
)
def test_area(load: Any, segmentation: Any, area: Any, kept: bool, repairs: int) -> None:
    data = coco(segmentation)
    data["annotations"][0]["area"] = area
    dataset = load(data)
    annotation = dataset.dicts[0]["annotations"][0]
    assert annotation.get("area") == (area if kept else None)
    assert dataset.report.repaired[Reason.AREA_MISMATCH] == repairs


def test_area_of_two_parts(load: Any) -> None:
    data = coco([[20, 10, 26, 10, 26, 16, 20, 16], SQUARE[::-1]])
    data["annotations"][0]["area"] = 36 * 4 - 1  # below twice their sum, 72
    assert load(data).dicts[0]["annotations"][0]["area"] == 143


def test_positions_count_the_images_left_out(load: Any) -> None:
    data = coco()
    data["images"] = [{"id": k, "file_name": n} for k, n in ((9, "a.jpg"), (2, "b.jpg"))]
    dataset = load(data)
    assert [d["image_id"] for d in dataset.dicts] == [9]
    assert dataset.positions == (1,)  # by image id


def test_images_left_out(load: Any, make_image: Callable[..., Path], tmp_path: Path) -> None:
    sizes = {"b.jpg": (20, 30), "c.jpg": (20, 31), "d.jpg": (20, 30), "e.jpg": (20, 30)}
    data = coco([SQUARE], [SQUARE], [SQUARE])
    for k, (name, (height, width)) in enumerate(sizes.items(), start=6):
        data["images"].append({"id": k, "file_name": name, "height": height, "width": width})
        data["annotations"].append(data["annotations"][0] | {"id": 10 + k, "image_id": k})
    make_image("images/c.jpg")
    make_image("images/d.jpg", orientation=6)
    (tmp_path / "images/e.jpg").write_bytes(b"")
    report = load(data).report
    assert report.images_left_out == {
        Reason.IMAGE_MISSING: 1,
        Reason.IMAGE_OTHER_SIZE: 1,
        Reason.IMAGE_ROTATED: 1,
        Reason.IMAGE_EMPTY: 1,
    }
    assert report.left_out == {Reason.IN_LEFT_OUT_IMAGE: 4}
    assert report.instances_kept == 3
    assert Path(report.places[Reason.IMAGE_MISSING][0].image).name == "b.jpg"
    assert "as 31x20, a viewer shows 30x20" in report.places[Reason.IMAGE_OTHER_SIZE][0].note
    assert "as 30x20, a viewer shows 20x30" in report.places[Reason.IMAGE_ROTATED][0].note


def test_turned_image_annotated_as_shown(load: Any, make_image: Callable[..., Path]) -> None:
    data = coco([SQUARE])
    data["images"] = [{"id": 5, "file_name": "d.jpg", "height": 30, "width": 20}]
    make_image("images/d.jpg", orientation=6)
    assert load(data).dicts[0]["height"] == 30


def test_background_images_are_kept_in_order_of_id(
    load: Any, make_image: Callable[..., Path]
) -> None:
    data = coco([SQUARE])
    data["images"] += [{"id": 2, "file_name": "b.jpg"}, {"id": 11, "file_name": "c.jpg"}]
    for name in ("b.jpg", "c.jpg"):
        make_image(f"images/{name}")
    dataset = load(data)  # without a stated size, too
    assert [(d["image_id"], len(d["annotations"])) for d in dataset.dicts] == [
        (2, 0),
        (5, 1),
        (11, 0),
    ]


def test_duplicate_annotation_ids_and_unknown_images(load: Any) -> None:
    data = coco([SQUARE], [SQUARE], [SQUARE])
    data["annotations"][1] |= {"id": 0, "category_id": 3}
    data["annotations"][2]["image_id"] = 99
    data["annotations"].append(data["annotations"][0] | {})  # the same: read once
    report = load(data).report
    assert report.repaired == {Reason.DUPLICATE_ID: 2}
    assert report.left_out == {Reason.UNKNOWN_IMAGE: 1}
    assert report.instances_kept == 2


@pytest.mark.parametrize(
    "classes, expected, ids",
    [
        (["cat", "dog"], ("cat", "dog"), (7, 3)),  # the user's order
        (["cat"], ("cat",), (7,)),  # a category that no annotation uses may be missing
        (["bird", "cat"], ("bird", "cat"), (8, 7)),  # one the file lacks gets an id of its own
    ],
)
def test_classes(load: Any, classes: list[str], expected: Any, ids: Any) -> None:
    dataset = load(coco([SQUARE]), classes=classes)
    assert (dataset.classes, dataset.category_ids) == (expected, ids)
    category = dataset.dicts[0]["annotations"][0]["category_id"]
    assert dataset.classes[category] == "cat"


def test_unused_category_of_the_same_name(load: Any) -> None:
    # as Roboflow exports it: a supercategory with id 0
    data = coco([SQUARE], categories=[{"id": 0, "name": "cat"}, {"id": 7, "name": "cat"}])
    dataset = load(data)
    assert (dataset.classes, dataset.category_ids) == (("cat",), (7,))
    assert dataset.report.repaired == {Reason.DUPLICATE_CATEGORY: 1}


def changed(path: str, value: Any) -> dict[str, Any]:
    """coco([SQUARE]) with one entry replaced (or removed: ...); path as 'images.0.id'."""
    data = coco([SQUARE])
    *parents, last = [int(p) if p.isdecimal() else p for p in path.split(".")]
    node: Any = data
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return data


@pytest.mark.parametrize(
    "data, message",
    [
        (changed("annotations.0.category_id", 4), r"lacks: '4' \(1 instance\).*ids are \[3, 7\]"),
        (changed("annotations.0.category_id", "cow"), r"lacks: 'cow' \(1 instance\)"),
        (changed("annotations.0.category_id", ...), r"annotations\[0\] has no 'category_id'"),
        (changed("annotations.0.image_id", True), r"annotations\[0\].image_id is True"),
        (changed("annotations.0.iscrowd", 2), r"annotations\[0\].iscrowd is 2"),
        (changed("annotations.0", None), r"annotations\[0\] is None; expected an object"),
        (changed("images.0.id", ...), r"images\[0\] has no 'id'; expected a whole number"),
        (changed("images", [{"id": 4}]), r"1 missing on disk .*no file name is stated"),
        (changed("images.0.height", "20px"), r"images\[0\].height is '20px'"),
        (changed("annotations.0.iscrowd", "yes"), r"iscrowd is 'yes'; expected 0 for an object"),
        (changed("categories.0.name", None), r"categories\[0\].name is None"),
        (changed("images", {}), "images is {}; expected a list"),
        (changed("images", []), "lists no images"),
        (changed("images", [{"id": 4, "file_name": "b.jpg"}]), "1 missing on disk .*b.jpg"),
        (
            changed("images", [{"id": 4, "file_name": n} for n in "bc"]),
            r"not unique: 4 \(2 times\)",
        ),
        (changed("categories", ...), "no 'categories'"),
        (changed("categories.1.id", 7), "category id 7 is both 'cat' and 'dog'"),
        ([], "a list of 0 items"),
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "a COCO results file"),
        (
            {"a.jpg1": {"filename": "a.jpg", "regions": []}},
            r"looks like a VIA json \(format: via\)",
        ),
        ({"shapes": [], "imagePath": "a.jpg"}, "looks like a labelme json"),
        ({"project": {}, "metadata": {}, "view": {}}, "VIA 3"),
        ({"x": 1}, "an object with the keys x"),
        (17, "looks like 17"),
    ],
)
def test_errors(load: Any, data: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as error:
        load(data)
    assert "annotations.json" in str(error.value)


def test_categories_of_one_name_that_are_both_used(load: Any) -> None:
    data = coco([SQUARE], [SQUARE], categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cat"}])
    data["annotations"][0]["category_id"] = 3
    with pytest.raises(DatasetError, match="categories 3 and 7 are both named 'cat'"):
        load(data)


@pytest.mark.parametrize(
    "classes, message",
    [
        (["dog", "cats"], r"'cat' \(2 instances; did you mean 'cats'\?\)"),
        (["dog", "dog"], "'dog' more than once"),
        ([], "at least one name"),
        ([""], "at least one name"),
        ([3], "at least one name"),
        ("cat", r"classes is 'cat'; expected a list of names"),
    ],
)
def test_errors_of_classes(load: Any, classes: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(coco([SQUARE], [SQUARE]), classes=classes)
