import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_maskrcnn.doctor.json_lines import element_lines

PRETTY = """{
  "images": [],
  "annotations": [
    {"id": 1,
     "note": "a ] and a } in a text"},
    [7], {"id": 2}
  ]
}"""

CASES = {
    # name: text, keys, lines
    "elements on lines of their own": (PRETTY, ("annotations",), [3, 5, 5]),
    "an empty array": (PRETTY, ("images",), []),
    "a key that is not there": (PRETTY, ("categories",), []),
    "a key below a list": (PRETTY, ("annotations", "id"), []),
    "all on one line": ('{"a": [1, 2]}', ("a",), [1, 1]),
    "an object's values count too": ('{"a": {"x":\n1,\n"y": 2}}', ("a",), [2, 3]),
    "two steps": ('{"a":\n{"b":\n[\n0]}}', ("a", "b"), [4]),
    "cut off": ('{"a": [1, ', ("a",), []),
    "no JSON": ("hello", ("a",), []),
    "empty": ("", ("a",), []),
}


@pytest.mark.parametrize("case", CASES)
def test_lines(case: str) -> None:
    text, keys, lines = CASES[case]
    # Lines count from 1; PRETTY's annotations begin on its fourth line.
    expected = [line + 1 for line in lines] if text is PRETTY else lines
    assert element_lines(text, keys) == expected


VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 1, "\t"]))
def test_any_array_as_python_writes_it(items: list[object], indent: int | str | None) -> None:
    text = json.dumps({"before": ["[", {"x": "]"}], "items": items}, indent=indent)
    lines = element_lines(text, ("items",))
    assert len(lines) == len(items)
    for item, line in zip(items, lines, strict=True):
        first = json.dumps(item, indent=indent).split("\n")[0]
        assert first in text.split("\n")[line - 1]
