"""The page of a comparison of starting points, and what it and its plots show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import atomic_path, read_json
from transfer_maskrcnn.report.page import (
    Figures,
    ap_text,
    decimal,
    described,
    drift_table,
    either,
    kept,
    mean,
    metric_name,
    write_page,
)
from transfer_maskrcnn.report.plots import looks
from transfer_maskrcnn.report.study_plots import (
    by_images_picture,
    curves_picture,
    final_picture,
    study_figure,
)
from transfer_maskrcnn.report.tiles import MIN_SCORE, comparison_tiles
from transfer_maskrcnn.text import listed, plural

STUDY_FILE = "study.json"
COSTS_FILE = "costs.json"
VERSION = 1

Json = dict[str, Any]


def write_study_report(folder: Path) -> Path:
    """Write ``report.html``: one file, without scripts, that needs nothing beside itself.

    Args:
        folder: holds ``study.json``; ``costs.json`` and the runs' folders where they are still
            there. What has no data has no section.

    Returns:
        the path of the page.

    Raises:
        TransferError: there is no comparison in ``folder``, it is of another version, or damaged.
    """
    return write_page(folder, "study.html", Study(folder).view())


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
        figure.savefig(temporary, format="png", dpi=100)


class Study:
    """What the page shows of a comparison. Metrics run from 0 to 100, fractions from 0 to 1.

    Attributes:
        facts: the content of ``study.json``.
        costs: run -> "seconds" and "peak_memory_mb".
        names: of the variants.
        cells: (variant, fraction) -> all seeds of it.
        fractions: those with results, the largest first.
    """

    def __init__(self, folder: Path):
        """
        Raises:
            TransferError: there is no comparison in ``folder``, or it is damaged or too old.
        """
        path = folder / STUDY_FILE
        if not path.is_file():
            raise TransferError(f"{path}: no such file; give the folder of a comparison's output")
        self.folder = folder
        self.facts = read_json(path, dict)
        if self.facts.get("version") != VERSION:
            raise TransferError(
                f"{path} is of version {self.facts.get('version')!r}, expected {VERSION}; run the "
                "comparison again"
            )
        costs = read_json(folder / COSTS_FILE, dict, missing={})
        self.machine, self.costs = costs.get("machine", {}), costs.get("runs", {})
        self.variants: list[Json] = self.facts["variants"]
        self.names: list[str] = [variant["name"] for variant in self.variants]
        self.runs: list[Json] = self.facts["runs"]
        self.cells = {(c["variant"], c["fraction"]): c for c in self.facts["cells"]}
        self.fractions = sorted({fraction for _, fraction in self.cells}, reverse=True)
        self.images = {i["fraction"]: i["images"] for i in self.facts["train_images"]}
        self.metric: str = self.facts["metric"]
        self.looks = looks(self.names)

    def view(self) -> Json:
        """The variables of the template."""
        facts, comparisons = self.facts, self.facts["comparisons"]
        titles, results = self.result_groups()
        settings, shared = self.settings()
        repeat = {
            "Config": facts["config_file"],
            "Versions": described(facts["versions"]),
            "Machine": described(self.machine),
        }
        return {
            "study": self,
            "looks": self.looks,
            "metric": metric_name(self.metric),
            "question": "Why start from pre-trained weights?",
            "data": f"{facts['train']}, {plural(max(self.images.values()), 'image')}",
            "verdict": facts["verdict"],
            "compared": self._compared(),
            "plots": [
                draw(self, f) for f in self.fractions for draw in (final_picture, curves_picture)
            ],
            "by_images": by_images_picture(self) if len(self.fractions) > 1 else None,
            "kept": {variant["name"]: kept(variant["keep"]) for variant in self.variants},
            "titles": titles,
            "results": results,
            "comparisons": {
                f: some
                for f in self.fractions
                if (some := [c for c in comparisons if c["fraction"] == f])
            },
            "shows_reaches": any(cell["reaches"] for cell in self.cells.values()),
            "one_seed": any(c["seeds"] == 1 for c in comparisons),
            "more_seeds": any(c["seeds"] > 1 for c in comparisons),
            "classes": self.class_rows(),
            "moved": self.moved(),
            **self._tiles(),
            "min_score": MIN_SCORE,
            "settings": settings,
            "shared_settings": shared,
            "commands": facts["commands"],
            "repeat": {name: text for name, text in repeat.items() if text},
            "failed": [run for run in self.runs if run["status"] != "finished"],
        }

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

    def _compared(self) -> dict[str, str]:
        """What, in words."""
        facts, budget = self.facts, plural(self.facts["iterations"], "iteration")
        objects = plural(facts["val_instances"], "object")
        return {
            "Trained on": f"{facts['train']}: {either(sorted(self.images.values()))} images",
            "Measured on": f"{facts['val']}: {plural(facts['val_images'], 'image')} with {objects}",
            "Classes": listed(facts["classes"]),
            "Budget of a run": f"{budget} of {plural(facts['images_per_batch'], 'image')}",
            "Seeds": listed(facts["seeds"]),
            "Metric": f"{metric_name(self.metric)} (COCO), from 0 to 100",
        }

    def result_groups(self) -> tuple[list[str], list[tuple[float, list[Json]]]]:
        """Titles of the metrics beside the study's own, and results and costs, a group a fraction.

        Seconds and MiB are means over the seeds.
        """
        own = self.metric.partition("/")[0]
        wanted = [f"{own}/AP", f"{own}/AP50", f"{'bbox' if own == 'segm' else 'segm'}/AP"]
        present = {m for c in self.cells.values() for m, ap in c["means"].items() if ap is not None}
        beside = [metric for metric in wanted if metric != self.metric and metric in present]
        groups = [(f, [self._result(c, beside) for c in self.row(f)]) for f in self.fractions]
        return [metric_name(metric) for metric in beside], groups

    def _result(self, cell: Json, beside: Sequence[str]) -> Json:
        runs = self.runs_of(cell["variant"], cell["fraction"])
        costs = [self.costs.get(run["folder"], {}) for run in runs]
        return {
            "cell": cell,
            "figures": [cell["means"].get(metric) for metric in beside],
            "seconds": mean(cost.get("seconds") for cost in costs),
            "memory": mean(cost.get("peak_memory_mb") for cost in costs),
        }

    def class_rows(self) -> list[tuple[str, list[str]]]:
        """A row a class: its AP for every variant, at the largest fraction."""
        task = f"{self.metric.partition('/')[0]}/"
        columns: list[Figures] = [
            {m.removeprefix(task): ap for m, ap in cell["means"].items() if m.startswith(task)}
            for cell in self.row(self.fractions[0])
        ]
        return [
            (name, [ap_text(key, c) if key in c else decimal(None) for c in columns])
            for name, key in ((name, f"AP-{name}") for name in self.facts["classes"])
            if any(key in column for column in columns)
        ]

    def moved(self) -> tuple[str, Json] | None:
        """The drift of every part, mean over the seeds, at the largest fraction that has some;
        which it is, in words."""
        for fraction in self.fractions:
            columns: dict[str, Figures] = {}
            for name in self.names:
                drifts = [run["drift"] for run in self.runs_of(name, fraction) if run["drift"]]
                parts = dict.fromkeys(part for drift in drifts for part in drift)
                columns[name] = {part: mean(d.get(part) for d in drifts) for part in parts}
            if table := drift_table(columns):
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

    def _tiles(self) -> Json:
        """Predictions of every variant's first seed at the largest fraction that has some: where
        they come from in words, and the pictures, or why there are none."""
        found: Json = {"tiles": None, "tiles_from": "", "tiles_problem": ""}
        for fraction in self.fractions:
            folders = {
                name: [
                    self.folder / run["folder"] / "inference" / self.facts["val"]
                    for run in self.runs_of(name, fraction)
                    if run["status"] == "finished"
                ]
                for name in self.names
            }
            try:
                found["tiles"] = comparison_tiles(folders)
            except TransferError as error:
                return {**found, "tiles_problem": str(error)}
            if found["tiles"]:
                return {**found, "tiles_from": self.fraction_text(fraction)}
        return found


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    """``["KEY", "VALUE", ...]``, as on a command line."""
    return {str(k): str(v) for k, v in zip(settings[::2], settings[1::2], strict=True)}
