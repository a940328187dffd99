"""The plots of a dataset: how many of each class, how large its images and objects are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.plots import (
    INK,
    PAGE_HEIGHT,
    dress,
    looks,
    page_axes,
    page_picture,
    plain,
)
from transfer_maskrcnn.report.texts import count, decimal
from transfer_maskrcnn.text import few

Floats = npt.NDArray[np.float64]

MOST_BARS = 24
_COLOUR = looks(["bars"])["bars"].colour
_IMBALANCED = 10  # times as many: from here on a linear scale hides the rare classes
_LEAST_SIDE = 1.0  # pixel; smaller objects are counted there
_WIDEST = 16  # times as wide as high; what is beyond is counted there


def classes_picture(classes: Mapping[str, int]) -> Picture | None:
    """A bar a class, the most frequent ones first; None for a single class."""
    ranked = sorted(classes.items(), key=lambda item: -item[1])
    if len(ranked) < 2:
        return None
    shown = ranked[:MOST_BARS]
    counts = [number for _, number in shown]
    figure, axes = page_axes(1.1 + 0.24 * len(shown))
    bars = axes.barh(range(len(shown)), counts, color=_COLOUR, height=0.7)
    axes.bar_label(bars, [count(number) for number in counts], padding=3, fontsize=8.5, color=INK)
    positive = [number for number in counts if number]
    is_log = bool(positive) and max(positive) >= _IMBALANCED * min(positive)
    dress(axes, "instances (logarithmic)" if is_log else "instances", grid="x")
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(left=0.7)
        axes.xaxis.set_major_locator(LogLocator(10))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.margins(x=0.12)
    axes.set_yticks(range(len(shown)), [plain(name) for name, _ in shown])
    axes.invert_yaxis()
    some = few([f"{name} {count(number)}" for name, number in shown], 10)
    which = f", the {MOST_BARS} most frequent of {len(ranked)}" if len(ranked) > MOST_BARS else ""
    return page_picture(figure, f"Instances of each class: {some}.", f"Instances by class{which}")


def image_sizes_picture(sizes: Sequence[Sequence[int]]) -> Picture | None:
    """Widths and heights of images, larger where there are more; None for a single size.

    Args:
        sizes: (width, height, how many), in pixels.
    """
    if len(sizes) < 2:
        return None
    width, height, number = np.array(sizes, dtype=float).T
    figure, axes = page_axes(PAGE_HEIGHT)
    area = 24 + 400 * number / number.max()
    axes.scatter(width, height, s=area, color=_COLOUR, alpha=0.45, linewidths=0)
    dress(axes, "width, pixels", "height, pixels", grid="both")
    axes.margins(0.12)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    largest = f"{count(width.max())} wide and {count(height.max())} high at most"
    return page_picture(figure, f"{len(sizes)} sizes of images, {largest}.", "Image sizes")


def sides_picture(sides: Sequence[float]) -> Picture | None:
    """How large objects are: square roots of box areas, in pixels of the network's input."""
    if not sides:
        return None
    values = np.maximum(sides, _LEAST_SIDE)
    bins = 2 ** np.arange(np.floor(np.log2(values.min())), np.log2(values.max()) + 0.5, 0.25)
    figure, axes = _histogram(values, bins, "√(box area), pixels of the network's input")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    middle = decimal(float(np.median(values)), 0)
    return page_picture(figure, f"Object sides, half of them up to {middle} pixels.", "Object size")


def aspects_picture(aspects: Sequence[float]) -> Picture | None:
    """How wide objects are: width / height of their boxes."""
    if not aspects:
        return None
    values = np.clip(aspects, 1 / _WIDEST, _WIDEST)
    bins = 2 ** np.arange(-4.125, 4.25, 0.25)  # a square lies in the middle of one
    figure, axes = _histogram(values, bins, "width : height of the box")
    axes.xaxis.set_major_formatter(FuncFormatter(_ratio))
    middle = decimal(float(np.median(values)), 2)
    return page_picture(
        figure, f"Width / height of objects, {middle} at the median.", "Aspect ratio"
    )


def _histogram(values: Floats, bins: Floats, xlabel: str) -> tuple[Figure, Axes]:
    figure, axes = page_axes(PAGE_HEIGHT)
    axes.hist(values, bins=list(bins), color=_COLOUR, edgecolor="white", linewidth=0.5)
    dress(axes, f"{xlabel} (logarithmic)", "objects")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(2, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    return figure, axes


def _ratio(value: float, _: int | None) -> str:
    return f"{value:g}:1" if value >= 1 else f"1:{1 / value:g}"
