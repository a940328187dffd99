"""The doctor's page: what is wrong with datasets, and what they look like."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer_maskrcnn.files import common_folder
from transfer_maskrcnn.report.page import Picture, count, decimal, write_page
from transfer_maskrcnn.report.plots import (
    MOST_BARS,
    PAGE_HEIGHT,
    dress,
    logarithmic,
    looks,
    page_axes,
    page_picture,
)
from transfer_maskrcnn.report.tiles import Drawn, outline, picture_of, window_around
from transfer_maskrcnn.text import few, listed, plural, shorten

_MOST_PLACES = 20
_LONGEST = 160  # columns of the caption of a thumbnail; the list of places has it whole
_OTHER_COLOUR = "#444444"
_COLOURS = [look.colour for look in looks([str(i) for i in range(6)]).values()]
#: of the shape that a finding is about, and of the one that it is compared with
CLOSE_COLOURS = ("#E69F00", "#0072B2")
# In pixels of a tile. Where two shapes lie on each other, both are seen.
_ONE_WIDTH, _TWO_WIDTHS = (4.7,), (10.8, 4.0)
_WIDTH = 2.2
_LEAST_SIDE = 1.0  # pixel; smaller objects are counted there
_WIDEST = 16  # times as wide as high; what is beyond is counted there

Json = Mapping[str, Any]


def write_doctor_page(content: Json, output: Path) -> Path:
    """Write a page about a diagnosis: one HTML file without scripts.

    Args:
        content: what ``doctor.page_data`` returns, or the same after a way through JSON.
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
                for severity in ("error", "warning", "note")  # the worst first
                if (group := [found for found in findings if found["severity"] == severity])
            ],
            "sets": [_numbers(dataset) for dataset in content["datasets"]],
            "datasets": [_dataset(dataset) for dataset in content["datasets"]],
        },
        output.name,
    )


def _finding(found: Json) -> dict[str, Any]:
    places = found["places"][:_MOST_PLACES]
    folder = common_folder([place["file"] for place in places])
    is_close = any(place["drawn"] for place in found["places"])
    drawn = []
    for k, picture in found["pictures"]:
        place = found["places"][k]
        file = "" if place["where"] else os.path.basename(place["file"])
        caption = shorten(_words({**place, "file": file}, ""), _LONGEST)
        drawn.append(
            close_tile(picture, caption)
            if is_close and picture["shapes"]
            else whole_tile(picture, _colours([picture])[0], caption)
        )
    pictures = [picture for picture in drawn if picture is not None]
    known = [picture["width"] is not None for _, picture in found["pictures"]]
    return {
        "severity": found["severity"],
        "title": f"{found['dataset']}: {count(found['count'])} {found['what']}",
        "effect": found["effect"],
        "fix": found["fix"],
        "folder": folder,  # what all places begin with
        "places": [_words(place, folder) for place in places],
        "more": len(found["places"]) - len(places),
        "pictures": pictures,
        # Those whose image is not to be had any more; of one that was left out, that is no news.
        "undrawn": sum(now is None for now, then in zip(drawn, known, strict=True) if then),
    }


def _words(place: Json, folder: str) -> str:
    text = ": ".join(filter(None, (place["file"], place["where"], place["note"])))
    return (text.removeprefix(folder).lstrip("/: ") or text) if folder else text


def _dataset(dataset: Json) -> dict[str, Any]:
    classes = sorted(dataset["classes"].items(), key=lambda item: (-item[1], item[0]))
    most = max(1, *dataset["classes"].values())
    bars = [(name, number, f"{100 * number / most:.1f}%") for name, number in classes]
    colours, key = _colours(dataset["pictures"])
    tiles = [
        whole_tile(
            picture,
            colours,
            f"{shorten(os.path.basename(picture['file']), _LONGEST)}: "
            f"{plural(len(picture['shapes']), 'object')}",
        )
        for picture in dataset["pictures"]
    ]
    return {
        "name": dataset["name"],
        "facts": _facts(dataset),
        "plots": (
            sides_picture(dataset["sides"]),
            aspects_picture(dataset["aspects"]),
            centres_picture(dataset["centres"]),
        )
        if dataset["sides"]
        else (),
        "bars": bars[:MOST_BARS],
        "more_bars": bars[MOST_BARS:],
        "colours": key,
        "pictures": [tile for tile in tiles if tile is not None],
    }


def _numbers(dataset: Json) -> tuple[str, list[str]]:
    """A row of the table of all sets: its name, and the numbers under the template's headings."""
    images, instances = dataset["images"], dataset["instances"]
    each = decimal(instances / images if images else None)
    numbers = (images, dataset["empty_images"], dataset["left_out"], instances)
    return dataset["name"], [*map(count, numbers), each]


