"""What all plots of the reports share: colours, axes, and how a figure becomes part of a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.text import printable, shorten

INK, FAINT = "#222222", "#d9d9d9"
PAGE_WIDTH, PAGE_HEIGHT = 5.4, 3.6  # inches; shown at about 100 CSS pixels an inch
MOST_BARS = 24

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) is meant for colour-blind readers, too;
# its yellow, invisible on white, is left out. Markers tell variants apart without any colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))

Points = Sequence[tuple[float, float | None]]
Entries = list[tuple[str, Artist]]  # of a legend


@dataclass(frozen=True)
class Look:
    """How one variant looks in every plot, and the character that stands for it in the text."""

    colour: str
    marker: str
    glyph: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look a name: colours repeat after seven, pairs of colour and marker after 49."""
    size = len(_COLOURS)
    return {
        name: Look(_COLOURS[i % size], *_MARKERS[(i + i // size) % size])
        for i, name in enumerate(names)
    }


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, in inches, that lays its axes out by itself."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def page_axes(height: float = PAGE_HEIGHT) -> tuple[Figure, Axes]:
    """The figure of a plot that stands alone on a page, and its axes."""
    figure = new_figure(PAGE_WIDTH, height)
    return figure, figure.add_subplot()


def page_picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    """``figure`` as part of a page: without a ground, as a page may be light or dark."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=190, transparent=True)
    return Picture(buffer.getvalue(), "png", alt, caption)


def lines_picture(
    lines: Iterable[tuple[str, Points, dict[str, Any]]],
    ylabel: str,
    alt: str,
    caption: str,
    least: float = 1.0,
) -> Picture | None:
    """Lines over the iterations, from zero to ``least`` or above; None where none has a point.

    Args:
        lines: name, points and style of each; those without a point are left out.
    """
    there = [line for line in lines if line[1]]
    if not there:
        return None
    figure, axes = page_axes()
    entries: Entries = [(plain(name), line(axes, some, **style)) for name, some, style in there]
    dress(axes, "iteration", ylabel)
    axes.set_ylim(0, max(axes.get_ylim()[1], least))
    legend_above(axes, entries)
    return page_picture(figure, alt, caption)


def dress(axes: Axes, xlabel: str, ylabel: str = "", grid: str = "y") -> None:
    """Thin lines, no box: the data stand out."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.tick_params(colors=INK, color="#888888", labelsize=9.5)
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.set_ylabel(ylabel, color=INK, fontsize=10)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A name at each whole number of the y axis, the first on top."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.invert_yaxis()


def logarithmic(axes: Axes, base: int, words: Callable[[float], str]) -> None:
    """An x axis in powers of ``base``, each put in ``words``."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_locator(LogLocator(base, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))


def plain(text: str, most: int = 24) -> str:
    """A name for a plot: neither too long nor read as a formula between dollars."""
    return str(printable(shorten(text, most))).replace("$", r"\$")


def legend_above(axes: Axes, entries: Entries) -> None:
    """A legend between the figure's top and the axes, in as many columns as its names allow."""
    longest = max((len(name) for name, _ in entries), default=0)
    axes.legend(
        [artist for _, artist in entries],
        [name for name, _ in entries],
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        borderaxespad=0,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        ncol=3 if longest <= 14 else 2,
        columnspacing=1.2,
        handlelength=1.8,
    )


def line(axes: Axes, points: Points, **style: Any) -> Line2D:
    """A line with a gap where a value is None; a lone point is a dot."""
    x, y = zip(*points, strict=True)
    return axes.plot(x, y, **{"linewidth": 1.8, "marker": "." * (len(points) == 1), **style})[0]
