"""COCO json whose values are not what COCO wants: what is meant is read, counted, and no more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.data.formats import LoadedDataset, load_coco_json
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.masks import polygons_area, polygons_to_rle
from transfer_maskrcnn.doctor.fix import repair
from transfer_maskrcnn.errors import DatasetError

HEIGHT, WIDTH = 40, 60
Content = dict[str, Any]
Change = Callable[[Content], object]
Load = Callable[..., LoadedDataset]


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


OUTER, HOLE, ISLAND = square(10, 5, 30), square(15, 10, 20), square(20, 15, 6)
BESIDE, ACROSS = square(45, 5, 10), square(30, 20, 15)


def content() -> Content:
    """Two images of 60 x 40 with two squares each, in every way as COCO wants it."""
    corners = [(5, 5, 10), (20, 12, 20), (3, 20, 12), (40, 2, 15)]
    return {
        "images": [
            {"id": k, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
            for k, name in ((3, "a"), (7, "b"))
        ],
        "annotations": [
            {
                "id": k,
                "image_id": 3 if k < 2 else 7,
                "category_id": 1 + k % 2,
                "segmentation": [square(x, y, side)],
                "bbox": [x, y, side, side],
                "area": side * side,
                "iscrowd": 0,
            }
            for k, (x, y, side) in enumerate(corners)
        ],
        "categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}],
    }


@pytest.fixture
def load(make_image: Callable[..., Path], write_json: Any, check_counts: Any) -> Load:
    def load(data: Content, **options: Any) -> LoadedDataset:
        for name in ("a", "b"):
            make_image(f"images/{name}.png", HEIGHT, WIDTH)
        path = write_json(data)
        dataset = load_coco_json(path, path.parent / "images", **options)
        check_counts(dataset)
        return dataset

    return load


def of_all(list_name: str, key: str, change: Callable[[Any], Any]) -> Change:
    def apply(data: Content) -> None:
        for record in data[list_name]:
            record[key] = change(record[key])

    return apply


def both(first: Change, second: Change) -> Change:
    return lambda data: (first(data), second(data))


def in_list(*parts: int) -> Change:
    """Masks as RLE within a list; of an instance, in as many parts as there are ``parts``."""

    def rles(polygons: Any) -> list[Any]:
        x, y, side = int(polygons[0][0]), int(polygons[0][1]), int(polygons[0][2] - polygons[0][0])
        found = []
        for k in range(len(parts)):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            mask[y : y + side, x + k : x + side : len(parts)] = 1
            found.append(mask_util.encode(mask))
        return [{**rle, "counts": rle["counts"].decode()} for rle in found]

    return of_all("annotations", "segmentation", rles)


def texts(rle: dict[str, Any]) -> dict[str, Any]:
    columns = mask_util.decode(rle).ravel(order="F")
    ends = np.append(np.flatnonzero(np.diff(columns)) + 1, columns.size)
    runs = np.diff(ends, prepend=0).tolist()
    return {"size": [str(n) for n in rle["size"]], "counts": list(map(str, runs))}


def in_fractions(numbers: list[float]) -> list[float]:
    return [v / (HEIGHT if k % 2 else WIDTH) for k, v in enumerate(numbers)]


NAMES = {3: "a", 7: "b"}
# what is done to sound content; what is counted; ids of images
MEANT: dict[str, tuple[Change, dict[Reason, int], list[int]]] = {
    "image_id as text": (of_all("annotations", "image_id", str), {Reason.OTHER_TYPE: 4}, [3, 7]),
    "all ids as text": (
        both(of_all("annotations", "image_id", str), of_all("images", "id", str)),
        {Reason.OTHER_TYPE: 6},
        [3, 7],
    ),
    # stems as ids: they are numbered in order
    "names as ids": (
        both(
            of_all("annotations", "image_id", NAMES.__getitem__),
            of_all("images", "id", NAMES.__getitem__),
        ),
        {Reason.OTHER_TYPE: 6},
        [1, 2],
    ),
    "ids as file names": (
        of_all("annotations", "image_id", lambda k: f"{NAMES[k]}.png"),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "category_id as text": (
        of_all("annotations", "category_id", str),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "category_id as name": (
        of_all("annotations", "category_id", {1: "nut", 2: "bolt"}.__getitem__),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "sizes as text": (
        both(of_all("images", "height", str), of_all("images", "width", lambda w: f"{w}.0")),
        {Reason.OTHER_TYPE: 2},
        [3, 7],
    ),
    "no iscrowd": (
        of_all("annotations", "iscrowd", lambda _: None),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "iscrowd as text": (of_all("annotations", "iscrowd", str), {Reason.OTHER_TYPE: 4}, [3, 7]),
    "iscrowd false": (of_all("annotations", "iscrowd", bool), {}, [3, 7]),
    "coordinates as text": (
        of_all("annotations", "segmentation", lambda parts: [list(map(str, parts[0]))]),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "boxes and areas as text": (
        both(
            of_all("annotations", "bbox", lambda box: list(map(str, box))),
            of_all("annotations", "area", str),
        ),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "an RLE in a list": (in_list(1), {Reason.NESTED: 4}, [3, 7]),
    "RLEs in a list": (in_list(1, 2), {Reason.NESTED: 4}, [3, 7]),
    # size and run lengths as text
    "an RLE of texts": (
        both(
            in_list(1),
            of_all("annotations", "segmentation", lambda rles: [texts(rle) for rle in rles]),
        ),
        {Reason.NESTED: 4, Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    "json within json": (
        of_all("annotations", "segmentation", json.dumps),
        {Reason.OTHER_TYPE: 4},
        [3, 7],
    ),
    # merged files
    "an image listed twice": (
        lambda data: data["images"].append(data["images"][0] | {}),
        {Reason.SAME_FILE: 1},
        [3, 7],
    ),
    "LVIS": (
        lambda data: [
            r.update(coco_url=f"http://x/y/{r.pop('file_name')}") for r in data["images"]
        ],
        {},
        [3, 7],
    ),
    "a list of pairs": (
        of_all("annotations", "segmentation", lambda p: np.reshape(p, (-1, 2)).tolist()),
        {Reason.NESTED: 4},
        [3, 7],
    ),
    # the size that the file has
    "sizes of 0": (
        both(of_all("images", "height", lambda _: 0), of_all("images", "width", lambda _: 0)),
        {},
        [3, 7],
    ),
    "width and height exchanged": (
        both(
            of_all("images", "height", lambda _: WIDTH), of_all("images", "width", lambda _: HEIGHT)
        ),
        {Reason.SIZE_EXCHANGED: 2},
        [3, 7],
    ),
    "the same with bitmasks": (
        both(
            in_list(1),
            both(
                of_all("images", "height", lambda _: WIDTH),
                of_all("images", "width", lambda _: HEIGHT),
            ),
        ),
        {Reason.NESTED: 4, Reason.SIZE_EXCHANGED: 2},
        [3, 7],
    ),
    "x0, y0, x1, y1": (
        of_all("annotations", "bbox", lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]),
        {Reason.BOX_OFF: 4},
        [3, 7],
    ),
    "fractions of the image": (
        of_all("annotations", "segmentation", lambda p: [in_fractions(p[0])]),
        {Reason.FRACTIONS: 4},
        [3, 7],
    ),
    "the same with boxes": (
        both(
            of_all("annotations", "segmentation", lambda p: [in_fractions(p[0])]),
            both(
                of_all("annotations", "bbox", in_fractions),
                of_all("annotations", "area", lambda area: area / WIDTH / HEIGHT),
            ),
        ),
        {Reason.FRACTIONS: 4},
        [3, 7],
    ),
    # an unused category above all others, as Roboflow writes it
    "a supercategory": (
        both(
            lambda data: data["categories"].insert(0, {"id": 0, "name": "iron"}),
            lambda data: [c.update(supercategory="iron") for c in data["categories"] if c["id"]],
        ),
        {Reason.SUPERCATEGORY: 1},
        [3, 7],
    ),
    "an unused category without a name": (
        lambda data: data["categories"].append({"id": 5, "name": None}),
        {},
        [3, 7],
    ),
}


@pytest.mark.parametrize("fault", MEANT)
def test_what_is_meant_is_read(load: Load, fault: str) -> None:
    change, counted, ids = MEANT[fault]
    sound, data = load(content()), content()
    change(data)
    dataset = load(data)
    assert dataset.report.repaired == counted and not dataset.report.left_out
    assert [record["image_id"] for record in dataset.dicts] == ids
    assert dataset.classes == ("nut", "bolt")
    for one, other in zip(dataset.dicts, sound.dicts, strict=True):
        assert (one["height"], one["width"]) == (HEIGHT, WIDTH)
        for a, b in zip(one["annotations"], other["annotations"], strict=True):
            mask = a["segmentation"]
            rle = mask if isinstance(mask, dict) else polygons_to_rle(mask, HEIGHT, WIDTH)
            assert rle == polygons_to_rle(b["segmentation"], HEIGHT, WIDTH)
            for key in ("bbox", "area", "category_id", "iscrowd"):
                assert a.get(key, b[key]) == pytest.approx(b[key])


def test_names_of_classes_as_numbers(load: Load) -> None:
    data = content()
    of_all("categories", "name", {"nut": 1, "bolt": 2}.__getitem__)(data)
    dataset = load(data)
    assert dataset.classes == ("1", "2")
    assert dataset.report.repaired == {Reason.OTHER_TYPE: 2}


def test_an_image_that_was_turned_after_it_was_annotated_stays_out(
    load: Load, make_image: Callable[..., Path]
) -> None:
    data = content()
    data["annotations"] = data["annotations"][:1]  # fits 60 x 40, and 40 x 60 as well
    of_all("images", "height", lambda _: WIDTH)(data)
    of_all("images", "width", lambda _: HEIGHT)(data)
    with pytest.raises(DatasetError, match="2 whose size differs"):
        load(data)


# factor, or another form of x0, y0, x1, y1; what the note calls it
FORMS = [
    (lambda x0, y0, x1, y1: (x0, y0, x1, y1), "x0, y0, x1, y1;"),
    (lambda x0, y0, x1, y1: ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), "centre x, y, width"),
    (
        lambda x0, y0, x1, y1: (x0 / 60, y0 / 40, (x1 - x0) / 60, (y1 - y0) / 40),
        "x, y, width, height in fractions",
    ),
    (
        lambda x0, y0, x1, y1: (x0 / 2, y0 / 2, (x1 - x0) / 2, (y1 - y0) / 2),
        "x, y, width, height, 0.5 times as large",
    ),
    (lambda x0, y0, x1, y1: (y0, x0, y1 - y0, x1 - x0), "y, x, height, width;"),
]


@pytest.mark.parametrize(("form", "words"), FORMS)
def test_what_boxes_look_like(load: Load, form: Any, words: str) -> None:
    data, sound = content(), load(content())
    of_all("annotations", "bbox", lambda b: [*form(b[0], b[1], b[0] + b[2], b[1] + b[3])])(data)
    report = load(data).report
    assert report.repaired[Reason.BOX_OFF] >= 3  # one may be right in both forms
    assert words in report.places[Reason.BOX_OFF][0].note and report.needs_a_look
    assert [d["annotations"][0]["bbox"] for d in load(data).dicts] == [
        d["annotations"][0]["bbox"] for d in sound.dicts
    ]


# What was done to all masks, whose boxes and areas are right; to areas
AGAINST: list[tuple[Callable[[float], float], Change]] = [
    (lambda value: value / 2, lambda data: None),
    (lambda value: value + 6, lambda data: None),
    (lambda value: value + 6, of_all("annotations", "area", lambda _: None)),
]


@pytest.mark.parametrize(("move", "more"), AGAINST)
def test_box_and_area_against_the_mask(load: Load, move: Any, more: Change) -> None:
    data = content()
    of_all("annotations", "segmentation", lambda p: [list(map(move, p[0]))])(data)
    more(data)
    dataset = load(data)
    assert (dataset.report.doubted, dataset.report.repaired) == ({Reason.MASK_OFF: 4}, {})
    with pytest.raises(DatasetError, match="4 whose box and area fit each other, but not the mask"):
        repair(dataset, Path("never"))


# box of an instance that reaches from 50 to 70, beyond the image; what is counted beside CLIPPED
CUT = [
    ([50, 5, 10, 10], None),
    ([50, 5, 20, 10], Reason.BOX_CLIPPED),
    ([2, 5, 68, 31], Reason.BOX_RECOMPUTED),  # with the part that is dropped
    ([20, 5, 9, 9], Reason.BOX_OFF),
]


@pytest.mark.parametrize(("box", "reason"), CUT)
def test_boxes_of_what_was_clipped(load: Load, box: Any, reason: Any) -> None:
    data = content()
    polygon = [50, 5, 70, 5, 70, 15, 50, 15]
    data["annotations"][0] |= {
        "segmentation": [polygon, [2, 30, 3, 36, 2, 30]],
        "bbox": box,
        "area": 200,
    }
    report = load(data).report
    beside = set(report.repaired) - {Reason.CLIPPED, Reason.PART_DROPPED}
    assert beside == ({reason} if reason else set())


# polygons, stated area; the mask's area, repairs, doubts
RINGS = [
    ([OUTER, HOLE], None, 500, 1, 0),
    ([OUTER, HOLE[::-1]], 500, 500, 1, 0),  # drawn the other way round
    ([HOLE, OUTER], 500, 500, 1, 0),
    ([OUTER, HOLE, ISLAND], None, 536, 1, 0),  # a part within a hole
    ([OUTER, square(10, 10, 20)], None, 500, 1, 0),  # along the edge
    ([OUTER, square(12, 7, 10), square(25, 20, 10)], None, 700, 1, 0),  # two holes
    ([OUTER, HOLE, BESIDE], None, 600, 1, 0),
    # the area speaks for a filled mask: outer, or the sum of both
    ([OUTER, HOLE], 900, 900, 0, 1),
    ([OUTER, HOLE], 1300, 900, 0, 1),
    ([OUTER, square(15, 10, 4)], 900, 900, 0, 0),  # too small to matter
    ([OUTER, HOLE], 20, 500, 1, 0),  # an area that is wrong either way
    ([OUTER, square(15, 10, 4)], 893, 884, 1, 0),  # that fits neither, though it is near both
    # holes that overlap
    ([OUTER, square(12, 7, 14), square(18, 12, 14)], None, 900, 0, 1),
    # unions
    ([OUTER, BESIDE], None, 1000, 0, 0),
    ([OUTER, ACROSS], None, 975, 0, 0),
    ([OUTER, OUTER], None, 900, 0, 0),
]


@pytest.mark.parametrize(("polygons", "area", "pixels", "holes", "doubts"), RINGS)
def test_rings_in_rings(
    load: Load, polygons: Any, area: float | None, pixels: int, holes: int, doubts: int
) -> None:
    data = content()
    xs, ys = ([v for polygon in polygons for v in polygon[k::2]] for k in (0, 1))
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    data["annotations"][0] |= {"segmentation": copy.deepcopy(polygons), "area": area, "bbox": box}
    dataset = load(data)
    mask = dataset.dicts[0]["annotations"][0]["segmentation"]
    assert mask_util.area(polygons_to_rle(mask, HEIGHT, WIDTH)) == pixels
    assert dataset.report.repaired[Reason.HOLES] == holes
    assert dataset.report.doubted == ({Reason.PART_IN_PART: 1} if doubts else {})
    if holes:
        assert polygons_area(mask) == pixels and dataset.report.needs_a_look
    assert dataset.mask_format == "polygon"


def brush(data: Content, numbers: Any, pieces: int = 1, iscrowd: int = 1) -> None:
    for k in numbers:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        for piece in range(pieces):
            mask[4:14, 6 + 12 * piece : 16 + 12 * piece] = 1
        rle = mask_util.encode(mask)
        rle = {**rle, "counts": rle["counts"].decode()}
        box = mask_util.toBbox(rle).tolist()
        data["annotations"][k] |= {"segmentation": rle, "iscrowd": iscrowd, "bbox": box}


# instances, how many are crowds, in how many pieces; how many are doubted
CROWDS = [
    (4, 2, 1, 2),  # half of the set
    (4, 2, 3, 2),
    (40, 3, 1, 3),  # fewer, but each is one compact piece
    (32, 2, 3, 0),
    (32, 1, 1, 0),  # one may be compact
    (40, 1, 3, 0),  # as in COCO
    (40, 0, 1, 0),
]


@pytest.mark.parametrize(("instances", "crowds", "pieces", "doubted"), CROWDS)
def test_crowds_are_counted_apart(
    load: Load, instances: int, crowds: int, pieces: int, doubted: int
) -> None:
    data = content()
    data["annotations"] *= instances // 4
    data["annotations"] = [a | {"id": k} for k, a in enumerate(data["annotations"])]
    brush(data, range(crowds), pieces)
    dataset = load(data)
    report = dataset.report
    assert (report.crowds, report.doubted[Reason.CROWDS]) == (crowds, doubted)
    assert report.needs_a_look == bool(doubted)
    assert (f"{crowds} of them crowd regions" in report.summary()) == bool(crowds)
    assert sum(map(len, dataset.labels)) == instances - crowds
    objects = load(data, crowds="instances")
    assert objects.report.crowds == 0 and not objects.report.doubted
    assert sum(map(len, objects.labels)) == instances
    with pytest.raises(DatasetError, match="crowds is 'objects'; expected 'ignore' or 'instances'"):
        load(data, crowds="objects")


def test_two_records_of_one_file_are_one_image(load: Load) -> None:
    data = content()
    data["images"].append(data["images"][0] | {"id": 9, "file_name": "./a.png"})
    data["annotations"].append(data["annotations"][0] | {"id": 20, "image_id": 9})
    new = {"segmentation": [BESIDE], "bbox": [45, 5, 10, 10], "area": 100, "image_id": 9}
    data["annotations"].append(data["annotations"][0] | new | {"id": 21})
    dataset = load(data)
    assert [(d["image_id"], len(d["annotations"])) for d in dataset.dicts] == [(3, 3), (7, 2)]
    assert dataset.report.repaired == {Reason.SAME_FILE: 1} and dataset.report.needs_a_look
    note = dataset.report.places[Reason.SAME_FILE][0].note
    assert "id 3 and id 9" in note and "1 in both" in note


def test_two_records_of_a_missing_file_are_two_missing_images(load: Load) -> None:
    data = content()
    data["images"] += [{"id": k, "file_name": "c.png"} for k in (8, 9)]
    report = load(data).report
    assert report.images_left_out == {Reason.IMAGE_MISSING: 2} and not report.repaired
