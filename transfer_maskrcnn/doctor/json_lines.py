"""The line of a JSON file on which an element of an array begins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from json import JSONDecodeError, JSONDecoder

_DECODER = JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def element_lines(text: str, keys: Sequence[str]) -> list[int]:
    """The lines, from 1, of the elements of one array or object in a JSON text.

    Args:
        text: JSON whose outermost value is an object.
        keys: the way to the array, from the outermost object down.

    Returns:
        a number an element; none where ``keys`` lead nowhere, or the text is no JSON.
    """
    try:
        start = _find(text, keys)
        offsets = [] if start is None else [offset for _, offset in _elements(text, start)]
    except (JSONDecodeError, IndexError, RecursionError):
        return []
    lines, line, seen = [], 1, 0
    for offset in offsets:
        line += text.count("\n", seen, offset)
        seen = offset
        lines.append(line)
    return lines


def _find(text: str, keys: Sequence[str]) -> int | None:
    start = _skip(text, 0)
    for key in keys:
        if text[start] != "{":
            return None
        found = (offset for name, offset in _elements(text, start) if name == key)
        place = next(found, None)
        if place is None:
            return None
        start = place
    return start


def _elements(text: str, start: int) -> Iterator[tuple[str, int]]:
    """(key, offset of the value) of each element of the array or object at ``start``."""
    is_object = text[start] == "{"
    if not is_object and text[start] != "[":
        return
    position = _skip(text, start + 1)
    while text[position] not in "]}":
        key = ""
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)  # past the colon
        yield key, position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
