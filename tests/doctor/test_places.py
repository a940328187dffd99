"""Lines and ids of items in json files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_maskrcnn.doctor.subject import elements, items_of

PRETTY = """{
  "images": [],
  "annotations": [
    {"id": 1,
     "note": "a ] and a } in a text"},
    [7], {"id": 2}
  ]
}"""
VIA = """{"a": {"filename": "d/1.png", "regions": [{},
{}]},
"b": {"filename": "2.png", "regions": {"0": {},
"1":
{}}}, "c": 7}"""

CASES = {
    # name: text, format, items
    "on lines of their own": (PRETTY, "coco", {"": [(4, 1), (6, None), (6, 2)]}),
    "an empty array": ('{"shapes": []}', "labelme", {"": []}),
    "another format": (PRETTY, "labelme", {}),
    "all on one line": ('{"shapes": [1, 2]}', "labelme", {"": [(1, None), (1, None)]}),
    "VIA": (VIA, "via", {"a": [(1, None), (2, None)], "b": [(3, None), (5, None)]}),
    "a VIA project": (
        '{"x": [],\n"_via_img_metadata": {"k": {"filename": "1.png", "regions": [{"a": 1}]}}}',
        "via",
        {"k": [(2, None)]},
    ),
    "a key that leads nowhere": ('{"annotations": {"id": 1}}', "labelme", {}),
    "cut off": ('{"shapes": [1, ', "labelme", {}),
    "no JSON": ("hello", "coco", {}),
    "empty": ("", "coco", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_lines(case: str, tmp_path: Path) -> None:
    text, format, items = CASES[case]
    (tmp_path / "a.json").write_text(text)
    assert items_of(tmp_path / "a.json", format) == items


def test_no_file(tmp_path: Path) -> None:
    assert items_of(tmp_path / "a.json", "coco") == {}


VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 1, "\t"]))
def test_any_array_as_python_writes_it(items: list[object], indent: int | str | None) -> None:
    text = json.dumps({"before": ["[", {"x": "]"}], "items": items}, indent=indent)
    outer = {key: start for key, start, _ in elements(text)}
    found = list(elements(text, outer["items"]))
    assert [value for _, _, value in found] == items
    for _, start, value in found:
        assert text.startswith(json.dumps(value, indent=indent).split("\n")[0], start)
