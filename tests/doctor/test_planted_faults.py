"""Every fault that is planted in a faultless COCO dataset is found, with its place."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from transfer_maskrcnn.doctor import Diagnosis, page_data
from transfer_maskrcnn.doctor.findings import advice

from .conftest import HEIGHT, WIDTH, Planted, annotation, area_of, blob, picture

Plant = Callable[[Planted, Planted], None]


def _image(change: Callable[[Planted], object]) -> Plant:
    return lambda train, val: change(train)


def _shape(**fields: Any) -> Plant:
    """Set fields of annotation 4, the second of image 2."""
    return lambda train, val: train.annotations[4].update(fields)


def _polygons(*polygons: list[float]) -> Plant:
    """Another mask for annotation 4, with box and area that fit the first polygon."""

    def plant(train: Planted, val: Planted) -> None:
        fitting = annotation(5, 2, 1, polygons[0])
        area = sum(area_of(polygon) for polygon in polygons)
        xs = [x for polygon in polygons for x in polygon[::2]]
        ys = [y for polygon in polygons for y in polygon[1::2]]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        fitting |= {"segmentation": list(polygons), "area": area, "bbox": box}
        train.annotations[4].update(fitting)

    return plant


def _rle(counts: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Plant:
    return _shape(segmentation={"size": list(size), "counts": counts})


def _add(make: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        new = copy.deepcopy(make(train.annotations))
        train.annotations.append(new | {"id": 1000})

    return plant


def _save(train: Planted, image: Image.Image, **options: Any) -> None:
    """Write image 3 in another way; a suffix that fits it, where PNG cannot hold it."""
    suffix = options.pop("suffix", ".png")
    train.image(3).unlink()
    train.content["images"][2]["file_name"] = f"003{suffix}"
    image.save(train.image(3), **options)


def _with_orientation(orientation: int, suffix: str) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        image = Image.fromarray(picture(3))
        exif = Image.Exif()
        exif[0x0112] = orientation
        _save(train, image, exif=exif, suffix=suffix)

    return plant


def _transparent(train: Planted, val: Planted) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:9] = 0
    _save(train, Image.fromarray(np.concatenate([picture(3), alpha], axis=2)))


def _deep(train: Planted, val: Planted) -> None:
    _save(train, Image.fromarray(picture(3)[..., 0].astype(np.uint16) * 256))


def _rename(number: int, name: str) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        for dataset in (train, val):
            dataset.content["categories"][number]["name"] = name

    return plant


def _number_labels(train: Planted, val: Planted) -> None:
    for dataset in (train, val):
        dataset.content["categories"] = [{"id": k, "name": f"nut{k}"} for k in range(1, 5)]
    for k, one in enumerate(train.annotations + val.annotations):
        one["category_id"] = k % 4 + 1


def _similar_labels(train: Planted, val: Planted) -> None:
    _rename(1, "Nuts")(train, val)


def _unused_class(train: Planted, val: Planted) -> None:
    for dataset in (train, val):
        dataset.content["categories"].append({"id": 3, "name": "washer"})


def _class_in_one(dataset: Callable[[Planted, Planted], Planted]) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        _unused_class(train, val)
        for one in dataset(train, val).annotations[:12]:
            one["category_id"] = 3

    return plant


def _imbalance(train: Planted, val: Planted) -> None:
    for one in train.annotations[1:]:
        one["category_id"] = 1


def _copy_image(train: Planted, val: Planted) -> None:
    shutil.copy(train.image(3), val.image(2))


def _recompressed(train: Planted, val: Planted) -> None:
    twice = cv2.resize(cv2.imread(str(train.image(3))), None, fx=2, fy=2)
    val.image(2).unlink()
    val.content["images"][1] |= {"file_name": "002.jpg", "height": 144, "width": 192}
    cv2.imwrite(str(val.image(2)), twice, [cv2.IMWRITE_JPEG_QUALITY, 70])


def _twice_in_train(train: Planted, val: Planted) -> None:
    shutil.copy(train.image(3), train.image(5))


def _large(train: Planted, val: Planted) -> None:
    cv2.imwrite(str(train.image(3)), picture(3, 8 * HEIGHT, 8 * WIDTH))
    train.content["images"][2] |= {"height": 8 * HEIGHT, "width": 8 * WIDTH}


def _many(train: Planted, val: Planted) -> None:
    spots = [blob(6 + 8 * (k % 11), 5 + 6 * (k // 11), 2.8) for k in range(110)]
    train.annotations.extend(annotation(500 + k, 2, 1, spot) for k, spot in enumerate(spots))


def _sized(radius: float) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        for i in range(1, 8):
            old = train.annotations[3 * i]
            new = blob(WIDTH / 2, HEIGHT / 2, radius)
            old.update(annotation(old["id"], old["image_id"], 1, new))

    return plant


def _long(train: Planted, val: Planted) -> None:
    for i in range(1, 8):
        old = train.annotations[3 * i]
        bar = [5.0, 10.0, 90.0, 11.0, 90.0, 15.0, 5.0, 14.0]
        old.update(annotation(old["id"], old["image_id"], 1, bar))


def _no_objects(train: Planted, val: Planted) -> None:
    train.content["annotations"] = [a for a in train.annotations if a["image_id"] != 3]


def _write(data: bytes) -> Plant:
    return _image(lambda train: train.image(3).write_bytes(data))


def _cut(train: Planted, val: Planted) -> None:
    data = train.image(3).read_bytes()
    train.image(3).write_bytes(data[: len(data) // 2])


def _one_id(train: Planted, val: Planted) -> None:
    train.annotations[4]["id"] = train.annotations[1]["id"]


def _double_category(train: Planted, val: Planted) -> None:
    train.content["categories"].insert(0, {"id": 9, "name": "nut"})


def _same_image_id(train: Planted, val: Planted) -> None:
    train.content["images"][1]["id"] = 1


def _other_classes(train: Planted, val: Planted) -> None:
    val.content["categories"].reverse()
    for one, name in zip(val.content["categories"], ("bolt", "nut"), strict=True):
        one |= {"id": 1 if name == "bolt" else 2}


def _declared(*classes: str) -> Plant:
    return lambda train, val: train.options.update(classes=classes)


def _wrong_case(train: Planted, val: Planted) -> None:
    train.image(3).rename(train.root / "003.PNG")


def _twice(first: list[float]) -> list[float]:
    return [*first[:4], *first[2:4], *first[4:]]


def _all_crowds(train: Planted, val: Planted) -> None:
    for one in train.annotations:
        one["iscrowd"] = 1


def _case_in_val(train: Planted, val: Planted) -> None:
    val.content["categories"][1]["name"] = "Bolt"


def _moved(change: Callable[[float, float], tuple[float, float]]) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        for one in train.annotations:
            polygon = one["segmentation"][0]
            points = [change(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
            moved = [value for point in points for value in point]
            one.update(annotation(one["id"], one["image_id"], one["category_id"], moved))

    return plant


_shifted = _moved(lambda x, y: (x - 20, y - 20))
_exchanged = _moved(lambda x, y: (y, x))


def _hole(area: float) -> Plant:
    def plant(train: Planted, val: Planted) -> None:
        _polygons(blob(46, 30, 20), SPOT)(train, val)
        train.annotations[4]["area"] = area

    return plant


def _brush(train: Planted, val: Planted) -> None:
    for one in train.annotations[3:6]:
        rle = mask_util.merge(mask_util.frPyObjects(one["segmentation"], HEIGHT, WIDTH))
        one |= {"segmentation": {**rle, "counts": rle["counts"].decode()}, "iscrowd": 1}


def _listed_twice(train: Planted, val: Planted) -> None:
    train.content["images"].append(train.content["images"][1] | {"id": 77})
    train.annotations.append(annotation(1000, 77, 1, blob(16, 60)))
    train.annotations.append(train.annotations[4] | {"id": 1001, "image_id": 77})


def _size_exchanged(train: Planted, val: Planted) -> None:
    for image in train.content["images"][2:]:
        image |= {"height": WIDTH, "width": HEIGHT}


def _supercategory(train: Planted, val: Planted) -> None:
    for dataset in (train, val):
        categories = dataset.content["categories"]
        for category in categories:
            category["supercategory"] = "iron"
        categories.insert(0, {"id": 0, "name": "iron", "supercategory": "none"})


def _corners(train: Planted, val: Planted) -> None:
    for one in train.annotations:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]


def _halved(train: Planted, val: Planted) -> None:
    for one in train.annotations:
        one["segmentation"] = [[v / 2 for v in part] for part in one["segmentation"]]


def _fractions(train: Planted, val: Planted) -> None:
    sizes = {image["id"]: (image["width"], image["height"]) for image in train.content["images"]}
    for one in train.annotations:
        size = sizes[one["image_id"]]
        one["segmentation"] = [
            [v / size[k % 2] for k, v in enumerate(part)] for part in one["segmentation"]
        ]


def _beyond(train: Planted, val: Planted) -> None:
    box = [76.0, 20.0, 96.0, 20.0, 96.0, 40.0, 76.0, 40.0]
    _polygons(box)(train, val)
    train.annotations[4]["bbox"] = [76, 20, 40, 20]


def _pairs(polygon: list[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(polygon[::2], polygon[1::2], strict=True)]


def _box_masks(train: Planted, val: Planted) -> None:
    for one in train.annotations:
        x, y, width, height = one["bbox"]
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        one |= {"segmentation": [corners], "area": width * height}


STAR = [30.0, 10.0, 60.0, 50.0, 20.0, 25.0, 64.0, 25.0, 25.0, 50.0]
SPOT = blob(46, 30)
NEAR = [value + 0.3 for value in SPOT]
ON_IMAGE_2 = ("'item': 'annotations[4]', 'id': 5", "002.png")
NEW = ("'item': 'annotations[24]', 'id': 1000",)

# name: what is done, the kind that has to be found, what its places have to name
FAULTS: dict[str, tuple[Plant, str, tuple[str, ...]]] = {
    # files
    "missing image": (_image(lambda t: t.image(3).unlink()), "image_missing", ("003.png",)),
    "file name in other case": (_wrong_case, "found_elsewhere", ("003.PNG", "'003.png'")),
    "a path of Windows": (
        _image(lambda t: t.content["images"][2].update(file_name=".\\003.png")),
        "name_spelt",
        ("003.png",),
    ),
    "zero bytes": (_write(b""), "image_empty", ("003.png",)),
    "a web page": (_write(b"<html>404"), "image_no_image", ("003.png", "<html>404")),
    "truncated": (_cut, "image_truncated", ("003.png",)),
    "16 bit": (_deep, "image_deep", ("003.png",)),
    "alpha": (_transparent, "image_alpha", ("003.png",)),
    "grey": (
        _image(lambda t: _save(t, Image.fromarray(picture(3)).convert("L"))),
        "image_grey_mixed",
        ("003.png",),
    ),
    "CMYK": (
        _image(lambda t: _save(t, Image.fromarray(picture(3)).convert("CMYK"), suffix=".jpg")),
        "image_cmyk",
        ("003.jpg",),
    ),
    "other size": (
        _image(lambda t: t.content["images"][2].update(width=WIDTH + 1)),
        "image_size",
        ("003.png", "annotated as 97x72", "96x72"),
    ),
    "EXIF quarter turn": (_with_orientation(6, ".jpg"), "image_rotated", ("003.jpg",)),
    "EXIF upside down": (
        _with_orientation(3, ".jpg"),
        "exif_unclear",
        ("003.jpg", "'orientation': 3"),
    ),
    "TIFF with EXIF": (_with_orientation(3, ".tif"), "image_turned_tiff", ("003.tif",)),
    "copy in val": (_copy_image, "same_image_across", ("002.png", "'same_file': ", "003.png")),
    "resized copy in val": (_recompressed, "same_image_across", ("002.jpg", "'looks_like': ")),
    "copy in train": (_twice_in_train, "same_image_in_set", ("005.png", "003.png")),
    "large image": (_large, "image_large", ("003.png", "'width': 768, 'height': 576")),
    # what the loader leaves out or mends
    "fewer than 3 points": (
        _shape(segmentation=[[1.0, 1.0, 5.0, 5.0]]),
        "too_few_points",
        ON_IMAGE_2,
    ),
    "not a number": (_shape(segmentation=[[1.0, 1.0, None, 5.0]]), "bad_coordinates", ON_IMAGE_2),
    "outside": (_polygons(blob(300, 300)), "outside_image", ON_IMAGE_2),
    "on one line": (_polygons([5.0, 5.0, 20.0, 20.0, 30.0, 30.0]), "zero_area", ON_IMAGE_2),
    "box only": (_shape(segmentation=[]), "no_mask", ON_IMAGE_2),
    "malformed RLE": (_rle([5, 5]), "bad_rle", ON_IMAGE_2),
    "RLE of another size": (_rle([5, 10, 9985], (100, 100)), "rle_size", ON_IMAGE_2),
    "RLE transposed": (_rle([5, 10, 6897], (WIDTH, HEIGHT)), "rle_size", ON_IMAGE_2),
    "of no image": (_shape(image_id=77), "unknown_image", ("'id': 5", "image_id 77")),
    "beyond the border": (_polygons(blob(95, 30)), "clipped", ON_IMAGE_2),
    "repeated points": (_polygons(_twice(SPOT)), "repeated_points", ON_IMAGE_2),
    "a useless part": (_polygons(SPOT, [1.0, 1.0, 2.0, 2.0]), "part_dropped", ON_IMAGE_2),
    "box without area": (_shape(bbox=[10, 10, 0, 5]), "box_recomputed", ON_IMAGE_2),
    "box beyond the border": (_beyond, "box_clipped", ON_IMAGE_2),
    "one id twice": (_one_id, "duplicate_id", ("'annotations[4]', 'id': 2",)),
    "a category twice": (_double_category, "duplicate_category", ("'nut'",)),
    # what stops the loader
    "one image id twice": (_same_image_id, "unloadable", ("toy_train.json", "1 (2 times)")),
    "unknown category": (_shape(category_id=9), "unloadable", ("'9' (1 instance)",)),
    "misspelt class": (_declared("nut", "bold"), "unloadable", ("'bolt'", "'bold'")),
    # instances
    "a hole": (_hole(area_of(blob(46, 30, 20)) - area_of(SPOT)), "holes", ON_IMAGE_2),
    "a part in a part": (_hole(area_of(blob(46, 30, 20))), "part_in_part", ON_IMAGE_2),
    "brush masks as crowds": (_brush, "crowds", ("annotations[4]", "crowds: instances")),
    "one file twice": (_listed_twice, "same_file", ("002.png", "id 2 and id 77: 3 and 1 inst")),
    "width and height exchanged": (
        _size_exchanged,
        "size_exchanged",
        ("003.png", "annotated as 72x96, and fits 96x72"),
    ),
    "a supercategory": (_supercategory, "supercategory", ("'iron'",)),
    "a box of texts": (_shape(bbox=["38.0", "21.0", "18.0", "18.0"]), "other_type", ON_IMAGE_2),
    "boxes of corners": (_corners, "box_off", ("looks like x0, y0, x1, y1;", "annotations[4]")),
    "masks at half size": (_halved, "mask_off", ("2 times as large", "annotations[4]")),
    "fractions throughout": (_fractions, "fractions", ("annotations[4]",)),
    "box of something else": (_shape(bbox=[2.0, 2.0, 9.0, 9.0]), "box_off", ON_IMAGE_2),
    "area field": (_shape(area=33.0), "area_wrong", (*ON_IMAGE_2, "area 33, the mask has")),
    "area field, near": (_shape(area=area_of(SPOT) * 1.3), "area_wrong", ON_IMAGE_2),
    "tiny": (_polygons(blob(46, 30, 1.2)), "tiny", ON_IMAGE_2),
    "crosses itself": (_polygons(STAR), "self_crossing", ON_IMAGE_2),
    "twice": (_add(lambda a: a[4]), "duplicate", (*NEW, "'iou': 1.0")),
    "nearly twice": (
        _add(
            lambda a: annotation(
                0, 2, a[4]["category_id"], [v + 0.4 for v in a[4]["segmentation"][0]]
            )
        ),
        "near_duplicate",
        (*NEW, "'iou': 0.9"),
    ),
    "two classes": (
        _add(lambda a: a[4] | {"category_id": 3 - a[4]["category_id"]}),
        "two_classes",
        NEW,
    ),
    "a box as mask": (
        _polygons([30.0, 20.0, 60.0, 20.0, 60.0, 50.0, 30.0, 50.0]),
        "only_boxes",
        ON_IMAGE_2,
    ),
    "nothing but boxes": (_box_masks, "all_boxes", ON_IMAGE_2),
    "a semantic mask": (
        _polygons(*(blob(x, y, 7) for x in (20, 40, 60) for y in (20, 50))),
        "many_pieces",
        (*ON_IMAGE_2, "'pieces': 6"),
    ),
    "a crowd": (_shape(iscrowd=1), "only_crowd", ON_IMAGE_2),
    "normalised": (
        _polygons([0.2, 0.2, 0.8, 0.2, 0.8, 0.9, 0.2, 0.9]),
        "normalised",
        ON_IMAGE_2,
    ),
    "shifted by a crop": (_shifted, "misplaced", ("'annotations[0]', 'id': 1",)),
    "x and y exchanged": (_exchanged, "misplaced", ("'annotations[8]', 'id': 9",)),
    "a flat list of numbers": (_shape(segmentation=SPOT), "nested", ON_IMAGE_2),
    "pairs of numbers": (_shape(segmentation=[_pairs(SPOT)]), "nested", ON_IMAGE_2),
    "no annotation": (
        _image(lambda t: t.annotations.clear()),
        "nothing_to_learn",
        ("toy_train.json",),
    ),
    "crowds alone": (_all_crowds, "nothing_to_learn", ("toy_train.json",)),
    # classes
    "a background": (_rename(1, "background"), "background_class", ("'background'",)),
    "another case in val": (_case_in_val, "similar_names", ("('bolt', 'Bolt')",)),
    "numbered labels": (_number_labels, "instance_numbers", ("'nut1'", "'nut4'")),
    "labels that differ by a letter": (_similar_labels, "similar_names", ("'nut'", "'Nuts'")),
    "a slip of the pen": (
        lambda t, v: (_rename(0, "washer")(t, v), _rename(1, "wahser")(t, v), None)[-1],
        "similar_names",
        ("'washer'", "'wahser'"),
    ),
    "a class without instances": (_unused_class, "class_unused", ("'washer'",)),
    "a class only in train": (_class_in_one(lambda t, v: t), "class_not_in_val", ("'washer'",)),
    "a class only in val": (_class_in_one(lambda t, v: v), "class_not_in_train", ("'washer'",)),
    "classes in another order": (_other_classes, "classes_differ", ("toy_train.json",)),
    "imbalance": (_imbalance, "imbalance", ("'nut'", "'bolt'", "'instances': 1")),
    "rare class": (_imbalance, "few_examples", ("'bolt'",)),
    # what does not fit the config
    "an image without objects": (_no_objects, "empty_images", ("003.png",)),
    "too small for the anchors": (_sized(2.6), "anchors_small", ("annotations[3]", "002.png")),
    "too long for the anchors": (
        _long,
        "anchors_large",
        ("annotations[3]", "'width': 85.0, 'height': 5.0"),
    ),
    "more than the limit": (_many, "over_limit", ("002.png", "'objects': 113")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_with_its_place(
    train: Planted, val: Planted, diagnose: Callable[..., Diagnosis], fault: str
) -> None:
    plant, kind, named = FAULTS[fault]
    plant(train, val)
    diagnosis = diagnose(train, val)
    found = [f for f in diagnosis.findings if f.kind == kind]
    assert found, [f.kind for f in diagnosis.findings]
    text = "\n".join(str(asdict(place)) for f in found for place in f.places)
    assert all(part in text for part in named), text
    assert all(place.line for f in found for place in f.places if "[" in place.item)
    assert all(f.as_json()["severity"] == advice()[kind]["severity"] for f in found)  # words, too
    for shown, one in zip(page_data(diagnosis)["findings"], diagnosis.findings, strict=True):
        has_image = any(Path(place.image).is_file() for place in one.places)
        assert bool(shown["pictures"]) == has_image, one.kind
        for k, drawn in shown["pictures"]:  # of instances that were kept, the ones that are meant
            assert drawn["shapes"] or drawn["width"] is None or one.kind == "empty_images"
            assert one.kind not in ("clipped", "repeated_points") or one.places[k].drawn


def test_crowds_are_counted_apart(
    train: Planted, diagnose: Callable[..., Diagnosis], tmp_path: Path
) -> None:
    for one in train.annotations[:2]:
        one["iscrowd"] = 1
    (told,) = diagnose(train).as_json()["datasets"]
    assert told["instances"] == 22 and told["counted"] == "8 images, 22 instances, 2 crowd regions"


def test_an_image_that_lost_its_instances_to_errors_is_not_empty(
    train: Planted, val: Planted, diagnose: Callable[..., Diagnosis]
) -> None:
    _no_objects(train, val)
    for one in train.annotations[:3]:
        one["segmentation"] = [[1.0, 1.0, 5.0, 5.0]]
    (found,) = (f for f in diagnose(train).findings if f.kind == "empty_images")
    assert [Path(place.image).name for place in found.places] == ["003.png"]


@pytest.mark.parametrize(("copied", "case"), [(2, "some"), (7, "frames")])
def test_the_remedy_for_frames_of_one_video_is_another(
    train: Planted, val: Planted, diagnose: Callable[..., Diagnosis], copied: int, case: str
) -> None:
    for number in range(2, 2 + copied):
        shutil.copy(train.image(1), train.image(number))
    shutil.copy(train.image(1), val.image(1))
    (within,) = (f for f in diagnose(train).findings if f.kind == "same_image_in_set")
    assert within.as_json()["fix"] == advice()["same_image_in_set"]["fix"][case].format()


def test_nothing_is_found_where_there_is_no_fault(
    train: Planted, val: Planted, diagnose: Callable[..., Diagnosis]
) -> None:
    assert diagnose(train, val).findings == ()


def test_there_are_more_than_forty_faults() -> None:
    assert len(FAULTS) >= 40
