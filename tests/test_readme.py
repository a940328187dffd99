"""The blocks of README.md and docs: commands and Python are typed as they stand, in the order of
the site; only budgets are cut short. What needs more than a machine of tests says so in its title.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.cli import COMMANDS
from transfer_maskrcnn.data.registry import register_catalog
from transfer_maskrcnn.data.shapes import prepare_shapes

ROOT = Path(__file__).resolve().parent.parent
FORMATS_PAGE = ROOT / "docs" / "formats.md"  # test_formats_page.py reads its catalogs
# Few iterations of small images, and random weights: the model zoo is not asked.
SHORT = (
    "SOLVER.MAX_ITER 1 SOLVER.STEPS '()' SOLVER.WARMUP_ITERS 1 SOLVER.IMS_PER_BATCH 1 "
    "TEST.EVAL_ITERS '[]' TEST.EVAL_PERIOD 0 TEST.BEST_METRIC '' "
    "INPUT.MIN_SIZE_TRAIN '(64,)' INPUT.MIN_SIZE_TEST 64"
)
FROM_NOTHING = "MODEL.WEIGHTS '' MODEL.TRANSFER.KEEP random_init MODEL.RESNETS.NORM BN"
THAWED = "MODEL.TRANSFER.FREEZE ''"  # where a config is fitted to a machine without a GPU
# What is added to a command; None: it is run elsewhere.
ADDED: dict[str, str | None] = {
    "make ": None,  # continuous integration runs them
    "python datasets/prepare_shapes.py": "",
    **dict.fromkeys((f"transfer-maskrcnn {name}" for name in COMMANDS), ""),
    "transfer-maskrcnn predict": "--score 0.0 INPUT.MIN_SIZE_TEST 64",
    "transfer-maskrcnn finetune": "--weights shapes/shapes_source.pth --time 20s",
    # configs that extend a model, whose weights come with the project, and others
    "transfer-maskrcnn train --config-file configs/shapes/": SHORT,
    "transfer-maskrcnn train": f"{FROM_NOTHING} {SHORT} MODEL.BACKBONE.FREEZE_AT 0 {THAWED}",
    "transfer-maskrcnn compare": f"--seeds 1 --variants all_but_predictors,class_rows {SHORT}",
}


class Block(NamedTuple):
    """What stands between two fences."""

    page: Path
    kind: str
    title: str  # "needs a GPU": it is not run
    text: str


def pages() -> list[Path]:
    """README.md, then those of the site, in the order of its menu."""
    named = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in named)]


def blocks() -> Iterator[Block]:
    fence = re.compile(
        r'^( *)```(\w*)(?: title="([^"\n]*)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL
    )
    for page in pages():
        for indent, kind, title, text in fence.findall(page.read_text(encoding="utf-8")):
            yield Block(page, kind, title, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))


def commands() -> list[str]:
    """Every command, continued lines joined, and every piece of Python as a command; one that comes
    twice, once."""
    found = []
    for block in blocks():
        if block.kind == "python" and not block.title:
            found.append(f"python -c {shlex.quote(block.text)}")
        elif block.kind == "bash" and not block.title:
            lines = block.text.replace("\\\n", " ").splitlines()
            found += [" ".join(line.split("  #")[0].split()) for line in lines]
    return list(dict.fromkeys(command for command in found if command))


def added_to(command: str) -> str | None:
    """What fits most of it."""
    if command.startswith("python -c"):
        return ""
    return ADDED[max((start for start in ADDED if command.startswith(start)), key=len)]


@pytest.fixture
def folder(tmp_path: Path, write_dataset: Callable[[str, Path], dict[str, Any]]) -> Path:
    """Looks like a checkout that has been set up and activated, with a user's data in it."""
    for name in ("configs", "tools", "transfer_maskrcnn"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, module in (("python", ""), ("transfer-maskrcnn", " -m transfer_maskrcnn")):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        command.chmod(0o755)
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
    cv2.imwrite(str(tmp_path / "photo.jpg"), pixels)
    return tmp_path


def type_in(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
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


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    fences = re.findall(r"^ *```.*", page.read_text(encoding="utf-8"), re.MULTILINE)
    known = re.compile(r' *```(bash|python|yaml|text)( title="needs .*")?$')
    assert all(map(known.match, fences[::2]))
    assert [fence.strip() for fence in fences[1::2]] == ["```"] * (len(fences) // 2)
    assert len(fences) == 2 * sum(block.page == page for block in blocks())


def test_every_command_is_known() -> None:
    assert len(commands()) >= 20
    unknown = [c for c in commands() if not c.startswith(("python -c", *ADDED))]
    assert not unknown
    typed = {
        name for name in COMMANDS for c in commands() if f"transfer-maskrcnn {name} " in f"{c} "
    }
    assert typed == set(COMMANDS), "an example of each"


@pytest.mark.slow
def test_commands_on_a_users_data_and_on_shapes(folder: Path) -> None:
    chosen = [c for c in commands() if added_to(c) is not None and not _needs_files(c)]
    assert len(chosen) >= 8
    demo = folder / "output/demo/runs/all_but_predictors_f1_s0"
    demo.mkdir(parents=True)
    written = "--output output/demo/runs/all_but_predictors_f1_s0/model_final.safetensors"
    config = "--config-file configs/shapes/mask_rcnn_transfer.yaml"
    type_in(f"transfer-maskrcnn transfer {config} {written}", folder)
    for command in chosen:
        type_in(f"{command} {added_to(command)}", folder)
    for made in (
        *("doctor.html", "my_config.yaml", "output/mine/report.html", "output/study/report.html"),
        *("output/mine/inference/my_photos_val/explanation.json", "found/predictions.json"),
        *("labelled/annotations.json", "few/10shot_seed4.json", "found.csv"),
    ):
        assert (folder / made).is_file(), made


def test_catalogs_are_read(folder: Path) -> None:
    shown = [b for b in blocks() if b.kind == "yaml" and b.page != FORMATS_PAGE]
    before = set(DatasetCatalog.list())
    try:
        for block in shown:
            (folder / "my.yaml").write_text(block.text)
            for name in register_catalog(folder / "my.yaml"):
                assert DatasetCatalog.get(name)
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name)
    assert shown


def _needs_files(command: str) -> bool:
    """Whether it is about datasets or weights that do not come with the project."""
    named = re.search(r"coco549|balloon|dsb2018|fruits_nuts", command)
    return bool(named) and not command.startswith("python -c")


@pytest.mark.slow
def test_commands_on_public_datasets(folder: Path, shared: Path) -> None:
    weights = shared / "weights"
    (folder / "coco549_thin_r50_fpn.pth").symlink_to(weights / "coco549_thin_r50_fpn.pth")
    (folder / "thin_r50.pkl").symlink_to(weights / "thin_r50_imagenet_open_nsfw.pkl")
    chosen = [c for c in commands() if _needs_files(c)]
    assert len(chosen) == 3
    for command in chosen:
        type_in(f"{command} {added_to(command)}", folder, DETECTRON2_DATASETS=str(shared / "data"))
