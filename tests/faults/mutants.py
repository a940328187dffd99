"""Damaged files: bytes that are flipped, cut or doubled, and JSON or YAML of another shape."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

JUNK: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**30, -(10**9), float("nan"), "", "x", "\0", "\ud800", "é" * 3000),
    *(
        [],
        [[]],
        [None],
        [1, "a"],
        {},
        {"a": {}},
        {"": None},
        [[1, 2], [3]],
        "1",
        "../..",
        "\x1b[2J",
    ),
]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Flips, cuts, doubles, overwrites or removes a few stretches of bytes."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at, size = chance.randrange(len(data) + 1), chance.choice((1, 2, 16, 300))
        match chance.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + size] = chance.randbytes(size)
            case 4:
                data[at : at + size] = bytes(size)
            case _:
                del data[at : at + size]
    return bytes(data)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every entry of a structure, as a path of keys."""
    if not isinstance(node, (dict, list)):
        return [path]
    items: Any = node.items() if isinstance(node, dict) else enumerate(node)
    return [path, *(p for key, value in items for p in places(value, (*path, key)))]


def reshaped(value: Any, chance: random.Random) -> Any:
    """A structure with a few entries replaced by junk, removed, or put where others are."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        found = places(value)
        path = chance.choice(found)
        if not path:
            return chance.choice(JUNK)
        node = value
        for key in path[:-1]:
            node = node[key]
        match chance.randrange(3):
            case 0:
                del node[path[-1]]
            case 1:
                node[path[-1]] = chance.choice(JUNK)
            case _:
                other: Any = value
                for key in chance.choice(found):
                    if not isinstance(other, (dict, list)) or (
                        key not in other if isinstance(other, dict) else key >= len(other)
                    ):
                        break
                    other = other[key]
                node[path[-1]] = copy.deepcopy(other)
    return value


def mutant(name: str, content: bytes, chance: random.Random) -> bytes:
    """A damaged version of a file; of JSON, half of them still are JSON."""
    if name.endswith(".json") and chance.random() < 0.5:
        try:
            return json.dumps(reshaped(json.loads(content), chance)).encode()
        except ValueError:  # a line of JSON each
            pass
    return damaged(content, chance)