def _facts(dataset: Json) -> list[tuple[str, str]]:
    sizes = dataset["image_sizes"]
    low, middle, high = (count(v) for v in np.quantile(dataset["sides"] or 0, (0, 0.5, 1)))
    sides = f"{low} to {high} pixels, median {middle}" if dataset["sides"] else ""
    file = f"{dataset['annotations']} ({dataset['format']})" if dataset["annotations"] else ""
    facts = {
        "holds": dataset["counted"],
        "classes": count(len(dataset["classes"])),
        "image sizes": few([f"{w} × {h} ({count(n)})" for w, h, n in sizes], 5),
        "object size at the input": sides,
        "masks": f"{dataset['mask_format']}s",
        "read from": file,
        "loaded": dataset["loader"],
    }
    return [(name, text) for name, text in facts.items() if text]


def _colours(pictures: Sequence[Json]) -> tuple[dict[str, str], dict[str, str]]:
    """Label -> colour of its outlines, and the key to it: rare labels share one colour."""
    counts = Counter(shape["label"] for picture in pictures for shape in picture["shapes"])
    ranked = [label for label, _ in counts.most_common()]
    colours = dict(zip(ranked, _COLOURS, strict=False))
    others = ranked[len(_COLOURS) :]
    words = {f"{len(others)} other classes": _OTHER_COLOUR} if others else {}
    return colours | dict.fromkeys(others, _OTHER_COLOUR), colours | words


def close_tile(picture: Json, caption: str) -> Picture | None:
    """What is around the shapes of a picture; the first one's line is the widest.

    Args:
        picture: of ``doctor.page_data``: ``file``, ``height``, ``width`` and ``shapes``.
        caption: what is said beneath it.

    Returns:
        None where the image cannot be read, or has another size by now.
    """
    width, height = size = picture["width"], picture["height"]
    widths = _ONE_WIDTH if len(picture["shapes"]) < 2 else _TWO_WIDTHS
    drawn = [
        Drawn(outline(shape, height, width), CLOSE_COLOURS[min(i, 1)], widths[min(i, 1)])
        for i, shape in enumerate(picture["shapes"])
    ]
    window = window_around([line for one in drawn for line in one.lines], *size)
    shown = window[2] - window[0], window[3] - window[1]
    if shown != size:
        caption += " (cut out: {} × {} of {} × {} pixels)".format(*shown, *size)
    return picture_of(picture["file"], *size, drawn, caption, window)


def whole_tile(picture: Json, colours: Mapping[str, str], caption: str) -> Picture | None:
    """A whole image with all its shapes, in the colours of their labels; else as close_tile."""
    size, shapes = (picture["width"], picture["height"]), picture["shapes"]
    drawn = [Drawn(outline(s, *size[::-1]), colours[s["label"]], _WIDTH) for s in shapes]
    return picture_of(picture["file"], *size, drawn, caption)


def sides_picture(sides: Sequence[float]) -> Picture:
    """How large objects are: square roots of box areas, in pixels of the network's input."""
    values = np.maximum(sides, _LEAST_SIDE)
    bins = 2 ** np.arange(np.floor(np.log2(values.min())), np.log2(values.max()) + 0.5, 0.25)
    return _histogram(
        values,
        bins,
        xlabel="√(box area), pixels of the network's input",
        words=count,
        alt=f"Object sides, half of them up to {decimal(float(np.median(values)), 0)} pixels.",
        caption="Object size",
    )


def aspects_picture(aspects: Sequence[float]) -> Picture:
    """How wide objects are: width / height of their boxes."""
    values = np.clip(aspects, 1 / _WIDEST, _WIDEST)
    return _histogram(
        values,
        2 ** np.arange(-4.125, 4.25, 0.25),  # a square lies in the middle of one
        xlabel="width : height of the box",
        words=_ratio,
        alt=f"Width / height of objects, {decimal(float(np.median(values)), 2)} at the median.",
        caption="Aspect ratio",
    )


def centres_picture(centres: Sequence[Sequence[int]]) -> Picture:
    """Where in their images objects are: how many centres of boxes are in each cell of a grid.

    Args:
        centres: rows from the top down, each from the left.
    """
    counts = np.array(centres)
    figure, axes = page_axes(PAGE_HEIGHT)
    shown = axes.imshow(counts, cmap="Blues", extent=(0, 100, 100, 0), vmin=0)
    figure.colorbar(shown, ax=axes, label="objects", shrink=0.8)
    dress(axes, "from the left, % of the width", "from the top, % of the height", grid="both")
    axes.grid(visible=False)
    most = count(counts.max())
    alt = f"Where in their images the centres of boxes are: up to {most} in a cell of a grid."
    return page_picture(figure, alt, "Centres of objects")


def _histogram(
    values: np.ndarray,
    bins: np.ndarray,
    xlabel: str,
    words: Callable[[float], str],
    alt: str,
    caption: str,
) -> Picture:
    figure, axes = page_axes(PAGE_HEIGHT)
    axes.hist(values, bins=list(bins), color=_COLOURS[0], edgecolor="white", linewidth=0.5)
    dress(axes, f"{xlabel} (logarithmic)", "objects")
    logarithmic(axes, 2, words)
    return page_picture(figure, alt, caption)


def _ratio(value: float) -> str:
    return f"{value:g}:1" if value >= 1 else f"1:{1 / value:g}"
