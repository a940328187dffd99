"""What can happen to the files of a dataset: entries replaced, bytes flipped, other things in their
place. A ``Random`` of the same seed does the same again.
"""

from __future__ import annotations

import io
import json
import math
import os
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from PIL import Image

HEIGHT, WIDTH = 20, 30
SQUARE = [2.0, 2.0, 9.0, 2.0, 9.0, 9.0, 2.0, 9.0]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 640.0, 0.5, -2.5, 10**9, -(10**9), 10**30, 2**63, -(2**31)),
    *(math.nan, math.inf, -math.inf, 1e308, 5e-324, 10**400),
    *("", " ", "a", "cat", "dog", "640", "1.5", "no", "\0", "\ud800", "x" * 5000, "é", "\u202e"),
    *("a.png", "../a.png", "/a.png", "C:\\x\\a.png", "http://x/a.png?y=1", "%2e%2e/a.png", "a.PNG"),
    *(".", "..", "images", "sub", "my.yaml", "a.json", "polygon", "mask", "point", "train", "val"),
    *([], {}, [[]], [None], [[], []], {"": {}}, [0] * 9, ["cat"] * 3, [True, False], [[[[1]]]]),
    *([SQUARE], [[0, 0, 1, 1]], {"size": [20, 30], "counts": "x"}, {"counts": [1]}, [math.nan] * 8),
    *({"size": [10**9, 10**9], "counts": [10**18]}, {"size": [-1, 0], "counts": []}, "T14`0"),
)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every entry of a json structure, as a path of keys."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [path] * bool(path) + [p for k, v in items for p in places(v, (*path, k))]


def change_structure(content: Any, random: Random) -> Any:
    """One entry replaced, left out, renamed, put twice, or put in another's place."""
    found = places(content)
    if not found:
        return random.choice(JUNK)
    *way, key = random.choice(found)
    node = content
    for step in way:
        node = node[step]
    kind = random.choice(("junk", "junk", "drop", "rename", "text", "graft", "wrap", "repeat"))
    if kind == "drop":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[random.choice(("x", 1, key + "s" if isinstance(key, str) else "y"))] = node.pop(key)
    elif kind == "text":
        node[key] = str(node[key])
    elif kind == "graft":
        *other_way, other = random.choice(found)
        source = content
        for step in other_way:
            source = source[step]
        node[key] = deepcopy(source[other]) if isinstance(source, (dict, list)) else None
    elif kind == "wrap":
        node[key] = random.choice(([node[key]], {"x": node[key]}, deep(80)))
    elif kind == "repeat" and isinstance(node, list):
        node += [deepcopy(node[key]) for _ in range(random.choice((1, 50)))]
    else:
        node[key] = deepcopy(random.choice(JUNK))
    return content


def change_content(path: Path, random: Random) -> None:
    read, write = (
        (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, dump_yaml)
    )
    try:
        content = read(path.read_text(encoding="utf-8"))
        for _ in range(random.choice((1, 1, 2, 5))):
            content = change_structure(content, random)
        path.write_text(write(content), encoding="utf-8")
    except (ValueError, TypeError, AttributeError, RecursionError, OSError, yaml.YAMLError):
        change_bytes(path, random)  # an earlier change left no structure


def dump_yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def change_numbers(path: Path, random: Random) -> None:
    """One word of a label file replaced."""
    words = path.read_text(encoding="utf-8", errors="replace").split(" ")
    junk = ("nan", "inf", "-1", "1e400", "x", "", "7", "0.5 0.5", "1" * 5000, "0.5\n", "²", "0x1")
    words[random.randrange(len(words))] = random.choice(junk)
    path.write_text(" ".join(words), encoding="utf-8")


def change_bytes(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    kind = random.choice(("flip", "flip", "cut", "insert", "delete", "encode", "fill", "swap"))
    at = random.randrange(len(data) + 1)
    if kind == "flip":
        for _ in range(random.choice((1, 3, 30))):
            if data:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        junk = (b"\0", b"\xff\xfe", b"\xc3", b"{", b"]", b'"', b"\n", b"\r", b"1e999", b"\x1b[31m")
        data[at:at] = random.choice(junk) * random.choice((1, 1, 100))
    elif kind == "delete":
        del data[at : at + random.choice((1, 4, 40))]
    elif kind == "encode":
        text = data.decode("utf-8", "replace")
        data = bytearray(text.encode(random.choice(("utf-16", "utf-8-sig", "utf-32")), "replace"))
    elif kind == "fill":
        data[at:] = bytes([random.choice((0, 32, 255))]) * (len(data) - at)
    else:
        data = data[at:] + data[:at]
    path.write_bytes(data)


def change_image(path: Path, random: Random) -> None:
    """Another picture in its place: of another kind or size, or with a header that lies."""
    size = random.choice(((HEIGHT, WIDTH), (WIDTH, HEIGHT), (1, 1), (40, 60)))
    kind = random.choice(
        ("L", "1", "P", "RGBA", "CMYK", "I;16", "F", "huge", "exif", "gif", "tiff")
    )
    pixels = Image.fromarray(np.full(size, random.choice((0, 1, 7, 255)), np.uint8))
    if kind == "huge":
        data = bytearray(png(np.zeros((2, 2), np.uint8)))
        data[16:24] = b"\0\0\xff\xff" * 2  # 65,535 x 65,535 pixels, checksum as it was
        path.write_bytes(data)
    elif kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = random.choice((3, 6, 9, 0))
        pixels.save(path, random.choice(("PNG", "JPEG", "WEBP")), exif=exif)
    elif kind in ("CMYK", "F", "gif", "tiff"):
        mode = {"gif": "L", "tiff": "RGB"}.get(kind, kind)
        pixels.convert(mode).save(path, "GIF" if kind == "gif" else "TIFF")
    elif kind == "I;16":
        Image.fromarray(np.full(size, 300, np.uint16)).save(path, "PNG")
    else:
        pixels.convert(kind).save(path, "PNG")


def change_place(path: Path, random: Random) -> None:
    """The file is gone, or something else is there."""
    kind = random.choice(
        (
            "gone",
            "folder",
            "dangling",
            "loop",
            "pipe",
            "empty",
            "other",
            "renamed",
            "beside",
            "hidden",
        )
    )
    data = path.read_bytes()
    if kind in ("beside", "hidden"):
        path.with_name("._" + path.name if kind == "hidden" else "zz" + path.name).write_bytes(data)
        return
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "other":
        path.write_bytes(
            random.choice((b"\xff\xd8\xff\xe0", b"GIF89a", b"PK\3\4", b"[1]", b"0 0 0"))
        )
    elif kind == "renamed":
        name = random.choice(
            ("A.PNG", "e\u0301.png", "x" * 200, "a b#%?.png", "\udcff.png", "n\nl")
        )
        path.with_name(name).write_bytes(data)


def mutate(files: list[Path], random: Random) -> None:
    """One to three changes to some of the files."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        path = random.choice(files)
        if path.is_symlink() or not path.is_file():
            continue  # an earlier change took it away
        is_image = path.suffix in (".png", ".jpg")
        structured = [change_content] * 5 if path.suffix in (".json", ".yaml") else []
        labels = [change_numbers] * 3 if path.suffix == ".txt" else []
        pictures = [change_image] * 2 if is_image else []
        change = random.choice([change_bytes, change_place, *structured, *labels, *pictures])
        change(path, random)
