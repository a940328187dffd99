"""A generated comparison and a generated run, small, and with names that need escaping."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from .browser import browser, share_near_fixture, visit
from .doctor_content import doctor_content

__all__ = ["browser", "doctor_content", "share_near_fixture", "visit"]

SIDE = 64
NASTY = '<b>"x"&'
CLASSES = ["star", NASTY]
VARIANTS = ["all_but_predictors", "backbone@a_file_with_quite_a_long_name.pkl", "from_scratch"]
FRACTIONS = [0.25, 1.0]
SEEDS = [0, 1]
VAL = "shapes_val"

Content = dict[str, Any]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_predictions(images: Path, inference: Path, score: float = 0.9) -> None:
    """Two random images with a square each, and what a model of that ``score`` sees there."""
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[10:40, 20:50] = 1
    rle = mask_util.encode(mask)
    images.mkdir(exist_ok=True)
    truth: Content = {"images": [], "annotations": [], "categories": []}
    found = []
    for i in (1, 2):
        path = images / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
        truth["images"].append({"id": i, "file_name": str(path), "height": SIDE, "width": SIDE})
        thing = {
            "image_id": i,
            "category_id": i,
            "bbox": [20, 10, 30, 30],
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        }
        truth["annotations"].append({**thing, "id": i})
        found.append({**thing, "score": score})
    truth["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    write(inference / f"{inference.name}_ground_truth.json", truth)
    write(inference / "coco_instances_results.json", found)


def ap_of(variant: str, fraction: float) -> float:
    return 30 * fraction / (1 + VARIANTS.index(variant))


def run_content(variant: str, fraction: float, seed: int) -> Content:
    run: Content = {
        "variant": variant,
        "fraction": fraction,
        "seed": seed,
        "folder": f"runs/{VARIANTS.index(variant)}_f{fraction:g}_s{seed}",
        "status": "finished",
        "message": "",
        "results": {"segm/AP": ap_of(variant, fraction) - 0.5 + seed},
        "drift": {"backbone.bottom_up.res2": 0.01, "roi_heads.mask_head": 0.2 * seed},
    }
    if (variant, fraction, seed) == (VARIANTS[2], 1.0, 1):
        run |= {"status": "diverged", "message": "the loss is nan: lower SOLVER.BASE_LR"}
        run |= {"results": {}, "drift": {}}
    return run


def cell_content(variant: str, fraction: float) -> Content:
    ap = ap_of(variant, fraction)
    means = {"bbox/AP": ap + 1, "segm/AP": ap, "segm/AP50": 2 * ap}
    words = f"way {VARIANTS.index(variant)}"
    return {
        "variant": variant,
        "fraction": fraction,
        "mean": ap,
        "interval": [ap - 1, ap + 1],
        "means": means | {f"segm/AP-{name}": ap + i for i, name in enumerate(CLASSES)},
        "curve": [
            {"iteration": i, "mean": ap * i / 100, "low": ap * i / 110, "high": ap * i / 90}
            for i in (0, 50, 100)
        ],
        "area": ap / 2,
        "reaches": {"level": 10 * fraction, "iterations": 30.0, "words": words},
    }


def comparison_content(fraction: float) -> Content:
    return {
        "fraction": fraction,
        "a": VARIANTS[0],
        "b": VARIANTS[2],
        "difference": 20 * fraction,
        "interval": [-3, 23.0],
        "seeds": len(SEEDS),
        "verdict": "cannot tell",
    }


def variant_content(variant: str, keep: str, weights: str, share: float, rate: str) -> Content:
    settings = ["SOLVER.BASE_LR", rate, "SEED", "0"]
    return {
        "name": variant,
        "keep": keep,
        "weights": weights,
        "transferred": share,
        "settings": settings,
    }


def study_content() -> Content:
    """Three variants, two fractions, two seeds; one run diverged."""
    pairs = [(variant, fraction) for fraction in FRACTIONS for variant in VARIANTS]
    return {
        "version": 1,
        "config_file": "configs/x.yaml",
        "options": ["SOLVER.MAX_ITER", "100"],
        "train": "shapes_train",
        "val": VAL,
        "classes": CLASSES,
        "train_images": [{"fraction": 0.25, "images": 12}, {"fraction": 1.0, "images": 48}],
        "val_images": 100,
        "val_instances": 380,
        "iterations": 100,
        "images_per_batch": 8,
        "metric": "segm/AP",
        "reference": VARIANTS[2],
        "fractions": FRACTIONS,
        "seeds": SEEDS,
        "variants": [
            variant_content(VARIANTS[0], "all_but_predictors", "source.pth", 0.99962, "0.01"),
            variant_content(VARIANTS[1], "backbone", "a/file.pkl", 0.5, "0.01"),
            variant_content(VARIANTS[2], "random_init", "", 0.0, "0.02"),
        ],
        "runs": [run_content(*pair, seed) for pair in pairs for seed in SEEDS],
        "cells": [cell_content(*pair) for pair in pairs],
        "comparisons": [comparison_content(fraction) for fraction in FRACTIONS],
        "verdict": "The weights are worth 20 AP.",
        "commands": ["python tools/compare_inits.py --seeds 2"],
        "versions": {"torch": "2.14.1"},
    }


@pytest.fixture
def study_json() -> Content:
    """The content of a ``study.json``, to change and to write."""
    return study_content()


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[[Content], Path]:
    """A function that writes a ``study.json`` alone and gives its folder."""

    def written(content: Content) -> Path:
        write(tmp_path / "study.json", content)
        return tmp_path

    return written


def write_whole_study(folder: Path) -> None:
    content = study_content()
    write(folder / "study.json", content)
    costs = {run["folder"]: {"seconds": 98.2, "peak_memory_mb": 1520} for run in content["runs"]}
    write(folder / "costs.json", {"machine": {"processor": "a processor"}, "runs": costs})
    for run in content["runs"]:
        if run["status"] == "finished":
            score = 0.9 if run["variant"] == VARIANTS[0] else 0.2
            write_predictions(folder / "images", folder / run["folder"] / "inference" / VAL, score)


PLAN: Content = {
    "version": 1,
    "keep": "all_but_predictors",
    "source": "source.pth",
    "loaded_fraction": 0.9,
    "classes": [],
    "problems": [],
    "notes": [{"code": "y", "text": "a note", "remedy": ""}],
    "parts": {
        "backbone.res2": {"transferred": 90, "initialised": 0, "dropped": 0},
        "roi_heads.box_predictor": {"transferred": 0, "initialised": 6, "dropped": 12},
    },
    "tensors": [
        {
            "fate": fate,
            "target": target,
            "source": source,
            "target_shape": [2, 3] if target else None,
            "source_shape": [4, 3] if source else None,
            "parameters": parameters,
            "moved": moved,
            "reason": reason,
        }
        for fate, target, source, parameters, moved, reason in (
            ("kept", "backbone.res2.0.conv1.weight", "res2.0.conv1.weight", 90, 90, "same place"),
            ("initialised", "roi_heads.box_predictor.cls_score.weight", None, 6, 0, "new classes"),
            ("dropped", None, "roi_heads.box_predictor.cls_score.weight", 12, 0, "new classes"),
            ("kept", "backbone.res2.0.conv1.norm.running_mean", "a", 0, 0, "same place"),
        )
    ],
}


@pytest.fixture
def plan() -> Content:
    """A ``transfer_plan.json`` of four tensors, to change."""
    return json.loads(json.dumps(PLAN))


def write_whole_run(folder: Path) -> None:
    figures = {"AP": 20.0, "AP50": 41.2, "APs": None, "AP-star": 15.0, f"AP-{NASTY}": 25.0}
    write(folder / "evaluation.json", {VAL: {"bbox": figures, "segm": {**figures, "AP": 19.0}}})
    curve = [
        {"iteration": i, "bbox/AP": i / 5, "segm/AP": i / 6, "val_loss": 2 - i / 100}
        for i in (0, 50, 100)
    ]
    write(folder / "eval_history.json", curve)
    lines = [
        json.dumps({"iteration": i, "total_loss": 3 - i / 50, "loss_mask": 1 - i / 200, "lr": 0.01})
        for i in (19, 39, 59)
    ]
    (folder / "metrics.json").write_text("\n".join(lines) + '\n{"iteration": 79, "tot')
    write(folder / "transfer_plan.json", PLAN)
    write(
        folder / "run.json",
        {
            "command": ["tools/train_net.py", "DATASETS.TRAIN", "('a b',)"],
            "spec": {"seed": 3},
            "cost": {"seconds": 98.2, "peak_memory_mb": 1520.3},
            "versions": {"torch": "2.14.1"},
        },
    )
    write(folder / "drift.json", {"backbone.res2": 0.0132, "roi_heads.mask_head": 0})
    write_predictions(folder / "images", folder / "inference" / VAL)


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with everything: 3 variants, 2 fractions, 2 seeds. For reading only."""
    folder = tmp_path_factory.mktemp("study")
    write_whole_study(folder)
    return folder


@pytest.fixture
def whole_run(tmp_path: Path) -> Path:
    """An OUTPUT_DIR with everything."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_whole_run(folder)
    return folder
