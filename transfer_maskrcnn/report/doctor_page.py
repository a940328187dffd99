"""The doctor's page: what is wrong with datasets, and what they look like."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer_maskrcnn.report.doctor_plots import (
    MOST_BARS,
    aspects_picture,
    classes_picture,
    image_sizes_picture,
    sides_picture,
)
from transfer_maskrcnn.report.page import Picture, write_page
from transfer_maskrcnn.report.plots import looks
from transfer_maskrcnn.report.texts import count
from transfer_maskrcnn.report.tiles import (
    Drawn,
    Window,
    draw_tile,
    open_upright,
    outline,
    window_around,
)
from transfer_maskrcnn.text import few, listed, plural, shorten

_SEVERITIES = ("error", "warning", "note")  # the worst first
_MOST_PLACES = 20
_LONGEST_WORD = 26  # in the caption of a thumbnail; the list of places has it whole
_LONG_WORD = re.compile(rf"[^\s/]{{{_LONGEST_WORD + 1},}}")
_OTHER_COLOUR = "#444444"
_COLOURS = [look.colour for look in looks([str(i) for i in range(6)]).values()]
#: of the shape that a finding is about, and of the one that it is compared with
CLOSE_COLOURS = ("#E69F00", "#0072B2")
# In pixels of a tile. Where two shapes lie on each other, both are seen.
_ONE_WIDTH, _TWO_WIDTHS = (4.7,), (10.8, 4.0)
_FEW, _WIDTH, _THIN_WIDTH = 40, 2.5, 1.6  # above that many shapes, thin lines hide less

Json = Mapping[str, Any]


def write_doctor_page(content: Json, output: Path) -> Path:
    """Write a page about a diagnosis: one HTML file without scripts.

    Args:
        content: what ``doctor.examine.page_data`` returns, or the same after a way through JSON.
        output: the file to write. What its images no longer show is left out.

    Returns:
        ``output``.
    """
    findings = [_finding(found) for found in content["findings"]]
    return write_page(
        output.parent,
        "doctor.html",
        {
            "names": listed(dataset["name"] for dataset in content["datasets"]),
            "verdict": content["verdict"],
            "groups": [
                (severity, group)
                for severity in _SEVERITIES
                if (group := [found for found in findings if found["severity"] == severity])
            ],
            "datasets": [_dataset(dataset) for dataset in content["datasets"]],
        },
        output.name,
    )


def _finding(found: Json) -> dict[str, Any]:
    places = found["places"][:_MOST_PLACES]
    folder = _common_folder([place["file"] for place in places])
    is_close = any(place["drawn"] for place in found["places"])
    drawn = [
        _picture_of(picture, _words(found["places"][k], folder), is_close)
        for k, picture in found["pictures"]
    ]
    pictures = [picture for picture in drawn if picture is not None]
    return {
        "severity": found["severity"],
        "title": f"{found['dataset']}: {count(found['count'])} {found['what']}",
        "effect": found["effect"],
        "fix": found["fix"],
        "folder": folder,  # what all places begin with
        "places": [_words(place, folder) for place in places],
        "more": len(found["places"]) - len(places),
        "pictures": pictures,
        "undrawn": len(drawn) - len(pictures),  # whose image is not to be had
    }


def _picture_of(picture: Json, text: str, is_close: bool) -> Picture | None:
    caption = _LONG_WORD.sub(lambda word: shorten(word[0], _LONGEST_WORD), text)
    if is_close:
        return close_tile(picture, caption)
    return whole_tile(picture, _colours([picture])[0], caption)


def _common_folder(files: Sequence[str]) -> str:
    """The folder, or the one file, that all places are in; "" where they share none."""
    if not files or not all(os.path.isabs(file) for file in files):
        return ""
    common = os.path.commonpath(files) if len(files) > 1 else os.path.dirname(files[0])
    return common if common != os.path.dirname(common) else ""


def _words(place: Json, folder: str) -> str:
    text = ": ".join(filter(None, (place["file"], place["where"], place["note"])))
    return (text.removeprefix(folder).lstrip("/: ") or text) if folder else text


def _dataset(dataset: Json) -> dict[str, Any]:
    plots = (
        classes_picture(dataset["classes"]),
        image_sizes_picture(dataset["image_sizes"]),
        sides_picture(dataset["sides"]),
        aspects_picture(dataset["aspects"]),
    )
    classes = sorted(dataset["classes"].items(), key=lambda item: (-item[1], item[0]))
    colours, key = _colours(dataset["pictures"])
    tiles = [whole_tile(p, colours, _gallery_words(p)) for p in dataset["pictures"]]
    return {
        "name": dataset["name"],
        "facts": _facts(dataset),
        "plots": [plot for plot in plots if plot is not None],
        "classes": classes if len(classes) > MOST_BARS else [],  # where a plot cannot hold them
        "colours": key,
        "pictures": [tile for tile in tiles if tile is not None],
    }


def _facts(dataset: Json) -> list[tuple[str, str]]:
    classes, sizes = dataset["classes"], dataset["image_sizes"]
    some = few([f"{name} {count(number)}" for name, number in classes.items()], 6)
    facts = [
        ("images", count(dataset["images"])),
        ("instances", count(dataset["instances"])),
        ("classes", some if len(classes) <= 6 else f"{count(len(classes))}: {some}"),
        ("image sizes", few([f"{w} × {h} ({count(n)})" for w, h, n in sizes], 5)),
    ]
    if dataset["sides"]:
        low, middle, high = (count(v) for v in np.quantile(dataset["sides"], (0, 0.5, 1)))
        facts.append(("object size at the input", f"{low} to {high} pixels, median {middle}"))
    facts.append(("masks", f"{dataset['mask_format']}s"))
    if dataset["annotations"]:
        facts.append(("read from", f"{dataset['annotations']} ({dataset['format']})"))
    return [*facts, ("loaded", dataset["loader"])]


def _gallery_words(picture: Json) -> str:
    name = shorten(os.path.basename(picture["file"]), _LONGEST_WORD)
    return f"{name}: {plural(len(picture['shapes']), 'object')}"


def _colours(pictures: Sequence[Json]) -> tuple[dict[str, str], dict[str, str]]:
    """Label -> colour of its outlines, and the key to it: rare labels share one colour."""
    counts = Counter(shape["label"] for picture in pictures for shape in picture["shapes"])
    ranked = [label for label, _ in counts.most_common()]
    colours = dict(zip(ranked, _COLOURS, strict=False))
    others = ranked[len(_COLOURS) :]
    words = {f"{len(others)} other classes": _OTHER_COLOUR} if others else {}
    return colours | dict.fromkeys(others, _OTHER_COLOUR), colours | words


def close_tile(picture: Mapping[str, Any], caption: str) -> Picture | None:
    """What is around the shapes of a picture; the first one's line is the widest.

    Args:
        picture: of ``doctor.examine.page_data``: ``file``, ``height``, ``width`` and ``shapes``.
        caption: what is said beneath it.

    Returns:
        None where the image cannot be read, or has another size by now.
    """
    widths = _ONE_WIDTH if len(picture["shapes"]) < 2 else _TWO_WIDTHS
    drawn = [
        Drawn(_lines(shape, picture), CLOSE_COLOURS[min(i, 1)], widths[min(i, 1)])
        for i, shape in enumerate(picture["shapes"])
    ]
    lines = [line for one in drawn for line in one.lines]
    left, top, right, bottom = window = window_around(lines, picture["width"], picture["height"])
    size, whole = f"{right - left} × {bottom - top}", f"{picture['width']} × {picture['height']}"
    part = "" if size == whole else f" (cut out: {size} of {whole} pixels)"
    return _tile(picture, drawn, window, f"{caption}{part}")


def whole_tile(
    picture: Mapping[str, Any], colours: Mapping[str, str], caption: str
) -> Picture | None:
    """A whole image with all its shapes, in the colours of their labels; else as close_tile."""
    width = _WIDTH if len(picture["shapes"]) <= _FEW else _THIN_WIDTH
    drawn = [Drawn(_lines(s, picture), colours[s["label"]], width) for s in picture["shapes"]]
    return _tile(picture, drawn, None, caption)


def _tile(
    picture: Mapping[str, Any], drawn: Sequence[Drawn], window: Window | None, caption: str
) -> Picture | None:
    image = open_upright(picture["file"], picture["width"], picture["height"])
    if image is None:
        return None
    return Picture(draw_tile(image, drawn, window), "jpeg", caption, caption)


def _lines(shape: Mapping[str, Any], picture: Mapping[str, Any]) -> Any:
    return outline(shape, picture["height"], picture["width"])
