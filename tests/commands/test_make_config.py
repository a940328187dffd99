"""A config is written that loads, says why, and trains as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode

from transfer_maskrcnn.autoconfig.lines import settings_of
from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.commands.make_config import make_config
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import TransferError

Make = Callable[..., tuple[Path, CfgNode]]
PAIR = [(20, 20), (40, 30)]
# images with boxes, side of the images, flags, what the config holds (base: 128, batches of 2)
FITTED: list[tuple[list[list[tuple[int, int]]], int, list[str], dict[str, Any]]] = [
    # large objects of small images: their own size
    (
        [[(58, 58)], [(34, 34)]] * 2,
        64,
        [],
        {
            "INPUT.MIN_SIZE_TEST": 64,
            "INPUT.MIN_SIZE_TRAIN": (64,),
            "SOLVER.MAX_ITER": 300,
            "SOLVER.STEPS": (225,),
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
        },
    ),
    # objects of 4 pixels in images of the base's size: enlarged no further, smaller anchors
    (
        [[(4, 4), (4, 3)]] * 2,
        128,
        [],
        {
            "INPUT.MIN_SIZE_TEST": 128,
            "MODEL.ANCHOR_GENERATOR.SIZES": [[4], [8], [16], [32], [64]],
        },
    ),
    # many objects, one empty image, a budget
    (
        [[(9, 9)] * 90, PAIR, PAIR, []],
        128,
        ["--iterations", "40"],
        {
            "TEST.DETECTIONS_PER_IMAGE": 150,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 225,
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
            "SOLVER.MAX_ITER": 40,
            "SOLVER.WARMUP_ITERS": 10,
            "SOLVER.CHECKPOINT_PERIOD": 8,
        },
    ),
    # fewer images than a batch holds
    ([PAIR], 128, [], {"SOLVER.IMS_PER_BATCH": 1, "SOLVER.BASE_LR": 0.005}),
]


@pytest.mark.parametrize(("boxes", "side", "flags", "expected"), FITTED)
def test_a_config_follows_its_data(
    make: Make,
    boxes: list[list[tuple[int, int]]],
    side: int,
    flags: list[str],
    expected: dict[str, Any],
) -> None:
    output, cfg = make(boxes, side, *flags)
    found = {}
    for key in expected:
        node: Any = cfg
        for part in key.split("."):
            node = node[part]
        found[key] = node
    assert found == expected
    assert settings_of(cfg).strides == (4, 8, 16, 32, 64)
    _every_line_has_its_reason(output)


def _every_line_has_its_reason(output: Path) -> None:
    rows = output.read_text().splitlines()
    stated = [i for i, row in enumerate(rows) if row[0] != "#" and not row.lstrip().startswith("#")]
    for i in stated:
        is_value = not rows[i].endswith(":") and not rows[i].startswith("_BASE_")
        assert not is_value or rows[i - 1].lstrip().startswith("# "), rows[i]
    assert all(len(row) <= 100 for row in rows[1:] if row.lstrip().startswith("#"))


def test_what_is_said(make: Make, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, cfg = make([PAIR] * 3)
    train, val = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    printed = capsys.readouterr().out
    assert f"train: {train}; validate: {val}" in printed
    assert "note: the base names no weights" in printed
    command = f"{typed('train')} --config-file '{output}'"
    assert f"next: {command}" in printed
    text = output.read_text()
    assert text.startswith(f"# {command}\n")
    assert f"\n_BASE_: {base.resolve()}\n" in text  # both lie outside the folder that tests run in
    heading = text.partition("_BASE_")[0].replace("\n# ", " ")
    assert f"{train} (3 images, 6 objects) and {val} (3 images, 6 objects); 1 class." in heading


@pytest.mark.slow
def test_trains_as_it_is_from_another_folder(
    catalog: Callable[..., Path],
    base: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also an image without an object, a relative catalog, and names with spaces."""
    data, elsewhere = catalog([PAIR, PAIR, PAIR, []]), tmp_path / "else where"
    elsewhere.mkdir()
    here = data.parent
    paths = ["--catalog", data.name, "--base", os.path.relpath(base, here), "-o", "my fit.yaml"]
    monkeypatch.chdir(here)
    make_config([*paths, "--iterations", "2"])
    run_tool(repository, "train_net.py", ["--config-file", str(here / "my fit.yaml")], elsewhere)
    results = json.loads((elsewhere / "output/my fit/evaluation.json").read_text())
    assert set(next(iter(results.values()))) == {"bbox", "segm"}


