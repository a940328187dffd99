"""The real tools as a user runs them, in processes of their own, on generated data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parent.parent
WriteDataset = Callable[[str, Path], dict[str, Any]]

# The shapes model, so small and so briefly trained that a run is mostly Python's start.
TINY = """
_BASE_: {repository}/configs/shapes/Base-shapes.yaml
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  TRANSFER: {{KEEP: random_init}}
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 8}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TRAIN: 10, POST_NMS_TOPK_TEST: 10}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATASETS: {{CATALOG: {catalog}, TRAIN: [toy], TEST: [toy]}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, STEPS: [], WARMUP_ITERS: 1, BASE_LR: 0.001}}
TEST: {{DETECTIONS_PER_IMAGE: 5}}
OUTPUT_DIR: {folder}/output
"""


class Project:
    """A user's folder: data, catalog and config; runs tools/train_net.py on it."""

    def __init__(self, repository: Path, folder: Path, entry: dict[str, Any]):
        self.folder, self.output = folder, folder / "output"
        self.script = repository / "tools" / "train_net.py"
        catalog = folder / "my.yaml"
        unnamed = {k: v for k, v in entry.items() if k != "classes"}  # found in the annotations
        swapped = dict(entry, classes=entry.get("classes", ["blob", "bar"])[::-1])
        catalog.write_text(yaml.safe_dump({"toy": entry, "toy_val": unnamed, "swapped": swapped}))
        self.config = folder / "config.yaml"
        self.config.write_text(TINY.format(repository=repository, catalog=catalog, folder=folder))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.script), "--config-file", str(self.config), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=environment, timeout=240
        )

    def evaluation(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.output / "evaluation.json").read_text())
        return content


@pytest.fixture
def project(repository: Path, write_dataset: WriteDataset, tmp_path: Path) -> Project:
    return Project(repository, tmp_path, write_dataset("coco", tmp_path))


