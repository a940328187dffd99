"""A study from its design to its report."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.engine.manifest import read_manifest, versions
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.report.study_page import (
    COSTS_FILE,
    STUDY_FILE,
    VERSION,
    write_study_figure,
    write_study_report,
)
from transfer_maskrcnn.study.design import Design, Run, check_variants, images_by_fraction
from transfer_maskrcnn.study.results import load_matches, task_of
from transfer_maskrcnn.study.runner import StudyRunner
from transfer_maskrcnn.study.summary import Finished, summarise

FIGURE_FILE = "figure.png"
REPEAT_FOLDER = "repeat"


def run_study(design: Design, output_dir: Path, train_net: Path, gpus: int = 0) -> dict[str, Any]:
    """Train what is missing, then write its figures (json), page and picture.

    Returns the content of ``study.json``.

    Raises:
        TransferError: a variant's transfer would not do what it says (nothing is trained then), a
            run failed, or ``output_dir`` holds runs of other settings.
    """
    transferred = check_variants(design, output_dir)
    results = StudyRunner(design, output_dir, train_net, gpus).run()
    cfg = design.config(Run(design.variants[0], design.fractions[-1], design.seeds[0]), output_dir)
    matches = [load_matches(output_dir / r["folder"], cfg, r) for r in results]
    images = len(DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    finished = Finished(
        design, task_of(cfg), cfg.SOLVER.MAX_ITER, results, matches, transferred, images
    )
    content = {
        **_setting(design, output_dir, cfg, transferred),
        "runs": [{k: v for k, v in result.items() if k != "key"} for result in results],
        **summarise(finished),
    }
    write_json(output_dir / STUDY_FILE, content)
    write_json(output_dir / COSTS_FILE, _costs(output_dir, results, cfg))
    write_study_report(output_dir)
    write_study_figure(output_dir, output_dir / FIGURE_FILE)
    return content


def _setting(
    design: Design, output_dir: Path, cfg: CfgNode, transferred: dict[str, float]
) -> dict[str, Any]:
    """What was compared, and on what."""
    validation = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    return {
        "version": VERSION,
        "config_file": design.config_file,
        "options": list(design.options),
        "train": cfg.DATASETS.TRAIN[0],
        "val": cfg.DATASETS.TEST[0],
        "classes": list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes),
        "train_images": images_by_fraction(design, output_dir),
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
    study = ["tools/compare_inits.py", "--config-file", design.config_file]
    study += ["--variants", ",".join(variant.text for variant in design.variants)]
    study += ["--seeds", str(len(design.seeds))]
    study += ["--fractions", ",".join(f"{fraction:g}" for fraction in design.fractions)]
    study += ["--output-dir", str(output_dir), *design.options]
    repeats = output_dir / REPEAT_FOLDER  # the study's own runs stay as they are
    single = [
        design.arguments(Run(variant, design.fractions[-1], design.seeds[0]), repeats)
        for variant in design.variants
    ]
    commands = [study, *(["tools/train_net.py", *arguments] for arguments in single)]
    return [f"python {shlex.join(command)}" for command in commands]


def _costs(output_dir: Path, results: list[dict[str, Any]], cfg: CfgNode) -> dict[str, Any]:
    costs = {}
    for result in results:
        manifest = read_manifest(output_dir / result["folder"])
        costs[result["folder"]] = manifest.get("cost", {})
    return {"machine": _machine(cfg), "runs": costs}


def _machine(cfg: CfgNode) -> dict[str, Any]:
    """What the study was summarised on, which is what its last runs were trained on."""
    device = cfg.MODEL.DEVICE
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
