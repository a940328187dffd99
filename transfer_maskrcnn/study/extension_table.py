"""A row for runs that differ by seed alone: how well they know base and novel classes."""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from transfer_maskrcnn.errors import TransferError, nearest
from transfer_maskrcnn.study.compare import t_quantile
from transfer_maskrcnn.study.extension_runs import FIGURES, RunScores, ScoredOn
from transfer_maskrcnn.study.words import KIND
from transfer_maskrcnn.text import plural, shorten

WIDTH = 80
_LEAST_NAME = 8
_COLUMNS = {
    "base": "base\nAP",
    "novel": "novel\nAP",
    "all": "all\nAP",
    "harmonic_mean": "harm.\nmean",
    "forgetting": "\nforgot",
}


@dataclass(frozen=True)
class Estimate:
    """A mean over runs; ``half`` is half of its 95 % interval, None of a single run."""

    mean: float
    half: float | None


@dataclass(frozen=True)
class Row:
    """Runs of one name.

    Attributes:
        figures: by FIGURES; None for what not every run knows.
    """

    name: str
    runs: tuple[RunScores, ...]
    figures: dict[str, Estimate | None]

    def mean(self, figure: str) -> float | None:
        """Of a figure that every run knows."""
        estimate = self.figures[figure]
        return None if estimate is None else estimate.mean

    @property
    def kept(self) -> float | None:
        """Base AP in % of the source's."""
        return _percent(self.mean("base"), self.mean("before"))


def group_rows(runs: Iterable[RunScores]) -> list[Row]:
    """A row a name, in the order of ``runs``; names that differ by numbers alone, by these."""
    groups: dict[str, list[RunScores]] = {}
    for run in runs:
        groups.setdefault(run.row, []).append(run)
    patterns = list(dict.fromkeys(_pattern(name) for name in groups))
    names = sorted(groups, key=lambda n: (patterns.index(_pattern(n)), _numbers(n)))
    return [_row(name, groups[name]) for name in names]


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row that others are measured against.

    Raises:
        TransferError: there is none of that name, or its AP of the novel classes is 0 or unknown.
    """
    names = [row.name for row in rows]
    if name not in names:
        raise TransferError(
            f"--reference {name}: expected one of the rows {', '.join(names)}{nearest(name, names)}"
        )
    row = rows[names.index(name)]
    if not row.mean("novel"):
        raise TransferError(
            f"--reference {name}: its AP of the novel classes is {row.mean('novel')}, of which "
            "nothing is a share; name a row that knows them"
        )
    return row


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Mean and 95 % interval of Student's t over runs; None where one of them is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    runs = len(known)
    half = None
    if runs > 1:
        half = t_quantile(runs - 1) * statistics.stdev(known) / math.sqrt(runs)
    return Estimate(statistics.fmean(known), half)


def rows_json(rows: Sequence[Row], task: str, reference: Row | None) -> dict[str, Any]:
    """The figures of the table for a file; ``interval`` is ``[low, high]``, null for one run."""
    return {
        "task": task,
        "sets": {"base": _scored(rows).base, "novel": _scored(rows).novel},
        "reference": reference and reference.name,
        "rows": [
            {
                "row": row.name,
                "runs": [str(run.folder) for run in row.runs],
                **{name: _estimate_json(row.figures[name]) for name in FIGURES},
                **_shares(row, reference),
            }
            for row in rows
        ],
    }


def rows_text(rows: Sequence[Row], task: str, reference: Row | None) -> str:
    """The table with its notes, for an 80-column terminal."""
    names = [row.name for row in rows]
    table = _table(rows, names, reference)
    excess = max(map(len, table.splitlines())) - WIDTH
    if excess > 0:
        most = max(_LEAST_NAME, max(map(len, names)) - excess)
        table = _table(rows, [shorten(name, most) for name in names], reference)
    notes = [textwrap.fill(note, WIDTH) for note in _notes(rows, task, reference)]
    return "\n".join([table, "", *notes])


def _table(rows: Sequence[Row], names: Sequence[str], reference: Row | None) -> str:
    shares = {"kept": "kept\n%", "of_reference": "share\n%"} if reference else {}
    lines = [
        [
            name,
            len(row.runs),
            *(_cell(row.figures[figure]) for figure in _COLUMNS),
            *(_number(share) for share in _shares(row, reference).values()),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    headers = ["", "\nruns", *_COLUMNS.values(), *shares.values()]
    align = ("left", *["right"] * (len(headers) - 1))
    # as headers, tabulate would give them two more columns each
    text = tabulate([headers, *lines], tablefmt="plain", disable_numparse=True, colalign=align)
    first, second, *rest = text.splitlines()
    return "\n".join([first, second, "-" * max(map(len, text.splitlines())), *rest])


def _notes(rows: Sequence[Row], task: str, reference: Row | None) -> list[str]:
    scored = _scored(rows)
    base = f"base classes on {', '.join(scored.base)}; " if scored.base else ""
    kind = KIND[task][0].upper() + KIND[task][1:]
    notes = [f"{kind}, 0 to 100: {base}novel classes on {', '.join(scored.novel)}."]
    if any(len(row.runs) > 1 for row in rows):
        notes.append(
            f"{plural(sum(len(row.runs) for row in rows), 'run')}. Each figure is the mean over "
            "the runs of a row; ± is its 95 % interval (Student's t), which covers the seeds, not "
            "the choice of test images. A single run has none."
        )
    else:
        notes.append("One run a row: how much another seed would change is not known.")
    if scored.base:
        notes.append(
            "harm. mean: of base and novel AP. forgot: AP of the base classes before minus after."
        )
    if reference:
        notes.append(
            "kept: base AP in % of the source model's. share: novel AP in % of that of the row "
            f"{reference.name}."
        )
    if any(row.mean(figure) is None for row in rows for figure in _COLUMNS):
        notes.append("-: not extended, or not known of every run of the row.")
    return notes


def _scored(rows: Sequence[Row]) -> ScoredOn:
    """What the figures are of: an extended run tells the most."""
    return max((run.scored for row in rows for run in row.runs), key=lambda s: len(s.base))


def _row(name: str, runs: Sequence[RunScores]) -> Row:
    figures = {figure: estimate([run.figures[figure] for run in runs]) for figure in FIGURES}
    return Row(name, tuple(runs), figures)


def _shares(row: Row, reference: Row | None) -> dict[str, float | None]:
    if reference is None:
        return {}
    return {"kept": row.kept, "of_reference": _percent(row.mean("novel"), reference.mean("novel"))}


def _percent(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else 100 * (part / whole)


def _estimate_json(value: Estimate | None) -> dict[str, Any] | None:
    if value is None:
        return None
    mean, half = value.mean, value.half
    return {"mean": mean, "interval": None if half is None else [mean - half, mean + half]}


def _cell(value: Estimate | None) -> str:
    if value is None:
        return _number(None)
    mean = _number(value.mean)
    return mean if value.half is None else f"{mean}\n±{_number(value.half)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"  # -0.0 becomes 0.0


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]
