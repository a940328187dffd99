"""The files of a comparison: ``study.json`` and ``costs.json``, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.json_files import metrics, number, numbers, pair, read_json
from transfer_maskrcnn.report.texts import plural

STUDY_FILE = "study.json"
COSTS_FILE = "costs.json"
VERSION = 1

Interval = tuple[float, float]
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Variant:
    """One starting point. ``transferred``: share of the parameters that come from ``weights``."""

    name: str
    keep: str
    weights: str
    transferred: float | None
    settings: dict[str, str]


@dataclass(frozen=True)
class Run:
    """One training; ``folder`` is its OUTPUT_DIR, relative to the study's folder."""

    variant: str
    fraction: float
    seed: int
    folder: str
    status: str
    message: str
    results: Figures
    drift: Figures


@dataclass(frozen=True)
class CurvePoint:
    """The metric after ``iteration``: mean, lowest and highest over the seeds."""

    iteration: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Cell:
    """All seeds of a variant at one fraction: the metric's mean and its 95 % interval.

    ``means`` holds every metric; ``area`` is the mean over the iterations; ``reaches`` says in
    words when the variant comes to ``level``, the reference variant's final value.
    """

    variant: str
    fraction: float
    mean: float | None
    interval: Interval | None
    means: Figures
    curve: tuple[CurvePoint, ...]
    area: float | None
    reaches: str
    level: float | None


@dataclass(frozen=True)
class Comparison:
    """Variant ``a`` against variant ``b``: difference of the metric, a - b, and its 95 % interval."""

    fraction: float
    a: str
    b: str
    difference: float | None
    interval: Interval | None
    seeds: int | None
    verdict: str


@dataclass(frozen=True)
class Study:
    """A whole comparison. Metrics run from 0 to 100, fractions from 0 to 1.

    ``facts`` holds what ``study.json`` says about the set-up, key by key, as it stands there.
    """

    folder: Path
    facts: Mapping[str, Any]
    metric: str
    reference: str
    classes: tuple[str, ...]
    images: dict[float, int]
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]
    cells: dict[tuple[str, float], Cell]
    comparisons: tuple[Comparison, ...]
    machine: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def fractions(self) -> list[float]:
        """The fractions with results, the largest first."""
        return sorted({fraction for _, fraction in self.cells}, reverse=True)

    def runs_of(self, variant: str, fraction: float) -> list[Run]:
        """The runs of one variant at one fraction, by seed."""
        found = [run for run in self.runs if (run.variant, run.fraction) == (variant, fraction)]
        return sorted(found, key=lambda run: run.seed)

    def fraction_text(self, fraction: float) -> str:
        """ "48 images"; where their number is not known, "25 % of the images"."""
        if fraction in self.images:
            return plural(self.images[fraction], "image")
        return f"{fraction * 100:g} % of the images"


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """``["KEY", "VALUE", ...]``, as on a command line."""
    return {str(k): str(v) for k, v in zip(pairs[::2], pairs[1::2], strict=False)}


def read_study(folder: Path) -> Study:
    """The comparison in ``folder``.

    Raises:
        TransferError: there is none, it is of another version, or damaged.
    """
    path = folder / STUDY_FILE
    content = read_json(path)
    if content is None:
        raise TransferError(f"{path}: no such file; give the folder of a comparison's output")
    try:
        if content.get("version") != VERSION:
            raise ValueError(f"version {content.get('version')!r}, not {VERSION}")
        return _study(folder, content, read_json(folder / COSTS_FILE) or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, TransferError):
            raise
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise TransferError(
            f"{path} is no comparison of this version: {what}. Run the comparison again"
        ) from error


def _study(folder: Path, content: dict[str, Any], costs: dict[str, Any]) -> Study:
    cells = [_cell(c) for c in content.get("cells") or ()]
    train_images = content.get("train_images") or ()
    return Study(
        folder,
        content,
        content.get("metric") or "segm/AP",
        content.get("reference") or "",
        tuple(content.get("classes") or ()),
        {float(i["fraction"]): int(i["images"]) for i in train_images},
        tuple(_variant(a) for a in content["variants"]),
        tuple(_run(r) for r in content.get("runs") or ()),
        {(cell.variant, cell.fraction): cell for cell in cells},
        tuple(_comparison(c) for c in content.get("comparisons") or ()),
        costs.get("machine") or {},
        {run: numbers(cost) for run, cost in (costs.get("runs") or {}).items()},
    )


def _variant(content: dict[str, Any]) -> Variant:
    keep = content.get("keep") or ""
    return Variant(
        content["name"],
        keep if isinstance(keep, str) else ", ".join(keep),
        content.get("weights") or "",
        number(content.get("transferred")),
        settings(content.get("settings") or ()),
    )


def _run(content: dict[str, Any]) -> Run:
    return Run(
        content["variant"],
        float(content["fraction"]),
        int(content["seed"]),
        content.get("folder") or "",
        content.get("status") or "finished",
        content.get("message") or "",
        metrics(content.get("results")),
        numbers(content.get("drift")),
    )


def _cell(content: dict[str, Any]) -> Cell:
    reaches = content.get("reaches") or {}
    points = [
        CurvePoint(int(p["iteration"]), *(number(p.get(k)) for k in ("mean", "low", "high")))
        for p in content.get("curve") or ()
    ]
    return Cell(
        content["variant"],
        float(content["fraction"]),
        number(content.get("mean")),
        pair(content.get("interval")),
        metrics(content.get("means")),
        tuple(sorted(points, key=lambda point: point.iteration)),
        number(content.get("area")),
        reaches.get("words") or "",
        number(reaches.get("level")),
    )


def _comparison(content: dict[str, Any]) -> Comparison:
    seeds = number(content.get("seeds"))
    return Comparison(
        float(content["fraction"]),
        content["a"],
        content["b"],
        number(content.get("difference")),
        pair(content.get("interval")),
        None if seeds is None else int(seeds),
        content.get("verdict") or "",
    )
