"""The rows of the benchmark: what is compared with what, and how often."""

from __future__ import annotations

import importlib.util
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import pictures, surgery
from benchmarks.pairs import compare

_HERE = __name__.rpartition(".")[0]
Seconds = dict[str, list[float]]


@dataclass
class Row:
    """One comparison.

    Attributes:
        name: what was done.
        seconds: of each run, by side; the first side is what the others are compared with.
        facts: by side: peak memory, foreground RoIs, FLOPs, bytes.
        note: what a reader must know beside.
        device: what the work ran on.
    """

    name: str
    seconds: Seconds
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""
    device: str = "cpu"

    def ratios(self, side: str) -> list[float]:
        """How many times faster ``side`` was than the first, pair by pair."""
        first = next(iter(self.seconds))
        return [a / b for a, b in zip(self.seconds[first], self.seconds[side], strict=True)]

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        size: short side of the images in pixels, in training and inference.
        pictures: of an epoch of training, in batches of two.
        runs: of each side.
        epochs: of the heads-only training, of which 20 are made up.
        images: of the evaluation, with 35 detections each.
        annotations: of the registered dataset.
        torchvision: whether its step is measured, too.
    """

    size: int = 480
    pictures: int = 60
    runs: int = 5
    epochs: int = 5
    images: int = 2000
    annotations: int = 100_000
    torchvision: bool = True


QUICK = Plan(size=240, epochs=1, images=200, annotations=20_000, torchvision=False)


def rows(plan: Plan, folder: Path) -> Iterator[Row]:
    """Measure one row after the other; files go into ``folder``."""
    os.environ["TRANSFER_CACHE"] = str(folder / "cache")  # no side writes to the user's own
    size = plan.size, plan.size * 4 // 3
    small = str(pictures.write_pictures(folder / "small", plan.pictures, size, objects=24))
    yield from _training(plan, small)
    yield from _inference(plan)
    yield _evaluation(plan, folder)
    yield from _registration(plan, folder)
    yield from _surgery(plan, folder)
    if torch.cuda.is_available():
        large = pictures.write_pictures(folder / "large", 32, (800, 1066), objects=24)
        yield from _cuda(plan, str(large))


def _training(plan: Plan, annotations: str) -> Iterator[Row]:
    step = {
        "annotations": annotations,
        "size": plan.size,
        "batch": 2,
        "iterations": 1,
        "device": "cpu",
    }
    sides = {
        "detectron2": (f"{_HERE}.training:stock", step),
        "here": (f"{_HERE}.training:ours", step),
    }
    if plan.torchvision:
        sides["torchvision"] = (f"{_HERE}.training:torchvision", step)
    name = f"full fine-tune step, {plan.size}, batch 2"
    yield Row(name, *compare(sides, plan.runs, warmup=1))
    heads = {**step, "heads_only": True}
    sides = {
        "detectron2": (f"{_HERE}.training:stock", heads),
        "here": (f"{_HERE}.training:ours", {**heads, "epochs": 20}),
    }
    name = f"heads-only step, {plan.size}, batch 2, cache filled"
    yield Row(name, *compare(sides, plan.runs, warmup=1))
    epoch = {**heads, "iterations": plan.pictures // 2}
    sides = {
        "detectron2": (f"{_HERE}.training:stock", epoch),
        "here": (f"{_HERE}.training:ours", {**epoch, "epochs": 20}),
    }
    seconds, facts = compare(sides, plan.epochs, warmup=0)
    start = facts["here"]["start, s"]
    seconds["here"][0] -= start
    totals = {side: [20 * statistics.median(taken)] for side, taken in seconds.items()}
    totals["here"][0] += start
    for figures in facts.values():
        figures["flops"] *= 20
    note = f"20 times the median of {plan.epochs} epochs, and once {start:.1f} s to fill the cache"
    yield Row(f"heads-only, 20 epochs of {plan.pictures} images, {plan.size}", totals, facts, note)


def _inference(plan: Plan) -> Iterator[Row]:
    for height, width in ((480, 640), (2160, 3840)):
        image = {"size": plan.size, "height": height, "width": width, "device": "cpu"}
        sides = {
            "detectron2": (f"{_HERE}.inference:stock", image),
            "here": (f"{_HERE}.inference:ours", image),
        }
        name = f"inference at {plan.size}, masks of {height}x{width}"
        yield Row(name, *compare(sides, plan.runs, warmup=1))


def _evaluation(plan: Plan, folder: Path) -> Row:
    truth = pictures.write_pictures(folder / "val", plan.images, (240, 320), objects=8)
    detections = folder / "detections.json"
    pictures.write_detections(truth, detections, detections=35)
    files: dict[str, Any] = {"annotations": str(truth), "detections": str(detections)}
    sides = {
        "pycocotools": (f"{_HERE}.datasets:StockEvaluation", files),
        "here": (f"{_HERE}.datasets:FastEvaluation", files),
    }
    if importlib.util.find_spec("detectron2._C") is not None:
        compiled = {**files, "compiled": True}
        sides["detectron2's C++"] = (f"{_HERE}.datasets:StockEvaluation", compiled)
    name = f"COCO evaluation, {plan.images} images, {plan.images * 35} detections"
    return Row(name, *compare(sides, plan.runs, warmup=0))


def _registration(plan: Plan, folder: Path) -> Iterator[Row]:
    images = plan.annotations // 10
    annotations = str(pictures.write_pictures(folder / "many", images, (48, 64), objects=10))
    # The first run of "second time" writes the cache.
    for side, times, warmup in (("First", "first time", 0), ("Cached", "second time", 1)):
        sides = {
            "detectron2": (f"{_HERE}.datasets:StockRegistration", {"annotations": annotations}),
            "here": (f"{_HERE}.datasets:{side}Registration", {"annotations": annotations}),
        }
        name = f"registration of {plan.annotations} annotations, {times}"
        yield Row(name, *compare(sides, plan.runs, warmup=warmup))


def _surgery(plan: Plan, folder: Path) -> Iterator[Row]:
    for kind, path in surgery.write_files(folder).items():
        file = {"path": str(path)}
        sides = {
            "reading": (f"{_HERE}.surgery:Reading", file),
            "here": (f"{_HERE}.surgery:Surgery", file),
        }
        seconds, facts = compare(sides, plan.runs, warmup=1)
        size = path.stat().st_size / 2**20
        yield Row(f"surgery of a {size:.0f} MB .{kind}", seconds, facts, "reading is a part of it")


def _cuda(plan: Plan, annotations: str) -> Iterator[Row]:
    step = {
        "annotations": annotations,
        "size": 800,
        "batch": 8,
        "iterations": 5,
        "device": "cuda",
    }
    sides = {
        "detectron2": (f"{_HERE}.training:stock", step),
        "detectron2, AMP": (f"{_HERE}.training:stock", {**step, "amp": True}),
        "here": (f"{_HERE}.training:ours", step),
    }
    seconds, facts = compare(sides, plan.runs, warmup=2)
    yield Row("five full steps on the GPU, 800, batch 8", seconds, facts, device="cuda")
