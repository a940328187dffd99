"""The tables of a comparison's page."""

from __future__ import annotations

from dataclasses import dataclass

from transfer_maskrcnn.report.study_input import Cell, Comparison, Figures, Study
from transfer_maskrcnn.report.tables import HeatTable, drift_table, mean
from transfer_maskrcnn.report.texts import decimal, metric_name, why_undefined


@dataclass(frozen=True)
class ResultRow:
    """What one variant came to. ``figures`` are those of ``ResultGroup.titles``."""

    cell: Cell
    figures: tuple[float | None, ...]
    seconds: float | None
    memory: float | None


@dataclass(frozen=True)
class ResultGroup:
    """The variants at one fraction of the images. ``titles``: metrics beside the study's own."""

    fraction: float
    titles: tuple[str, ...]
    rows: tuple[ResultRow, ...]


def result_groups(study: Study) -> list[ResultGroup]:
    """Results and costs, a group a fraction; seconds and MiB are means over the seeds."""
    own = study.metric.partition("/")[0]
    other = "bbox" if own == "segm" else "segm"
    wanted = [f"{own}/AP", f"{own}/AP50", f"{other}/AP"]
    present = {m for c in study.cells.values() for m, v in c.means.items() if v is not None}
    beside = [metric for metric in wanted if metric != study.metric and metric in present]
    groups = []
    for fraction in study.fractions:
        cells = [study.cells.get((variant.name, fraction)) for variant in study.variants]
        rows = [_result_row(study, cell, beside) for cell in cells if cell is not None]
        groups.append(ResultGroup(fraction, tuple(map(metric_name, beside)), tuple(rows)))
    return groups


def _result_row(study: Study, cell: Cell, metrics: list[str]) -> ResultRow:
    costs = [study.costs.get(run.folder, {}) for run in study.runs_of(cell.variant, cell.fraction)]
    seconds, memory = (
        mean([cost.get(key) for cost in costs]) for key in ("seconds", "peak_memory_mb")
    )
    return ResultRow(cell, tuple(cell.means.get(m) for m in metrics), seconds, memory)


def comparisons_by_fraction(study: Study) -> dict[float, list[Comparison]]:
    """The comparisons, those at the largest fraction first."""
    fractions = sorted({c.fraction for c in study.comparisons}, reverse=True)
    return {f: [c for c in study.comparisons if c.fraction == f] for f in fractions}


def class_rows(study: Study) -> list[tuple[str, list[str]]]:
    """A row a class: its AP for every variant, at the largest fraction; none where nothing is known."""
    if not study.fractions:
        return []
    task = study.metric.partition("/")[0]
    cells = [study.cells.get((variant.name, study.fractions[0])) for variant in study.variants]
    figures: list[Figures] = [
        {k.partition("/")[2]: v for k, v in (cell.means if cell else {}).items() if _of(k, task)}
        for cell in cells
    ]
    known = {key for column in figures for key in column}
    return [
        (name, [_class_text(f"AP-{name}", column) for column in figures])
        for name in study.classes
        if f"AP-{name}" in known
    ]


def _of(metric: str, task: str) -> bool:
    return metric.startswith(f"{task}/")


def _class_text(key: str, figures: Figures) -> str:
    value = figures.get(key)
    return (
        decimal(value) if value is not None or key not in figures else why_undefined(key, figures)
    )


def moved(study: Study) -> tuple[str, HeatTable] | None:
    """The drift of every part, mean over the seeds, at the largest fraction that has some; which
    it is, in words."""
    for fraction in study.fractions:
        columns: dict[str, Figures] = {}
        for variant in study.variants:
            runs = [run.drift for run in study.runs_of(variant.name, fraction) if run.drift]
            parts = dict.fromkeys(part for drift in runs for part in drift)
            columns[variant.name] = {part: mean([d.get(part) for d in runs]) for part in parts}
        table = drift_table(columns)
        if table is not None:
            return study.fraction_text(fraction), table
    return None


def settings_rows(study: Study) -> list[tuple[str, list[str | None]]]:
    """A row a configuration key whose value is not the same in all variants; None where not set."""
    keys = dict.fromkeys(key for variant in study.variants for key in variant.settings)
    rows = [(key, [variant.settings.get(key) for variant in study.variants]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def shared_settings(study: Study) -> dict[str, str]:
    """The configuration keys that every variant sets to the same value."""
    differ = {key for key, _ in settings_rows(study)}
    settings = (variant.settings for variant in study.variants)
    return {k: v for variant in settings for k, v in variant.items() if k not in differ}
