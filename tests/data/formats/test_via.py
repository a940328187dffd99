from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.formats import LoadedDataset, load_via_json
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.errors import DatasetError

POLYGON = {"name": "polygon", "all_points_x": [2, 8, 8, 2], "all_points_y": [2, 2, 8, 8]}


def region(shape: Any = POLYGON, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def via(*regions: Any) -> dict[str, Any]:
    return {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": list(regions)}}


@pytest.fixture
def load(
    make_image: Callable[..., Path], write_json: Callable[..., Path], check_counts: Any
) -> Callable[..., LoadedDataset]:
    def load(data: Any, **options: Any) -> LoadedDataset:
        make_image("images/a.jpg")
        path = write_json(data)
        dataset = load_via_json(path, path.parent / "images", **options)
        check_counts(dataset)
        return dataset

    return load


def as_dict(data: dict[str, Any]) -> dict[str, Any]:
    """VIA 1 wrote the regions as an object with the keys "0", "1", ..."""
    for record in data.values():
        record["regions"] = {str(k): r for k, r in enumerate(record["regions"])}
    return data


@pytest.mark.parametrize(
    "data",
    [
        via(region(kind="cat"), region(kind="dog")),
        as_dict(via(region(kind="cat"), region(kind="dog"))),
        {
            "_via_settings": {},
            "_via_attributes": {"region": {"kind": {}}},
            "_via_img_metadata": via(region(kind="cat"), region(kind="dog")),
        },
    ],
    ids=["VIA 2", "VIA 1", "VIA 2 project"],
)
def test_versions(load: Any, data: Any) -> None:
    dataset = load(data)
    assert dataset.classes == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    assert dataset.mask_format == "polygon"
    first, second = dataset.dicts[0]["annotations"]
    assert first["segmentation"] == [[2, 2, 8, 2, 8, 8, 2, 8]]
    assert first["bbox"] == [2, 2, 8, 8]
    assert (first["category_id"], second["category_id"]) == (0, 1)


@pytest.mark.parametrize(
    "shape, bbox",
    [
        (POLYGON, [2, 2, 8, 8]),
        (POLYGON | {"name": "polyline"}, [2, 2, 8, 8]),
        ({"name": "rect", "x": 3, "y": 4, "width": 5, "height": 6}, [3, 4, 8, 10]),
        ({"name": "rect", "x": "3", "y": 4, "width": "5", "height": 6}, [3, 4, 8, 10]),
        ({"name": "circle", "cx": 10, "cy": 9, "r": 4}, [6, 5, 14, 13]),
        ({"name": "ellipse", "cx": 10, "cy": 9, "rx": 6, "ry": 2}, [4, 7, 16, 11]),
        # theta is in radians: a quarter turn
        (
            {"name": "ellipse", "cx": 10, "cy": 9, "rx": 6, "ry": 2, "theta": math.pi / 2},
            [8, 3, 12, 15],
        ),
    ],
)
def test_shapes(load: Any, shape: Any, bbox: list[float]) -> None:
    dataset = load(via(region(shape)), classes=["cat"])
    assert dataset.dicts[0]["annotations"][0]["bbox"] == pytest.approx(bbox, abs=0.1)


@pytest.mark.parametrize(
    "shape, reason",
    [
        ({"name": "point", "cx": 3, "cy": 4}, Reason.OTHER_SHAPE),
        ({"name": "circle", "cx": 3, "cy": 4}, Reason.BAD_COORDINATES),
        ({"name": "circle", "cx": 3, "cy": 4, "r": -1}, Reason.BAD_COORDINATES),
        ({"name": "rect", "x": 3, "y": 4, "width": "5px", "height": 6}, Reason.BAD_COORDINATES),
        ({"name": "rect", "x": 3, "y": 4, "width": 0, "height": 6}, Reason.TOO_FEW_POINTS),
        ({"name": "polygon"}, Reason.BAD_COORDINATES),
        (POLYGON | {"all_points_x": [2, 8, 8]}, Reason.BAD_COORDINATES),
        (POLYGON | {"all_points_x": [2, 8, None, 2]}, Reason.BAD_COORDINATES),
        (POLYGON | {"all_points_x": [2] * 4}, Reason.TOO_FEW_POINTS),
        (POLYGON | {"all_points_x": [2, 3, 4, 5], "all_points_y": [2, 3, 4, 5]}, Reason.ZERO_AREA),
    ],
)
def test_left_out(load: Any, shape: Any, reason: str) -> None:
    report = load(via(region(), region(shape)), classes=["cat"]).report
    assert report.left_out == {reason: 1}
    place = report.places[reason][0]
    assert (Path(place.image).name, place.part, place.number) == ("a.jpg", "regions", 1)
    assert place.note == ("point" if reason is Reason.OTHER_SHAPE else "")


@pytest.mark.parametrize(
    "options, attributes, classes",
    [
        ({"classes": ["cat"]}, {}, ("cat",)),  # no attribute at all, as in balloon
        (
            {"classes": ["cat"]},
            {"a": "x", "b": "y"},
            ("cat",),
        ),  # one class that no attribute names: attributes do not count
        ({"classes": ["cat"]}, {"a": "x", "b": "cat"}, ("cat",)),
        ({}, {"a": "x"}, ("x",)),  # the only attribute
        ({}, {"a": " x "}, ("x",)),
        ({}, {"a": 3}, ("3",)),
        ({}, {"a": {"x": True}}, ("x",)),  # a checkbox
        ({}, {"a": {"x": True, "y": False}}, ("x",)),
        ({"classes": ["y", "x"]}, {"a": "x"}, ("y", "x")),
        ({"attribute": "b"}, {"a": "x", "b": "y"}, ("y",)),
        ({"attribute": "b", "classes": ["y"]}, {"a": "x", "b": "y"}, ("y",)),
    ],
)
def test_classes(load: Any, options: Any, attributes: Any, classes: Any) -> None:
    dataset = load(via(region(**attributes)), **options)
    assert dataset.classes == classes
    assert dataset.report.instances_kept == 1


def test_one_class_among_several_labels(load: Any) -> None:
    regions = [region(kind="red cat"), region(kind="2"), region(kind="red cat", note="red cat")]
    with pytest.raises(DatasetError, match=r"not among the classes.*'2' \(1 instance\)"):
        load(via(*regions), classes=["red cat"])
    report = load(via(regions[0], region()), classes=["red cat"]).report
    assert report.left_out == {Reason.NO_LABEL: 1}


@pytest.mark.parametrize("value", ["", None, {}, {"x": True, "y": True}, {"x": False}, [], True])
def test_no_label(load: Any, value: Any) -> None:
    report = load(via(region(a="x"), region(a=value)), attribute="a").report
    assert report.left_out == {Reason.NO_LABEL: 1}


@pytest.mark.parametrize(
    "data, options, message",
    [
        (
            via(region(a="x", b="y"), region(a="x")),
            {},
            r"several attributes: 'a' \(in 2 regions\), 'b' \(in 1 regions\)",
        ),
        (via(region(a="x", b="y")), {"classes": ["x", "y"]}, "several attributes"),
        (via(region()), {}, "no attribute to tell their class; pass one name as classes"),
        (via(region(a="x")), {"attribute": "b"}, "no region has the attribute 'b'; there are: 'a'"),
        (
            via(region(a="cta")),
            {"classes": ["cat", "dog"]},
            r"'cta' \(1 instance; did you mean 'cat'",
        ),
        (via(), {}, "the classes cannot be told"),
        ({}, {}, "lists no images"),
        ({"a": {"regions": []}}, {}, "1 missing on disk .*no file name is stated"),
        (via() | {"b": {"filename": "b.jpg"}}, {}, "image 'b'.regions is None; expected a list"),
        (via() | {"b": 3}, {}, "image 'b' is 3; expected an object"),
        (via({}), {}, r"image 'a.jpg123'.regions\[0\] has no 'shape_attributes'"),
        (via(region({})), {"classes": ["x"]}, r"regions\[0\].shape_attributes has no 'name'"),
        (
            via(region() | {"region_attributes": []}),
            {},
            "region_attributes is .*expected an object",
        ),
        ({"images": [], "annotations": []}, {}, r"looks like a COCO json \(format: coco\)"),
        ([], {}, "a list of 0 items"),
        ({"_via_img_metadata": []}, {}, "is not a VIA json"),
    ],
)
def test_errors(load: Any, data: Any, options: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as error:
        load(data, **options)
    assert "annotations.json" in str(error.value)


def test_numbers_as_text(load: Any) -> None:
    text = POLYGON | {"all_points_x": ["2", "8", "8", "2"]}
    report = load(via(region(text)), classes=["cat"]).report
    assert (report.instances_kept, report.repaired) == (1, {Reason.OTHER_TYPE: 1})


def test_images_without_regions_are_background(load: Any) -> None:
    assert load(via(), classes=["cat"]).dicts[0]["annotations"] == []
    assert load(via(), classes=["cat", "dog"]).dicts[0]["annotations"] == []