@pytest.mark.parametrize("format", ["via", "labelme", "yolo", "png_masks"])
@pytest.mark.slow
def test_trains_on_a_users_catalog(
    format: str, repository: Path, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    project = Project(repository, tmp_path, write_dataset(format, tmp_path))
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dataset toy: 4 of 4 images, 7 of 7 instances kept" in done.stdout
    assert set(project.evaluation()["toy"]) == {"bbox", "segm"}


@pytest.mark.slow
def test_train_then_evaluate_then_resume_gives_the_same_and_trains_nothing(
    project: Project,
) -> None:
    same = ("DATASETS.TRAIN", "('toy_val',)")  # the same images; its classes are not declared
    done = project.run(*same)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((project.output / "transfer_plan.json").read_text())
    assert plan, "the plan is written, also for a start from random weights"
    assert json.loads((project.output / "run.json").read_text())["spec"]["seed"] == 0
    trained = project.evaluation()
    (project.output / "evaluation.json").unlink()
    config = (project.output / "config.yaml").read_text()

    evaluated = project.run(*same, "--eval-only")
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert project.evaluation() == trained
    assert (project.output / "config.yaml").read_text() == config, "the run's own, untouched"

    other = project.run("--eval-only", "DATASETS.TEST", "('swapped',)")
    assert other.returncode == 1
    assert "trained on other classes than the dataset has" in other.stderr

    resumed = project.run(*same, "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "this run is complete" in resumed.stdout
    assert "Starting training" not in resumed.stdout


@pytest.mark.slow
def test_resume_after_a_kill_goes_on_from_the_last_checkpoint(project: Project) -> None:
    options = ("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "2")
    process = subprocess.Popen(
        project.command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    tag = project.output / "last_checkpoint"
    deadline = time.monotonic() + 120
    while not tag.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(tag.read_text().removeprefix("model_").removesuffix(".pth")) + 1
    assert reached < 40

    resumed = project.run("--resume", *options[:1], str(reached + 2))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"Starting training from iteration {reached}" in resumed.stdout
    assert set(project.evaluation()["toy"]) == {"bbox", "segm"}


FEATURES = (
    *("MODEL.WEIGHTS", str(REPOSITORY / "configs/shapes/shapes_source.pth")),
    *("MODEL.TRANSFER.KEEP", "all_but_predictors", "SOLVER.BASE_LR", "0.01"),
    *("SOLVER.FREEZE_SCHEDULE", "[[3, 'all_but_predictors'], [2, 'backbone']]"),
    *("SOLVER.LR_MULTIPLIERS", "[['backbone', 0.1]]", "SOLVER.L2_SP", "0.01"),
    *("SOLVER.EMA_DECAY", "0.9", "TEST.VAL_LOSS", "True", "TEST.BEST_METRIC", "val_loss"),
    *("TEST.EVAL_PERIOD", "2", "SOLVER.MAX_ITER", "9", "SOLVER.CHECKPOINT_PERIOD", "2"),
)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights_as_an_undisturbed_one(project: Project) -> None:
    """With everything switched on that has a state to lose."""
    whole, killed = project.folder / "whole", project.folder / "killed"
    done = project.run(*FEATURES, "OUTPUT_DIR", str(whole))
    assert done.returncode == 0, done.stdout + done.stderr
    command = project.command("--resume", *FEATURES, "OUTPUT_DIR", str(killed))
    for checkpoint in ("model_0000001.pth", "model_0000005.pth"):
        process = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"))
        deadline = time.monotonic() + 120
        while not (killed / checkpoint).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = project.run("--resume", *FEATURES, "OUTPUT_DIR", str(killed))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Starting training from iteration 0" not in resumed.stdout
    for name in ("eval_history.json", "drift.json", "evaluation.json"):
        assert (killed / name).read_text() == (whole / name).read_text(), name
    expected = load_file(whole / "model_final.safetensors")
    found = load_file(killed / "model_final.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    best = min(
        json.loads((whole / "eval_history.json").read_text()), key=lambda row: row["val_loss"]
    )
    kept = torch.load(killed / "model_best.pth", weights_only=True)["evaluation"]
    assert kept["iteration"] == best["iteration"]
    page = (killed / "report.html").read_text()
    assert "val_loss" in page or "validation" in page


@pytest.mark.slow
def test_an_average_is_what_is_evaluated_again(project: Project) -> None:
    options = ("SOLVER.EMA_DECAY", "0.99", *FEATURES[:6], "SOLVER.MAX_ITER", "6")
    done = project.run(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = project.evaluation()
    other = ("DATASETS.TEST", "('toy_val',)")
    for more in ((), other):
        evaluated = project.run(*options, "--eval-only", *more)
        assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    found = project.evaluation()
    assert found["toy"] == trained["toy"], "the average, and what another dataset gave beside it"
    assert set(found) == {"toy", "toy_val"}


@pytest.mark.slow
def test_a_resumed_run_is_not_mixed_with_another(project: Project) -> None:
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    config = (project.output / "config.yaml").read_text()
    changed = ("SOLVER.BASE_LR", "0.5", "MODEL.TRANSFER.FREEZE", "backbone")
    mixed = project.run("--resume", "SOLVER.MAX_ITER", "4", *changed)
    assert mixed.returncode == 1
    assert "MODEL.TRANSFER.FREEZE: '' before, 'backbone' now" in mixed.stderr
    assert "SOLVER.BASE_LR: 0.001 before, 0.5 now" in mixed.stderr
    assert "MAX_ITER" not in mixed.stderr, "a run may become longer"
    assert (project.output / "config.yaml").read_text() == config
    longer = project.run("--resume", "SOLVER.MAX_ITER", "3")
    assert longer.returncode == 0, longer.stdout + longer.stderr
    shorter = project.run("--resume", "SOLVER.MAX_ITER", "1")
    assert "holds a checkpoint of iteration 3, beyond SOLVER.MAX_ITER 1" in shorter.stderr


@pytest.mark.slow
def test_training_ends_early_and_stays_ended(project: Project) -> None:
    options = ("TEST.BEST_METRIC", "segm/AP", "TEST.EARLY_STOPPING", "2", "TEST.EVAL_PERIOD", "2")
    long = ("SOLVER.MAX_ITER", "40", "SOLVER.BASE_LR", "1e-9")
    done = project.run(*options, *long)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 evaluations without a better segm/AP" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    iterations = [
        row["iteration"] for row in json.loads((project.output / "eval_history.json").read_text())
    ]
    assert iterations[-1] <= 8
    assert (project.output / "model_final.safetensors").exists()
    again = project.run("--resume", *options, *long)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = json.loads((project.output / "eval_history.json").read_text())
    assert [row["iteration"] for row in rows] == iterations, "nothing more was trained"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_with_one_clear_error(project: Project) -> None:
    done = project.run("SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", "9")
    assert done.returncode == 3
    assert "error: training diverged at iteration" in done.stderr
    assert "usual remedies: a lower SOLVER.BASE_LR" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
