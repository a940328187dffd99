"""The plots of a comparison: final AP, learning curves, and AP against the number of images."""

from __future__ import annotations

from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.plots import (
    INK,
    PAGE_HEIGHT,
    dress,
    from_zero,
    gaps,
    legend_above,
    line,
    new_figure,
    page_axes,
    page_picture,
    plain,
)
from transfer_maskrcnn.report.study_view import Study
from transfer_maskrcnn.report.texts import count, decimal, interval, metric_name

_FIGURE_WIDTH, _FIGURE_HEIGHT, _FIGURE_DPI = 12.0, 4.4, 100
_NOTE = (
    "Large marks: means over the seeds; small dots: single seeds; bars: 95 % intervals; "
    "bands: from the lowest seed to the highest."
)


def write_study_figure(folder: Path, output: Path) -> None:
    """Write the result of a comparison as one PNG, 1200 pixels wide.

    From left to right: the final metric of every variant with its 95 % interval and the single
    seeds, at the largest fraction of the images; the learning curves; where there are several
    fractions, the metric against the number of images.

    Args:
        folder: holds ``study.json``.
        output: the PNG, written whole or not at all.

    Raises:
        TransferError: there is no readable comparison in ``folder``.
    """
    figure = study_figure(Study(folder))
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=_FIGURE_DPI)


def study_figure(study: Study) -> Figure:
    """The figure of :func:`write_study_figure`."""
    fraction = study.fractions[0]
    panels = 3 if len(study.fractions) > 1 else 2
    height = max(_FIGURE_HEIGHT, 1.4 + 0.5 * len(study.names))
    figure = new_figure(_FIGURE_WIDTH, height)
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
    where = study.fraction_text(fraction)
    alt = f"Final {metric_name(study.metric)} with {where}, mean and 95 % interval: {of_variants}."
    return page_picture(figure, alt, f"Final {metric_name(study.metric)}, {where}")


def curves_picture(study: Study, fraction: float) -> Picture:
    """The learning curves of all variants at one fraction."""
    figure, axes = page_axes(_height(study))
    entries = draw_curves(axes, study, fraction) + draw_reference(axes, study, fraction)
    legend_above(axes, entries)
    of_variants = "; ".join(
        f"{cell['variant']} from {decimal(cell['curve'][0]['mean'])} to "
        f"{decimal(cell['curve'][-1]['mean'])}"
        for cell in study.row(fraction)
    )
    where = study.fraction_text(fraction)
    alt = f"{metric_name(study.metric)} during training with {where}: {of_variants}."
    return page_picture(figure, alt, f"{metric_name(study.metric)} during training, {where}")


def by_images_picture(study: Study) -> Picture:
    """The final metric of all variants against the number of training images."""
    figure, axes = page_axes()
    legend_above(axes, draw_by_images(axes, study))
    name = metric_name(study.metric)
    return page_picture(figure, f"{name} of every variant against the number of training images.")


def _height(study: Study) -> float:
    # the legend above the curves needs a line for every two variants
    return max(PAGE_HEIGHT, 0.9 + 0.48 * len(study.names))


def draw_final(axes: Axes, study: Study, fraction: float) -> None:
    """A row a variant: the mean with its interval, and below it the single seeds."""
    above, below = (_shifted(axes, points) for points in (8, -11))
    for row, cell in enumerate(study.row(fraction)):
        name, mean = cell["variant"], cell["mean"]
        look = study.looks[name]
        axes.plot(cell["interval"], (row, row), color=look.colour, linewidth=2.2)
        axes.plot(mean, row, look.marker, color=look.colour, markersize=8)
        axes.text(mean, row, decimal(mean), transform=above, ha="center", color=INK, fontsize=9.5)
        values = [run["results"].get(study.metric) for run in study.runs_of(name, fraction)]
        seeds = [value for value in values if value is not None]
        axes.plot(seeds, [row] * len(seeds), ".", color=look.colour, alpha=0.75, transform=below)
    dress(axes, metric_name(study.metric), grid="x")
    axes.set_yticks(range(len(study.names)), [plain(name) for name in study.names])
    axes.set_ylim(len(study.names) - 0.45, -0.6)
    axes.set_xlim(*_final_range(study))


def _shifted(axes: Axes, points: float) -> Transform:
    """Data coordinates, so much higher: what stands beside a mark keeps its distance."""
    return axes.transData + ScaledTranslation(0, points / 72, axes.figure.dpi_scale_trans)


def _final_range(study: Study) -> tuple[float, float]:
    """The x axis of the final metric, the same for all fractions, so that they can be compared."""
    known = [run["results"].get(study.metric) for run in study.runs]
    for cell in study.cells.values():
        known += [cell["mean"], *cell["interval"]]
    values = [value for value in known if value is not None]
    low, high = min(values, default=0), max([*values, 1])
    if low < 0.4 * high:
        low = min(low, 0)  # near enough to show where nothing is
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def draw_curves(axes: Axes, study: Study, fraction: float) -> list[tuple[str, Artist]]:
    """Means over the seeds in bands; returns the legend's entries."""
    entries: list[tuple[str, Artist]] = []
    for cell in study.row(fraction):
        look, curve = study.looks[cell["variant"]], cell["curve"]
        style = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
        x = [point["iteration"] for point in curve]
        mean, low, high = ([p[k] for p in curve] for k in ("mean", "low", "high"))
        entries.append((plain(cell["variant"]), line(axes, x, mean, **style)))
        axes.fill_between(x, gaps(low), gaps(high), color=look.colour, alpha=0.15, linewidth=0)
    dress(axes, "iteration", metric_name(study.metric))
    highest = [point["high"] or 0 for cell in study.cells.values() for point in cell["curve"]]
    axes.set_ylim(0, 1.05 * max(*highest, 1))  # of all fractions, so that they can be compared
    return entries


def draw_reference(axes: Axes, study: Study, fraction: float) -> list[tuple[str, Artist]]:
    """The level that learning curves are asked to reach; returns the legend's entry."""
    level = next((c["reaches"]["level"] for c in study.row(fraction) if c["reaches"]), None)
    if level is None:
        return []
    dashed = axes.axhline(level, color="#777777", linestyle=(0, (4, 3)), linewidth=1)
    return [(f"final {plain(study.facts['reference'], 20)}", dashed)]


def draw_by_images(axes: Axes, study: Study) -> list[tuple[str, Artist]]:
    """A point a fraction with its interval, on a logarithmic x axis; returns legend entries."""
    entries: list[tuple[str, Artist]] = []
    fractions = sorted(study.fractions)
    x = [study.images[fraction] for fraction in fractions]
    for name, look in study.looks.items():
        cells = [study.cells[name, fraction] for fraction in fractions]
        style = {"color": look.colour, "marker": look.marker}
        entries.append((plain(name), line(axes, x, [cell["mean"] for cell in cells], **style)))
        for images, cell in zip(x, cells, strict=True):
            axes.plot((images, images), cell["interval"], color=look.colour, lw=1.2, alpha=0.7)
    dress(axes, "training images", metric_name(study.metric))
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, [count(images) for images in x])
    from_zero(axes)
    return entries
