"""An explanation as text for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Iterator

from termcolor import colored

from transfer_maskrcnn.evaluation.explain.explanation import Explanation
from transfer_maskrcnn.evaluation.explain.figures import Figures
from transfer_maskrcnn.evaluation.explain.mistakes import SIZES
from transfer_maskrcnn.text import shorten

WIDTH = 80
_TASKS = {"bbox": "boxes", "segm": "masks"}
_SHORT = {
    "missed": "missed",
    "classification": "class",
    "localisation": "place",
    "mask": "mask",
    "duplicate": "twice",
    "background": "backgr.",
    "both": "both",
}
_MOST_CLASSES = 20
_WIDEST_NAME = 24


def text(dataset: str, explanations: dict[str, Explanation]) -> str:
    """The sentence, and the tables of each task."""
    first = next(iter(explanations.values()))
    lines = [colored(wrapped(f"{dataset}: {first.sentence}"), attrs=["bold"])]
    for task, explanation in explanations.items():
        figures = explanation.figures
        lines += [
            "",
            colored(
                f"{_TASKS[task].capitalize()}: AP {_number(figures.ap)}, AP50 "
                f"{_number(figures.ap50)}; {figures.objects:,} objects, "
                f"{figures.detections:,} detections",
                attrs=["bold"],
            ),
        ]
        if explanation is not first:
            lines.append(wrapped(explanation.sentence))
        if figures.objects:
            lines += ["", *_errors(figures), "", *_classes(figures)]
    return "\n".join([*lines, *_notes(first)])


def wrapped(sentence: str) -> str:
    """A sentence in lines of 80 columns."""
    return textwrap.fill(sentence, WIDTH)


def _errors(figures: Figures) -> Iterator[str]:
    yield "AP50 gained without one kind of mistake"
    yield f"{'mistake':<20}{'how many':>10}{'gain':>10}" + "".join(f"{s:>12}" for s in SIZES)
    for kind, repair in figures.repairs.items():
        if kind != "mask" or figures.task == "segm":
            gains = [_number(repair.by_size[size]) for size in SIZES]
            yield f"{kind:<20}{repair.count:>10,}{_number(repair.gain):>10}" + "".join(
                f"{gain:>12}" for gain in gains
            )
    found = [f"{group.found:,}/{group.objects:,}" for group in figures.sizes.values()]
    all_found = sum(group.found for group in figures.sizes.values())
    whole = f"{all_found:,}/{figures.objects:,}"
    yield f"{'found/objects':<20}{'':>6}{whole:>14}" + "".join(f"{one:>12}" for one in found)
    loose = f"AP lost to inexact boxes {_number(figures.loose_boxes)}"
    if figures.task == "segm":
        loose += f", to masks worse than their boxes {_number(figures.loose_masks)}"
    yield loose


def _classes(figures: Figures) -> Iterator[str]:
    kinds = [kind for kind in figures.repairs if kind != "mask" or figures.task == "segm"]
    yield "of each class, the worst first"
    wide = min(_WIDEST_NAME, WIDTH - 6 - 8 * len(kinds))
    yield f"{'class':<{wide}}{'AP50':>6}" + "".join(f"{_SHORT[kind]:>8}" for kind in kinds)
    worst = sorted(figures.class_ap50, key=lambda name: figures.class_ap50[name])
    for name in worst[:_MOST_CLASSES]:
        gains = (figures.repairs[kind].by_class[name] for kind in kinds)
        yield f"{_fit(name, wide)}{figures.class_ap50[name]:>6.1f}" + "".join(
            f"{_number(gain):>8}" for gain in gains
        )
    if len(worst) > _MOST_CLASSES:
        yield f"and {len(worst) - _MOST_CLASSES} more in explanation.json"


def _notes(explanation: Explanation) -> Iterator[str]:
    if explanation.notes:
        yield ""
    yield from map(wrapped, explanation.notes)


def _fit(name: str, columns: int) -> str:
    """``name`` and blanks, ``columns`` wide; the middle of a long one goes, as the ends differ."""
    short, room = name, columns
    while _columns(short) > columns - 1:
        room -= 1
        short = shorten(name, room)
    return short + " " * (columns - _columns(short))


def _columns(name: str) -> int:
    """Chinese, Japanese and Korean characters take two columns, combining ones none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in name)
    return len(name) + wide - sum(unicodedata.combining(character) > 0 for character in name)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
