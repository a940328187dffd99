"""The shell examples of README.md and docs, typed as they stand; only budgets are cut short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from transfer_maskrcnn.data.shapes import prepare_shapes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))]
# Few iterations of small images, and random weights: the model zoo is not asked.
SHORT = (
    "SOLVER.MAX_ITER 1 SOLVER.STEPS '()' SOLVER.WARMUP_ITERS 1 SOLVER.IMS_PER_BATCH 1 "
    "TEST.EVAL_ITERS '[]' INPUT.MIN_SIZE_TRAIN '(64,)' INPUT.MIN_SIZE_TEST 64"
)
FROM_NOTHING = "MODEL.WEIGHTS '' MODEL.TRANSFER.KEEP random_init MODEL.RESNETS.NORM BN"
# What is added to a command; None: it is run elsewhere.
ADDED: dict[str, str | None] = {
    "make demo": None,  # continuous integration runs both
    "make test": None,
    "datasets/prepare_shapes.py": "",
    "tools/check_dataset.py": "",
    "tools/make_config.py": "",
    "tools/explain_ap.py": "",
    "tools/transfer_weights.py": "",
    "tools/predict.py": "--score 0.0 INPUT.MIN_SIZE_TEST 64",
    # configs that extend a model, whose weights come with the project
    "train_net.py --config-file configs/shapes/mask_rcnn_extend.yaml": SHORT,
    "train_net.py --config-file configs/shapes/mask_rcnn_few_shot.yaml": SHORT,
    "train_net.py --config-file configs/shapes/mask_rcnn_relabel.yaml": SHORT,
    "tools/pseudo_label.py": "",
    "tools/make_few_shot.py": "",
    "tools/summarise_runs.py": "",
    "tools/train_net.py": f"{FROM_NOTHING} {SHORT} MODEL.BACKBONE.FREEZE_AT 0",
    "tools/compare_inits.py": f"--seeds 1 --variants all_but_predictors,class_rows {SHORT}",
}


def commands() -> list[str]:
    """Every command of the bash blocks, continued lines joined; one that comes twice, once."""
    fences = re.compile(r"^( *)```bash\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
    blocks = [block for page in PAGES for _, block in fences.findall(page)]
    text = "\n".join(blocks).replace("\\\n", " ")
    lines = [" ".join(line.split("  #")[0].split()) for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def tool_of(command: str) -> str:
    return next(name for name in ADDED if name in command)


@pytest.fixture
def folder(tmp_path: Path, write_dataset: Callable[[str, Path], dict[str, Any]]) -> Path:
    """Looks like a checkout that has been set up, with a user's data in it."""
    for name in ("configs", "tools", "transfer_maskrcnn"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    prepare_shapes(tmp_path / "datasets", ("train", "val"))  # as `make demo` does, and no more
    (tmp_path / "datasets" / "prepare_shapes.py").symlink_to(ROOT / "datasets/prepare_shapes.py")
    (tmp_path / "my_photos").mkdir()
    for part in ("train", "val"):
        made = tmp_path / f"made_{part}"
        entry = write_dataset("labelme", made)
        (made / entry["annotations"]).rename(tmp_path / "my_photos" / part)
        for image in (made / entry["image_root"]).glob("*.png"):
            pixels = cv2.imread(str(image))
            pixels = pixels if part == "train" else 255 - pixels[::-1]  # other pictures
            cv2.imwrite(str(tmp_path / "my_photos" / part / image.name), pixels)
    (tmp_path / "photos").symlink_to(tmp_path / "my_photos/val")
    return tmp_path


def type_in(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **variables}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def test_every_command_is_known() -> None:
    assert len(commands()) >= 10
    assert {tool_of(command) for command in commands()} == set(ADDED)


@pytest.mark.slow
def test_commands_on_a_users_data_and_on_shapes(folder: Path) -> None:
    chosen = [c for c in commands() if ADDED[tool_of(c)] is not None and not _needs_files(c)]
    assert len(chosen) >= 8
    demo = folder / "output/demo/runs/all_but_predictors_f1_s0"
    demo.mkdir(parents=True)
    written = "--output output/demo/runs/all_but_predictors_f1_s0/model_final.safetensors"
    config = "--config-file configs/shapes/mask_rcnn_transfer.yaml"
    type_in(f".venv/bin/python tools/transfer_weights.py {config} {written}", folder)
    for command in chosen:
        type_in(f"{command} {ADDED[tool_of(command)]}", folder)
    for made in (
        *("doctor.html", "my_config.yaml", "output/mine/report.html", "output/study/report.html"),
        *("output/mine/inference/my_photos_val/explanation.json", "found/predictions.json"),
        *("labelled/annotations.json", "few/10shot_seed4.json"),
    ):
        assert (folder / made).is_file(), made


def _needs_files(command: str) -> bool:
    """Whether it is about datasets or weights that do not come with the project."""
    return bool(re.search(r"coco549|balloon|dsb2018|fruits_nuts", command))


@pytest.mark.slow
def test_commands_on_public_datasets(folder: Path, shared: Path) -> None:
    weights = shared / "weights"
    (folder / "coco549_thin_r50_fpn.pth").symlink_to(weights / "coco549_thin_r50_fpn.pth")
    (folder / "thin_r50.pkl").symlink_to(weights / "thin_r50_imagenet_open_nsfw.pkl")
    chosen = [c for c in commands() if _needs_files(c)]
    assert len(chosen) == 3
    for command in chosen:
        added = ADDED[tool_of(command)]
        type_in(f"{command} {added}", folder, DETECTRON2_DATASETS=str(shared / "data"))
