"""A study from its design to ``study.json``: intervals, comparisons, speed-ups, the verdict.

Nothing in that file depends on when or how often the study was interrupted; what does, seconds and
memory, is in ``costs.json``.
"""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.data.loader import training_images
from transfer_maskrcnn.engine.manifest import read_manifest, versions
from transfer_maskrcnn.evaluation.bootstrap import resample
from transfer_maskrcnn.evaluation.matches import Matches
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.report.study_page import (
    COSTS_FILE,
    STUDY_FILE,
    VERSION,
    write_study_figure,
    write_study_report,
)
from transfer_maskrcnn.study.design import FAIR, Design, Run, check_variants
from transfer_maskrcnn.study.intervals import (
    ResampledRuns,
    area_under_curve,
    compare_variants,
    iterations_to_reach,
    resampled_runs,
)
from transfer_maskrcnn.study.results import Json, load_matches, task_of
from transfer_maskrcnn.study.runner import StudyRunner
from transfer_maskrcnn.study.words import speed_up, verdict

LEAST_LEVEL = 1.0  # AP; a reference that learnt less sets no level worth reaching
MAIN_VARIANT = "all_but_predictors"


def run_study(design: Design, output_dir: Path, gpus: int = 0) -> Json:
    """Train what is missing, then write its figures (json), page and picture.

    Returns the content of ``study.json``.

    Raises:
        TransferError: a variant's transfer would not do what it says (nothing is trained then), a
            run failed, or ``output_dir`` holds runs of other settings.
    """
    transferred = check_variants(design, output_dir)
    runner = StudyRunner(design, output_dir, gpus)
    results = runner.run()
    cfg = runner.configs[design.first_run(design.variants[0])]
    matches = [load_matches(output_dir / r["folder"], cfg, r) for r in results]
    images = len(DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    finished = Finished(
        design, task_of(cfg), cfg.SOLVER.MAX_ITER, results, matches, transferred, images
    )
    content = {
        **_setting(design, output_dir, runner.configs, transferred),
        "runs": [{k: v for k, v in result.items() if k != "key"} for result in results],
        **summarise(finished),
    }
    costs = {r["folder"]: read_manifest(output_dir / r["folder"]).get("cost", {}) for r in results}
    write_json(output_dir / STUDY_FILE, content)
    write_json(output_dir / COSTS_FILE, {"machine": _machine(cfg), "runs": costs})
    write_study_report(output_dir)
    write_study_figure(output_dir, output_dir / "figure.png")
    return content


def _setting(
    design: Design,
    output_dir: Path,
    configs: Mapping[Run, CfgNode],
    transferred: Mapping[str, float],
) -> Json:
    """What was compared, and on what."""
    firsts = [design.first_run(design.variants[0], fraction) for fraction in design.fractions]
    cfg = configs[firsts[-1]]
    (train,), (test,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    validation = DatasetCatalog.get(test)
    return {
        "version": VERSION,
        "config_file": design.config_file,
        "options": list(design.options),
        "train": train,
        "val": test,
        "classes": list(MetadataCatalog.get(test).thing_classes),
        "train_images": [
            {"fraction": run.fraction, "images": training_images(configs[run])} for run in firsts
        ],
        "val_images": len(validation),
        "val_instances": sum(len(record["annotations"]) for record in validation),
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "metric": f"{task_of(cfg)}/AP",
        "fractions": list(design.fractions),
        "seeds": list(design.seeds),
        "variants": [
            {
                "name": variant.name,
                "keep": variant.keep,
                "weights": variant.weights,
                "transferred": transferred[variant.name],
                "settings": list(variant.settings),
            }
            for variant in design.variants
        ],
        "commands": _commands(design, output_dir),
        "versions": versions(),
    }


def _commands(design: Design, output_dir: Path) -> list[str]:
    """The study's own command, and one training of each variant."""
    study = [
        *("--config-file", design.config_file),
        *("--variants", ",".join(variant.text for variant in design.variants)),
        *("--seeds", str(len(design.seeds))),
        *("--fractions", ",".join(f"{fraction:g}" for fraction in design.fractions)),
        *("--output-dir", str(output_dir), *design.options),
    ]
    repeats = output_dir / "repeat"  # the study's own runs stay as they are
    train = [
        f"{typed('train')} {shlex.join(design.arguments(design.first_run(variant), repeats))}"
        for variant in design.variants
    ]
    return [f"{typed('compare')} {shlex.join(study)}", *train]


def _machine(cfg: CfgNode) -> Json:
    """What the study was summarised on, which is what its last runs were trained on."""
    device, cpuinfo = cfg.MODEL.DEVICE, Path("/proc/cpuinfo")  # Linux
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*:(.*)", text, re.MULTILINE)
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "processor": model[1].strip() if model else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


@dataclass(frozen=True)
class Finished:
    """All runs of a study; ``matches`` has one entry for each of ``results``."""

    design: Design
    task: str
    iterations: int
    results: Sequence[Json]
    matches: Sequence[Matches | None]
    transferred: Mapping[str, float]
    images: int  # of the validation set

    @cached_property
    def keeps(self) -> dict[str, str]:
        """Variant name -> preset."""
        return {variant.name: variant.keep for variant in self.design.variants}

    @cached_property
    def reference(self) -> str:
        """The variant that stands for no pre-training."""
        return next(n for n in (FAIR, "random_init", *self.keeps) if n in self.keeps)

    @cached_property
    def main(self) -> str:
        """The variant that the verdict is about: the default transfer, or else the fullest one."""
        others = [name for name in self.keeps if name != self.reference]
        return max(others, key=lambda name: (name == MAIN_VARIANT, self.transferred[name]))

    @cached_property
    def resampled(self) -> ResampledRuns:
        """Of ``matches``, by the resamples that all comparisons share."""
        return resampled_runs(self.matches, resample(self.images))

    def runs(self, variant: str, fraction: float) -> list[int]:
        """Indices of a variant's runs, by seed."""
        return [
            i
            for i, result in enumerate(self.results)
            if (result["variant"], result["fraction"]) == (variant, fraction)
        ]


def summarise(study: Finished) -> Json:
    """``cells`` (a variant at a fraction), ``comparisons`` and ``verdict`` of ``study.json``."""
    fractions = study.design.fractions
    cells = {(name, f): _cell(study, name, f) for f in fractions for name in study.keeps}
    for (_, fraction), cell in cells.items():
        cell["reaches"] = _reaches(study, cell, cells[study.reference, fraction])
    compared = {
        (f, a, b): compare_variants(*(study.resampled[study.runs(name, f)] for name in (a, b)))
        for f in fractions
        for a, b in _pairs(study)
    }
    whole, main, reference = fractions[-1], study.main, study.reference
    sentences = verdict(
        study.task,
        cells[main, whole],
        cells[reference, whole],
        compared[whole, main, reference],
        study.images,
        about_weights=study.keeps[reference] == "random_init" and study.transferred[main] > 0,
    )
    share = "" if whole == 1 else f"On {whole:.0%} of the training images. "
    return {
        "reference": reference,
        "cells": list(cells.values()),
        "comparisons": [
            {
                "fraction": fraction,
                "a": a,
                "b": b,
                "difference": round(comparison.difference, 4),
                "interval": [round(comparison.low, 4), round(comparison.high, 4)],
                "seeds": comparison.seeds,
                "verdict": comparison.verdict,
            }
            for (fraction, a, b), comparison in compared.items()
        ],
        "verdict": share + sentences,
    }


def _pairs(study: Finished) -> list[tuple[str, str]]:
    """Each variant against the one without weights, and against the variant before it."""
    pairs = [(name, study.reference) for name in study.keeps if name != study.reference]
    return pairs + [(b, a) for a, b in pairwise(study.keeps) if study.reference not in (a, b)]


def _cell(study: Finished, variant: str, fraction: float) -> Json:
    runs, metric = study.runs(variant, fraction), f"{study.task}/AP"
    results = [study.results[i] for i in runs]
    curve = _curve(results, metric, study.iterations)
    return {
        "variant": variant,
        "fraction": fraction,
        "mean": _mean([result["results"].get(metric) for result in results]),
        "interval": [round(bound, 4) for bound in study.resampled[runs].interval()],
        "means": _means([result["results"] for result in results]),
        "curve": curve,
        "area": round(area_under_curve(curve), 4),
    }


def _curve(results: Sequence[Json], metric: str, last: int) -> list[Json]:
    """Mean and range over seeds at each point; a run that diverged has AP 0 from then on."""
    ap = [{row["iteration"]: row.get(metric) or 0.0 for row in r["curve"]} for r in results]
    points = {i: [run.get(i, 0.0) for run in ap] for i in sorted({last}.union(*ap))}
    return [
        {"iteration": i, "mean": _mean(values), "low": min(values), "high": max(values)}
        for i, values in points.items()
    ]


def _reaches(study: Finished, cell: Json, reference: Json) -> Json | None:
    """How soon ``cell`` has the final AP of a ``reference`` without weights, if that learnt."""
    level = reference["mean"]
    random = study.keeps[study.reference] == "random_init"
    if cell is reference or not random or level < LEAST_LEVEL:
        return None
    reached = iterations_to_reach(cell["curve"], level)
    needed = iterations_to_reach(reference["curve"], level) or study.iterations
    return {
        "level": level,
        "iterations": None if reached is None else round(reached, 2),
        "words": speed_up(reached, needed),
    }


def _means(results: Sequence[Json]) -> dict[str, float | None]:
    """Of every figure; None for those that no run could have, such as AP of a size not there."""
    names = sorted(set().union(*results))
    # a model that detects nothing has no AP at all, which is 0; one that has AP, but not this
    # figure, says that there is nothing of the kind to detect
    absent = {
        name
        for name in names
        for result in results
        if result.get(name) is None and result.get(f"{name.partition('/')[0]}/AP") is not None
    }
    return {n: None if n in absent else _mean([r.get(n) for r in results]) for n in names}


def _mean(values: Sequence[float | None]) -> float:
    """COCO's undefined AP (nothing was detected) counts as 0, as does a run that diverged."""
    return round(sum(value or 0.0 for value in values) / len(values), 4)
