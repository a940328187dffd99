"""What all plots of the reports share: colours, axes, and how a figure becomes part of a page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.text import shorten

INK, FAINT = "#222222", "#d9d9d9"
PAGE_WIDTH = 5.4  # inches; shown at about 100 CSS pixels an inch
PAGE_HEIGHT = 3.6
_PAGE_DPI = 190

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) is meant for colour-blind readers, too;
# its yellow, invisible on white, is left out. Markers tell variants apart without any colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))


@dataclass(frozen=True)
class Look:
    """How one variant looks in every plot, and the character that stands for it in the text."""

    colour: str
    marker: str
    glyph: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look a name: colours repeat after seven, pairs of colour and marker after 49."""
    size = len(_COLOURS)
    return {
        name: Look(_COLOURS[i % size], *_MARKERS[(i + i // size) % size])
        for i, name in enumerate(names)
    }


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, in inches, that lays its axes out by itself."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def page_axes(height: float = PAGE_HEIGHT) -> tuple[Figure, Axes]:
    """The figure of a plot that stands alone on a page, and its axes."""
    figure = new_figure(PAGE_WIDTH, height)
    return figure, figure.add_subplot()


def page_picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    """``figure`` as part of a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PAGE_DPI)
    return Picture(buffer.getvalue(), "png", alt, caption)


def dress(axes: Axes, xlabel: str, ylabel: str = "", grid: str = "y") -> None:
    """Thin lines, no box: the data stand out."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=INK, color="#888888", labelsize=9.5)
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.set_ylabel(ylabel, color=INK, fontsize=10)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def plain(text: str, most: int = 24) -> str:
    """A name for a plot: neither too long nor read as a formula between dollars."""
    return shorten(text, most).replace("$", r"\$")


def legend_above(axes: Axes, entries: Sequence[tuple[str, Artist]]) -> None:
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


def line(axes: Axes, x: Sequence[float], y: Sequence[float | None], **style: Any) -> Line2D:
    """A line with a gap where ``y`` is None."""
    return axes.plot(x, gaps(y), **{"linewidth": 1.8, **style})[0]


def gaps(values: Iterable[float | None]) -> list[float]:
    """NaN, where matplotlib leaves a gap, for None."""
    return [float("nan") if value is None else value for value in values]


def from_zero(axes: Axes, least: float = 1.0) -> None:
    """A y axis that begins at 0 and ends at ``least`` or above."""
    axes.set_ylim(0, max(axes.get_ylim()[1], least))
