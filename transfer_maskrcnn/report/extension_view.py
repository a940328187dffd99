"""What an extended model knows of its base and novel classes, as a page shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_maskrcnn.report.json_files import number, pair
from transfer_maskrcnn.report.plots import (
    Picture,
    dress,
    legend_above,
    looks,
    page_axes,
    page_picture,
    plain,
)
from transfer_maskrcnn.report.texts import count, decimal, few, interval, listed, plural, task_name

TASKS = ("segm", "bbox")
MOST_BARS = 24
MOST_LABELLED = 8  # classes in a sentence
_BAR = 0.38  # of the place of a class


@dataclass(frozen=True)
class ExtensionView:
    """A row a task of figures; the bars are of the first task."""

    sentences: tuple[str, ...]
    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    remarks: tuple[str, ...]
    plot: Picture | None


def view_extension(extension: Mapping[str, Any]) -> ExtensionView | None:
    """Of what ``evaluation.json`` holds; None where it holds no figures.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is damaged.
    """
    tasks = [task for task in TASKS if task in extension]
    if not tasks:
        return None
    first = extension[tasks[0]]
    base, novel = number(extension["base_classes"]), number(extension["novel_classes"])
    titles = (
        *(f"base classes ({_share(first, 'base', base)})", "before", "forgotten", "95 % interval"),
        *(f"novel classes ({_share(first, 'novel', novel)})", "all", "harmonic mean"),
    )
    rows = tuple((f"{task_name(task)} AP", _row(extension[task])) for task in tasks)
    return ExtensionView(
        (_sentence(first, task_name(tasks[0])),),
        titles,
        rows,
        tuple(_remarks(extension, first)),
        _classes_picture(first["classes"], task_name(tasks[0])),
    )


def _share(figures: Mapping[str, Any], which: str, known: float | None) -> str:
    """Of the classes that the model knows, those that the test sets have objects of."""
    scored = number(figures["scored"][which])
    return count(known) if scored in (0, known) else f"{count(scored)} of {count(known)}"


def pseudo_labels_sentence(summary: Mapping[str, Any]) -> str:
    """Of ``pseudo_labels.json``: what the source model labelled; "" where there is none.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is damaged.
    """
    if not summary:
        return ""
    counts = Counter({name: int(found["objects"]) for name, found in summary["classes"].items()})
    most = [f"{name} {count(objects)}" for name, objects in (+counts).most_common()]
    return (
        f"Before training, the source model labelled {plural(counts.total(), 'object')} of base "
        f"classes on the {plural(summary['images'], 'training image')}"
        f"{f' ({few(most, MOST_LABELLED)})' if most else ''}; no loss depends on "
        f"{plural(summary['doubtful'], 'doubtful one')}."
    )


def _row(figures: Mapping[str, Any]) -> tuple[str, ...]:
    lost = figures["forgetting"] or {}
    return (
        decimal(number(figures["base"])),
        decimal(number(figures["before"])),
        decimal(number(lost.get("ap"))),
        interval(_bounds(lost)),
        *(decimal(number(figures[key])) for key in ("novel", "all", "harmonic_mean")),
    )


def _bounds(lost: Mapping[str, Any]) -> tuple[float, float] | None:
    return pair((lost.get("low"), lost.get("high")))


def _sentence(figures: Mapping[str, Any], kind: str) -> str:
    if number(figures["base"]) is None:
        return "No test set annotates a base class; DATASETS.TEST_BASE names sets that do."
    reached = f"On its base classes the model reaches {decimal(figures['base'])} {kind} AP"
    lost = figures["forgetting"]
    if not lost:
        return f"{reached}; without the source model nobody knows what it forgot."
    reached = f"{reached}, and its source {decimal(figures['before'])}"
    images, bounds = plural(figures["images"], "image"), _bounds(lost)
    if bounds is None:
        return f"{reached}; {images} cannot tell whether that is forgetting."
    low, high = bounds
    if low == high == 0:
        return f"{reached}: nothing is forgotten."
    if low > 0:
        return f"{reached}: it forgot {decimal(lost['ap'])} (95 % interval {interval(bounds)})."
    if high < 0:
        gain = interval((-high, -low))
        return f"{reached}: it gained {decimal(-lost['ap'])} (95 % interval {gain})."
    return f"{reached}: {images} cannot tell the difference from nothing."


def _remarks(extension: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    sets = extension["sets"]
    where = (
        f"Base classes are scored on {listed(sets['base'])}, novel ones on {listed(sets['novel'])}."
    )
    how = "Every AP is a mean over classes that have objects."
    if _bounds(figures["forgetting"] or {}) is None:
        return [f"{where} {how}"]
    return [
        f"{where} {how} The interval is that of 1,000 resamples of the "
        f"{plural(figures['images'], 'image')} with base classes, the same for both models; another "
        "seed of training is not in it."
    ]


def _classes_picture(classes: Mapping[str, Mapping[str, Any]], kind: str) -> Picture | None:
    """Two bars a class, before and after; of many classes those that changed most."""
    known = [(n, number(ap["before"]), number(ap["after"])) for n, ap in classes.items()]
    whole = [(n, b, a) for n, b, a in known if b is not None and a is not None]
    if not whole:
        return None
    kept = {n for n, _, _ in sorted(whole, key=lambda one: -abs(one[1] - one[2]))[:MOST_BARS]}
    shown = [one for one in whole if one[0] in kept]
    figure, axes = page_axes(1.2 + 0.34 * len(shown))
    places, styles = np.arange(len(shown)), looks(["after", "before"])
    bars = [
        (
            f"{when} training",
            axes.barh(
                places + shift, [one[k] for one in shown], height=_BAR, color=styles[when].colour
            ),
        )
        for k, (when, shift) in enumerate((("before", -_BAR / 2), ("after", _BAR / 2)), start=1)
    ]
    for _, drawn in bars:
        axes.bar_label(drawn, fmt=decimal, padding=3, fontsize=8)
    dress(axes, f"{kind} AP", grid="x")
    axes.margins(x=0.1)
    axes.set_yticks(places, [plain(name) for name, _, _ in shown])
    axes.invert_yaxis()
    legend_above(axes, [(name, drawn[0]) for name, drawn in bars])
    words = "; ".join(f"{n} {decimal(b)} before, {decimal(a)} after" for n, b, a in shown)
    which = (
        f", the {MOST_BARS} of {len(whole)} that changed most" if len(whole) > len(shown) else ""
    )
    return page_picture(figure, f"{kind} AP: {words}.", f"Base classes, before and after{which}")
