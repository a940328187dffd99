"""Whole studies, run as a user runs them: with real figures, and through any number of kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

KILLS = 20
# The shapes model, so small and so briefly trained that a run is mostly Python's start.
TINY = """
_BASE_: {repository}/configs/shapes/Base-shapes.yaml
MODEL:
  DEVICE: cpu
  WEIGHTS: {repository}/configs/shapes/shapes_source.pth
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 8}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TRAIN: 10, POST_NMS_TOPK_TEST: 10}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATASETS: {{CATALOG: {catalog}, TRAIN: [toy], TEST: [toy]}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 24, STEPS: [18], WARMUP_ITERS: 3, BASE_LR: 0.01}}
TEST: {{DETECTIONS_PER_IMAGE: 5}}
"""


def study(repository: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(repository / "tools" / "compare_inits.py"), *arguments]


def environment(**more: str) -> dict[str, str]:
    return dict(os.environ, OMP_NUM_THREADS="1", **more)


@pytest.fixture
def toy(
    repository: Path, write_dataset: Callable[[str, Path], dict[str, Any]], tmp_path: Path
) -> list[str]:
    """The command of a study on four tiny images, into the folder ``study``."""
    catalog = tmp_path / "my.yaml"
    catalog.write_text(yaml.safe_dump({"toy": write_dataset("coco", tmp_path)}))
    config = tmp_path / "config.yaml"
    config.write_text(TINY.format(repository=repository, catalog=catalog))
    variants = "from_scratch,all_but_predictors"
    arguments = ["--config-file", str(config), "--output-dir", "study", "--variants", variants]
    return study(repository, *arguments, "--seeds", "1", "--fractions", "0.5,1")


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(toy: list[str], tmp_path: Path) -> None:
    """SIGKILL takes the study alone; its training must end with it, and go on with the next."""
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    started = time.monotonic()
    whole = subprocess.run(
        toy, cwd=tmp_path / "undisturbed", env=environment(), capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stdout + whole.stderr
    expected = (tmp_path / "undisturbed" / "study" / "study.json").read_text()

    duration = time.monotonic() - started
    moments = random.Random(0)
    half_trained = set()
    for _ in range(KILLS):
        process = subprocess.Popen(
            toy, cwd=tmp_path / "killed", env=environment(), stdout=subprocess.DEVNULL
        )
        try:
            process.wait(moments.uniform(0.05, 0.4) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        half_trained |= {
            tag.parent.name
            for tag in (tmp_path / "killed").glob("study/runs/*/last_checkpoint")
            if not (tag.parent / "result.json").exists()
        }
    assert half_trained, "no kill came in the middle of a training"
    last = subprocess.run(
        toy, cwd=tmp_path / "killed", env=environment(), capture_output=True, text=True
    )
    assert last.returncode == 0, last.stdout + last.stderr
    assert (tmp_path / "killed" / "study" / "study.json").read_text() == expected
    assert (tmp_path / "killed" / "study" / "report.html").stat().st_size > 10_000


@pytest.fixture(scope="module")
def shapes(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment with generated shapes, of which three classes are to be learnt."""
    root = tmp_path_factory.mktemp("datasets")
    made = repository / "datasets" / "shapes"
    if not made.exists():
        prepare = [sys.executable, str(repository / "datasets" / "prepare_shapes.py")]
        subprocess.run(prepare, check=True)
    (root / "shapes").symlink_to(made)
    return {"DETECTRON2_DATASETS": str(root)}


@pytest.mark.slow
def test_what_pre_trained_weights_are_worth_on_shapes(
    repository: Path, shapes: dict[str, str], tmp_path: Path
) -> None:
    """Three seeds, a quarter of the demo's iterations: transfer beats a fair start from nothing,
    and where classes are shared, their rows detect before the first iteration."""
    common = ["--config-file", "configs/shapes/mask_rcnn_transfer.yaml", "--seeds"]
    budget = ["SOLVER.MAX_ITER", "25", "SOLVER.STEPS", "(20,)", "SOLVER.WARMUP_ITERS", "5"]
    variants = ["--variants", "from_scratch,all_but_predictors"]
    rows = ["--variants", "random_init,class_rows"]
    for folder, arguments in (
        ("variants", [*common, "3", *variants, *budget, "TEST.EVAL_ITERS", "[25]"]),
        ("rows", [*common, "1", *rows, "SOLVER.MAX_ITER", "1", "TEST.EVAL_ITERS", "[0]"]),
    ):
        done = subprocess.run(
            study(repository, *arguments, "--output-dir", str(tmp_path / folder)),
            cwd=repository,
            env=dict(os.environ, **shapes),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "variants" / "study.json").read_text())
    [comparison] = found["comparisons"]
    assert (comparison["a"], comparison["b"]) == ("all_but_predictors", "from_scratch")
    assert comparison["seeds"] == 3 and comparison["verdict"] == "better"
    assert comparison["interval"][0] > 3, comparison
    assert found["verdict"].startswith("Pre-trained weights pay here")

    rows_study = json.loads((tmp_path / "rows" / "study.json").read_text())
    at_start = {run["variant"]: run["curve"][0] for run in rows_study["runs"]}
    assert at_start["class_rows"]["iteration"] == 0
    # ring is a class of the source; star and heart are not
    assert at_start["class_rows"]["segm/AP-ring"] > 15, at_start
    assert at_start["class_rows"]["segm/AP"] > 5
    assert (at_start["random_init"]["segm/AP"] or 0) < 0.5


@pytest.mark.slow
def test_a_study_in_use_is_left_alone(toy: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    holder = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{holder}; print(1, flush=True); time.sleep(60)", ".training"],
        cwd=folder,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        done = subprocess.run(toy, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        other.kill()
    assert done.returncode == 1
    assert "another training" in done.stderr and "OUTPUT_DIR study;" in done.stderr
    assert not (folder / "runs").exists()
    shutil.rmtree(folder)