def run_tool(repository: Path, tool: str, arguments: list[str], folder: Path) -> None:
    command = [sys.executable, str(repository / "tools" / tool), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_weights_are_found_from_any_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    _, cfg = make([PAIR] * 2, 64, "--weights", "w.pth")
    assert str(tmp_path / "w.pth") == cfg.MODEL.WEIGHTS
    assert "note:" not in capsys.readouterr().out


def test_the_base_is_relative_where_both_can_move(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output, _ = make([PAIR] * 2)
    assert "\n_BASE_: tiny base.yaml\n" in output.read_text()


@pytest.mark.parametrize("stated", ["lost.yaml", ["lost.yaml", "more.yaml"]])
def test_two_catalogs_whatever_the_base_has(
    base: Path, catalog: Callable[..., Path], tmp_path: Path, stated: Any
) -> None:
    files = [catalog([PAIR, PAIR]) for _ in range(2)]
    names = [[*yaml.safe_load(file.read_text())] for file in files]
    content = yaml.safe_load(base.read_text())
    base.write_text(yaml.safe_dump({**content, "DATASETS": {"CATALOG": stated}}))
    output = tmp_path / "own.yaml"
    flags = [part for file in files for part in ("--catalog", str(file))]
    sets = ["--train", names[0][0], "--val", names[1][1]]
    make_config([*flags, *sets, "--base", str(base), "-o", str(output)])
    cfg = load_config(str(output))
    assert [*map(str, files)] == cfg.DATASETS.CATALOG
    assert [names[0][0]] == [*cfg.DATASETS.TRAIN]


@pytest.mark.parametrize(
    "flags",
    [["--catalog", "{0}"], ["--train", "{0}"], ["--train", "{0}/train", "--val", "{0}/val"]],
)
def test_a_folder_is_a_dataset(
    base: Path, catalog: Callable[..., Path], tmp_path: Path, flags: list[str]
) -> None:
    """What was found in it is declared beside the config, which does not depend on a guess."""
    file = catalog([PAIR, PAIR])
    file.unlink()
    output = tmp_path / "own.yaml"
    typed = [*(flag.format(file.parent) for flag in flags), "--base", str(base)]
    make_config([*typed, "-o", str(output)])
    cfg = load_config(str(output))
    assert str(tmp_path / "own_data.yaml") == cfg.DATASETS.CATALOG
    stem = file.parent.name.replace(" ", "_")
    assert ([f"{stem}_train"], [f"{stem}_val"]) == ([*cfg.DATASETS.TRAIN], [*cfg.DATASETS.TEST])
    output.unlink()
    with pytest.raises(TransferError, match=r"own_data\.yaml: exists already"):
        make_config([*typed, "-o", str(output)])
    with pytest.raises(TransferError, match=r"nowhere\.pth"):
        make_config([*typed, "--weights", "nowhere.pth", "-o", str(tmp_path / "more.yaml")])
    assert not list(tmp_path.glob("more*"))


# flags beside --base and --catalog, what the error must say
WRONG: list[tuple[list[str], str]] = [
    (["-o", "taken.yaml"], "-o taken.yaml: exists already; choose another name"),
    (["-o", "no/where.yaml"], "there is no folder no"),
    (["-o", "a.yaml", "--train", "lost"], "--train lost: no dataset is registered"),
    (["-o", "a.yaml", "--weights", "lost.pth"], "--weights lost.pth: there is no such file"),
    (["-o", "a.yaml", "--base", "lost.yaml"], "lost.yaml: there is no such file"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_errors_leave_nothing_behind(
    base: Path,
    catalog: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    message: str,
) -> None:
    data = catalog([PAIR])
    monkeypatch.chdir(tmp_path)
    Path("taken.yaml").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TransferError, match=message):
        make_config(["--catalog", str(data), "--base", str(base), *flags])
    assert sorted(tmp_path.iterdir()) == before
    assert Path("taken.yaml").read_text() == "mine"


def test_a_config_that_would_not_train_is_not_written(
    base: Path, catalog: Callable[..., Path], tmp_path: Path
) -> None:
    content = yaml.safe_load(base.read_text())
    content["SOLVER"]["FREEZE_SCHEDULE"] = [[50, "backbone"]]
    base.write_text(yaml.safe_dump(content))
    output = tmp_path / "a.yaml"
    data = ["--catalog", str(catalog([PAIR])), "--base", str(base)]
    with pytest.raises(TransferError, match="FREEZE_SCHEDULE takes 50 iterations"):
        make_config([*data, "-o", str(output), "--iterations", "20"])
    assert not list(tmp_path.glob("*a.yaml*"))


def test_epochs_of_the_base_do_not_count(make: Make, base: Path) -> None:
    content = yaml.safe_load(base.read_text())
    content["SOLVER"]["EPOCHS"] = 1000.0
    base.write_text(yaml.safe_dump(content))
    _, cfg = make([PAIR] * 2, 64, "--iterations", "20")
    assert cfg.SOLVER.MAX_ITER == 20


@pytest.mark.slow
def test_real_nuclei(
    shared: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tuned by hand for them is found: smaller anchors, more detections."""
    entry = {"format": "png_masks", "image_root": "val", "classes": ["nucleus"]}
    data = shared / "data/dsb2018"
    paths = {"annotations": str(data / "val"), "image_root": str(data / "val")}
    (tmp_path / "nuclei.yaml").write_text(yaml.safe_dump({"real_nuclei": {**entry, **paths}}))
    base = repository / "configs/Base-thin-R50-FPN-cpu.yaml"
    output = tmp_path / "nuclei_fit.yaml"
    make_config(
        ["--catalog", str(tmp_path / "nuclei.yaml"), "--base", str(base), "-o", str(output)]
    )
    cfg = load_config(str(output))
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES[0][0] < 16
    assert cfg.TEST.DETECTIONS_PER_IMAGE >= 200
    assert cfg.DATASETS.TEST in ([], ())
