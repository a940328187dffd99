"""A comparison of starting points as its page and its plots show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import read_json
from transfer_maskrcnn.report.plots import looks
from transfer_maskrcnn.report.texts import (
    Figures,
    HeatTable,
    ap_text,
    decimal,
    drift_table,
    mean,
    metric_name,
)
from transfer_maskrcnn.text import plural

STUDY_FILE = "study.json"
COSTS_FILE = "costs.json"
VERSION = 1

Json = dict[str, Any]


class Study:
    """What the page shows of a comparison. Metrics run from 0 to 100, fractions from 0 to 1.

    Attributes:
        facts: the content of ``study.json``.
        costs: run -> "seconds" and "peak_memory_mb".
        cells: (variant, fraction) -> all seeds of it.
        fractions: those with results, the largest first.
    """

    def __init__(self, folder: Path):
        """
        Raises:
            TransferError: there is no comparison in ``folder``, or it is damaged or too old.
        """
        if not (folder / STUDY_FILE).is_file():
            path = folder / STUDY_FILE
            raise TransferError(f"{path}: no such file; give the folder of a comparison's output")
        self.folder = folder
        self.facts = read_json(folder / STUDY_FILE, dict)
        if self.facts.get("version") != VERSION:
            raise TransferError(
                f"{folder / STUDY_FILE} is of version {self.facts.get('version')!r}, expected "
                f"{VERSION}; run the comparison again"
            )
        costs = read_json(folder / COSTS_FILE, dict, missing={})
        self.machine, self.costs = costs.get("machine", {}), costs.get("runs", {})
        self.variants: list[Json] = self.facts["variants"]
        self.runs: list[Json] = self.facts["runs"]
        self.cells = {(c["variant"], c["fraction"]): c for c in self.facts["cells"]}
        self.fractions = sorted({fraction for _, fraction in self.cells}, reverse=True)
        self.images = {i["fraction"]: i["images"] for i in self.facts["train_images"]}
        self.metric: str = self.facts["metric"]
        self.looks = looks(self.names)

    @property
    def names(self) -> list[str]:
        """Of the variants."""
        return [variant["name"] for variant in self.variants]

    def row(self, fraction: float) -> list[Json]:
        """The cells of all variants at one fraction."""
        return [self.cells[name, fraction] for name in self.names]

    def runs_of(self, variant: str, fraction: float) -> list[Json]:
        """The runs of one variant at one fraction, by seed."""
        found = [r for r in self.runs if (r["variant"], r["fraction"]) == (variant, fraction)]
        return sorted(found, key=lambda run: run["seed"])

    def fraction_text(self, fraction: float) -> str:
        """ "48 images"."""
        return plural(self.images[fraction], "image")

    def result_groups(self) -> tuple[list[str], list[tuple[float, list[Json]]]]:
        """Titles of the metrics beside the study's own, and results and costs, a group a fraction.

        Seconds and MiB are means over the seeds.
        """
        own = self.metric.partition("/")[0]
        other = "bbox" if own == "segm" else "segm"
        wanted = [f"{own}/AP", f"{own}/AP50", f"{other}/AP"]
        present = {m for c in self.cells.values() for m, ap in c["means"].items() if ap is not None}
        beside = [metric for metric in wanted if metric != self.metric and metric in present]
        groups = [(f, [self._result(c, beside) for c in self.row(f)]) for f in self.fractions]
        return [metric_name(metric) for metric in beside], groups

    def _result(self, cell: Json, beside: Sequence[str]) -> Json:
        runs = self.runs_of(cell["variant"], cell["fraction"])
        costs = [self.costs.get(run["folder"], {}) for run in runs]
        seconds, memory = (mean(c.get(k) for c in costs) for k in ("seconds", "peak_memory_mb"))
        figures = [cell["means"].get(metric) for metric in beside]
        return {"cell": cell, "figures": figures, "seconds": seconds, "memory": memory}

    def class_rows(self) -> list[tuple[str, list[str]]]:
        """A row a class: its AP for every variant, at the largest fraction."""
        task = self.metric.partition("/")[0]
        columns: list[Figures] = [
            {
                metric.removeprefix(f"{task}/"): value
                for metric, value in cell["means"].items()
                if metric.startswith(f"{task}/")
            }
            for cell in self.row(self.fractions[0])
        ]
        known = {key for column in columns for key in column}
        keys = {name: f"AP-{name}" for name in self.facts["classes"]}
        return [
            (name, [ap_text(k, c) if k in c else decimal(None) for c in columns])
            for name, k in keys.items()
            if k in known
        ]

    def moved(self) -> tuple[str, HeatTable] | None:
        """The drift of every part, mean over the seeds, at the largest fraction that has some;
        which it is, in words."""
        for fraction in self.fractions:
            columns: dict[str, Figures] = {}
            for name in self.names:
                drifts = [run["drift"] for run in self.runs_of(name, fraction) if run["drift"]]
                parts = dict.fromkeys(part for drift in drifts for part in drift)
                columns[name] = {part: mean(d.get(part) for d in drifts) for part in parts}
            table = drift_table(columns)
            if table is not None:
                return self.fraction_text(fraction), table
        return None

    def settings(self) -> tuple[list[tuple[str, list[str | None]]], dict[str, str]]:
        """A row a configuration key whose value is not the same in all variants, None where it is
        not set; and the keys that all set to the same value, those of the study with them."""
        options = _pairs(self.facts["options"])
        each = [_pairs(variant["settings"]) for variant in self.variants]
        keys = dict.fromkeys(key for own in each for key in own)
        rows = {key: [own.get(key) for own in each] for key in keys}
        differ = {key: values for key, values in rows.items() if len(set(values)) > 1}
        shared = {key: str(values[0]) for key, values in rows.items() if key not in differ}
        return list(differ.items()), shared | {k: v for k, v in options.items() if k not in rows}


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    """``["KEY", "VALUE", ...]``, as on a command line."""
    return {str(k): str(v) for k, v in zip(settings[::2], settings[1::2], strict=True)}
