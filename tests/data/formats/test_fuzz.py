"""Whatever an annotation file holds, it loads with counts that add up or raises DatasetError."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.errors import DatasetError

relaxed = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
EXAMPLES: dict[str, Any] = {
    "coco": {
        "images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [2, 2, 6, 6], "iscrowd": 0}
            | {"segmentation": segmentation}
            for segmentation in ([SQUARE], {"size": [20, 30], "counts": [5, 9, 586]})
        ],
        "categories": [{"id": 7, "name": "cat"}],
    },
    "via": {
        "_via_img_metadata": {
            "a.png1": {
                "filename": "a.png",
                "size": 1,
                "regions": [
                    {
                        "shape_attributes": shape,
                        "region_attributes": {"kind": "cat"},
                    }
                    for shape in (
                        {"name": "polygon", "all_points_x": [2, 8, 8], "all_points_y": [2, 2, 8]},
                        {"name": "ellipse", "cx": 9, "cy": 9, "rx": 4, "ry": 3, "theta": 0.5},
                        {"name": "rect", "x": 9, "y": 9, "width": 4, "height": 3},
                    )
                ],
            }
        }
    },
    "labelme": {
        "imagePath": "a.png",
        "imageHeight": 20,
        "imageWidth": 30,
        "shapes": [
            {
                "label": "cat",
                "points": points,
                "group_id": group,
                "shape_type": kind,
                "mask": "AA==",
            }
            for points, group, kind in (
                ([[2, 2], [8, 2], [8, 8]], 1, "polygon"),
                ([[2, 2], [8, 2]], 1, "circle"),
                ([[2, 2], [8, 5]], None, "rectangle"),
                ([[2, 2], [8, 5]], None, "mask"),
            )
        ],
    },
}
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-50, 50),
    st.sampled_from([10**7, 10**30, 10**400, -(10**18)]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["polygon", "cat", "a.png", "circle", "mask", "point", "\0", "\ud800"]),
    st.lists(st.integers(-5, 40), max_size=9),
    st.lists(st.lists(st.floats(-50, 50), max_size=9), max_size=2),
    st.just({}),
    st.dictionaries(st.sampled_from(["size", "counts", "id", "cat"]), st.booleans(), max_size=2),
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every entry of a json structure, as a path of keys."""
    if isinstance(node, (dict, list)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return [path] * bool(path) + [p for k, v in items for p in places(v, (*path, k))]
    return [path]


def mutated(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """``data`` with the entry at ``path`` replaced, or removed where ``value`` is Ellipsis."""
    data = copy.deepcopy(data)
    node = data
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data


@pytest.fixture
def assert_clear(tmp_path: Path, make_image: Callable[..., Path], check_counts: Any) -> Any:
    make_image("images/a.png")
    (tmp_path / "json").mkdir()
    path = tmp_path / "json/a.json"

    def load(name: str, data: Any, **options: Any) -> bool:
        """Assert that the file loads with right counts, or that the error names its place."""
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        annotations = path.parent if name == "labelme" else path
        try:
            dataset = FORMATS[name](annotations, tmp_path / "images", **options)
        except DatasetError as e:
            assert str(path.parent) in str(e) and len(str(e)) < 2000
            return False
        check_counts(dataset)
        return True

    return load


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_load(name: str, assert_clear: Any) -> None:
    assert assert_clear(name, EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_entry_removed_once(name: str, assert_clear: Any) -> None:
    for path in places(EXAMPLES[name]):
        assert_clear(name, mutated(EXAMPLES[name], path, ...))


@pytest.mark.parametrize("name", EXAMPLES)
@relaxed
@given(data=st.data())
def test_entries_replaced_by_junk(name: str, data: st.DataObject, assert_clear: Any) -> None:
    example = EXAMPLES[name]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(example)))
        example = mutated(example, path, data.draw(junk))
        if not places(example):
            break
    assert_clear(name, example)


@relaxed
@given(
    polygons=st.lists(st.lists(st.lists(st.floats(-60, 90), max_size=12), max_size=3), max_size=4)
)
def test_any_polygons_of_coco(polygons: Any, assert_clear: Any) -> None:
    annotation = EXAMPLES["coco"]["annotations"][0]
    annotations = [annotation | {"segmentation": parts} for parts in polygons]
    rle = EXAMPLES["coco"]["annotations"][1]
    for more in ([], [rle]):  # as polygons, and all turned into bitmasks
        assert assert_clear("coco", EXAMPLES["coco"] | {"annotations": annotations + more})


@pytest.mark.parametrize("name", ["coco", "via", "labelme"])
@relaxed
@given(text=st.text(st.sampled_from('{}[]",:0129.eE- tfn\\u\n'), max_size=30))
def test_any_text(name: str, text: str, assert_clear: Any) -> None:
    assert not assert_clear(name, text)


@relaxed
@given(
    text=st.text(st.sampled_from("0123 .-e\nnaif\u00e9"), max_size=60),
    config=st.text(st.sampled_from("names: [cat]{}\ntrain: images\"'&*!-0"), max_size=40),
)
def test_any_yolo(
    tmp_path: Path, make_image: Callable[..., Path], check_counts: Any, text: str, config: str
) -> None:
    make_image("images/a.png")
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels/a.txt").write_text(text)
    for content in (config, "names: [cat, dog]\ntrain: images"):
        (tmp_path / "data.yaml").write_text(content)
        try:
            check_counts(FORMATS["yolo"](tmp_path / "data.yaml"))
        except DatasetError as e:
            assert str(tmp_path) in str(e)
