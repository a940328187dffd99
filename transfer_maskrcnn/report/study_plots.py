"""The plots of a comparison: final AP, learning curves, and AP against the number of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from transfer_maskrcnn.report.page import Picture, count, decimal, interval, metric_name
from transfer_maskrcnn.report.plots import (
    INK,
    PAGE_HEIGHT,
    Entries,
    dress,
    legend_above,
    line,
    name_rows,
    new_figure,
    page_axes,
    page_picture,
    plain,
)

if TYPE_CHECKING:
    from transfer_maskrcnn.report.study_page import Study

_FIGURE_WIDTH, _FIGURE_HEIGHT = 12.0, 4.4
_NOTE = (
    "Large marks: means over the seeds; small dots: single seeds; bars: 95 % intervals; "
    "bands: from the lowest seed to the highest."
)


def study_figure(study: Study) -> Figure:
    """The result in two panels or, where there are several fractions, three."""
    fraction, panels = study.fractions[0], 3 if len(study.fractions) > 1 else 2
    figure = new_figure(_FIGURE_WIDTH, max(_FIGURE_HEIGHT, 1.4 + 0.5 * len(study.names)))
    axes = figure.subplots(1, panels, gridspec_kw={"width_ratios": [1, 1.1, 1][:panels]})
    titles = [
        f"Final {metric_name(study.metric)}, {study.fraction_text(fraction)}",
        f"During training, {study.fraction_text(fraction)}",
        "Against the number of images",
    ]
    draw_final(axes[0], study, fraction)
    draw_curves(axes[1], study, fraction)
    if panels == 3:
        draw_by_images(axes[2], study)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(plain(title, 60), loc="left", fontsize=11, color=INK, pad=10)
    figure.supxlabel(_NOTE, x=0.01, ha="left", fontsize=9.5, color="#666666")
    return figure


def final_picture(study: Study, fraction: float) -> Picture:
    """The final metric of every variant at one fraction."""
    figure, axes = page_axes(_height(study))
    draw_final(axes, study, fraction)
    of_variants = "; ".join(
        f"{cell['variant']} {decimal(cell['mean'])} ({interval(cell['interval'])})"
        for cell in study.row(fraction)
    )
    name, where = f"Final {metric_name(study.metric)}", study.fraction_text(fraction)
    alt = f"{name} with {where}, mean and 95 % interval: {of_variants}."
    return page_picture(figure, alt, f"{name}, {where}")


def curves_picture(study: Study, fraction: float) -> Picture:
    """The learning curves of all variants at one fraction."""
    figure, axes = page_axes(_height(study))
    curves, level = draw_curves(axes, study, fraction), draw_reference(axes, study, fraction)
    legend_above(axes, curves + level)
    of_variants = "; ".join(
        f"{cell['variant']} from {decimal(cell['curve'][0]['mean'])} to "
        f"{decimal(cell['curve'][-1]['mean'])}"
        for cell in study.row(fraction)
    )
    name, where = f"{metric_name(study.metric)} during training", study.fraction_text(fraction)
    return page_picture(figure, f"{name} with {where}: {of_variants}.", f"{name}, {where}")


def by_images_picture(study: Study) -> Picture:
    """The final metric of all variants against the number of training images."""
    figure, axes = page_axes()
    legend_above(axes, draw_by_images(axes, study))
    return page_picture(
        figure,
        f"{metric_name(study.metric)} of every variant against the number of training images.",
    )


def _height(study: Study) -> float:
    # the legend above the curves needs a line for every two variants
    return max(PAGE_HEIGHT, 0.9 + 0.48 * len(study.names))


def draw_final(axes: Axes, study: Study, fraction: float) -> None:
    """A row a variant: the mean with its interval, and below it the single seeds."""
    above, below = (  # data coordinates, so many points higher: the distance to a mark stays
        axes.transData + ScaledTranslation(0, points / 72, axes.figure.dpi_scale_trans)
        for points in (8, -11)
    )
    for row, cell in enumerate(study.row(fraction)):
        mean, look = cell["mean"], study.looks[cell["variant"]]
        axes.plot(cell["interval"], (row, row), color=look.colour, linewidth=2.2)
        axes.plot(mean, row, look.marker, color=look.colour, markersize=8)
        axes.text(mean, row, decimal(mean), transform=above, ha="center", color=INK, fontsize=9.5)
        runs = study.runs_of(cell["variant"], fraction)
        seeds = [ap for run in runs if (ap := run["results"].get(study.metric)) is not None]
        axes.plot(seeds, [row] * len(seeds), ".", color=look.colour, alpha=0.75, transform=below)
    dress(axes, metric_name(study.metric), grid="x")
    name_rows(axes, study.names)
    axes.set_ylim(len(study.names) - 0.45, -0.6)
    axes.set_xlim(*_final_range(study))


def _final_range(study: Study) -> tuple[float, float]:
    """The x axis of the final metric, the same for all fractions, so that they can be compared."""
    known = [run["results"].get(study.metric) for run in study.runs]
    known += [ap for cell in study.cells.values() for ap in (cell["mean"], *cell["interval"])]
    values = [value for value in known if value is not None]
    low, high = min(values, default=0), max([*values, 1])
    if low < 0.4 * high:
        low = min(low, 0)  # near enough to show where nothing is
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def draw_curves(axes: Axes, study: Study, fraction: float) -> Entries:
    """Means over the seeds in bands; returns the legend's entries."""
    entries: Entries = []
    for cell in study.row(fraction):
        look, curve = study.looks[cell["variant"]], cell["curve"]
        x, low, high = ([p[k] for p in curve] for k in ("iteration", "low", "high"))
        points = [(point["iteration"], point["mean"]) for point in curve]
        entries.append(
            (
                plain(cell["variant"]),
                line(axes, points, color=look.colour, marker=look.marker, markersize=4.5),
            )
        )
        axes.fill_between(  # None leaves a gap
            x, *np.array((low, high), float), color=look.colour, alpha=0.15, linewidth=0
        )
    dress(axes, "iteration", metric_name(study.metric))
    highest = [point["high"] or 0 for cell in study.cells.values() for point in cell["curve"]]
    axes.set_ylim(0, 1.05 * max(*highest, 1))  # of all fractions, so that they can be compared
    return entries


def draw_reference(axes: Axes, study: Study, fraction: float) -> Entries:
    """The level that learning curves are asked to reach; returns the legend's entry."""
    level = next((c["reaches"]["level"] for c in study.row(fraction) if c["reaches"]), None)
    if level is None:
        return []
    dashed = axes.axhline(level, color="#777777", linestyle=(0, (4, 3)), linewidth=1)
    return [(f"final {plain(study.facts['reference'], 20)}", dashed)]


def draw_by_images(axes: Axes, study: Study) -> Entries:
    """A point a fraction with its interval, on a logarithmic x axis; returns legend entries."""
    entries: Entries = []
    fractions = study.fractions[::-1]
    x = [study.images[fraction] for fraction in fractions]
    for name, look in study.looks.items():
        cells = [study.cells[name, fraction] for fraction in fractions]
        points = [(n, cell["mean"]) for n, cell in zip(x, cells, strict=True)]
        entries.append((plain(name), line(axes, points, color=look.colour, marker=look.marker)))
        intervals = np.transpose([cell["interval"] for cell in cells])
        axes.plot((x, x), intervals, color=look.colour, lw=1.2, alpha=0.7)
    dress(axes, "training images", metric_name(study.metric))
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, [count(images) for images in x])
    axes.set_ylim(0, max(axes.get_ylim()[1], 1))
    return entries
