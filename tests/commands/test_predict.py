"""tools/predict.py as a user runs it, on a tiny model with random weights."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from transfer_maskrcnn.commands.predict import _parser, main
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import TransferError, WeightFileError
from transfer_maskrcnn.inference.outputs import JOURNAL_FILE, video_file
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.read import METADATA_KEY, write_weights

TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "start.pth", "MODEL.ROI_HEADS.NUM_CLASSES", 2),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 10, "TEST.DETECTIONS_PER_IMAGE", 5),
    *("DATASETS.TRAIN", ("a_set_that_is_gone",), "OUTPUT_DIR", "elsewhere"),
]


@pytest.fixture(scope="module")
def finished(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.yaml of a finished run, with its model beside it."""
    folder = tmp_path_factory.mktemp("run")
    cfg = load_config(str(repository / "configs/shapes/Base-shapes.yaml"))
    cfg.merge_from_list(TINY)
    torch.manual_seed(0)
    state = build_model(cfg).state_dict()
    write_weights(folder / "model_final.safetensors", state, {"thing_classes": ["cat", "dog"]})
    (folder / "config.yaml").write_text(cfg.dump())
    return folder / "config.yaml"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(64, 80), (48, 96)]):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def predict(finished: Path, photos: Path, tmp_path: Path) -> Callable[..., int]:
    """predict(*arguments) -> exit status; of the photos into ``out``, unless told otherwise."""

    def run(*arguments: str | Path) -> int:
        given = [str(argument) for argument in arguments]
        given += [] if "--input" in given else ["--input", str(photos)]
        given += [] if "--output" in given else ["--output", str(tmp_path / "out")]
        return main(["--config-file", str(finished), *given])

    return run


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_overlays_and_json_unless_told_otherwise(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--score", "0.1") == 0
    out = tmp_path / "out"
    assert written(out) == {"overlays", "predictions.json", "images.json"}
    assert cv2.imread(str(out / "overlays" / "1.jpg")).shape == (48, 96, 3)
    coco = COCO(str(out / "images.json"))
    found = len(coco.loadRes(str(out / "predictions.json")).anns)
    assert 0 < found <= 10
    assert f"2 images, {found} instances (" in capsys.readouterr().out


def test_flags_and_pairs_in_any_order(predict: Callable[..., int], tmp_path: Path) -> None:
    arguments = ["--labelme", "TEST.DETECTIONS_PER_IMAGE", "1", "--masks", "--score", "0"]
    assert predict(*arguments, "--batch", "2") == 0
    out = tmp_path / "out"
    assert written(out) == {"labelme", "masks"}
    assert written(out / "labelme") == {"0.json", "1.json"}
    assert len(list((out / "masks" / "0").iterdir())) == 1


def test_a_runs_folder_is_enough(finished: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["--input", str(photos), "--output", str(tmp_path / "out"), "--score", "0.1"]
    assert main(["--weights", str(finished.parent), *arguments, "MODEL.DEVICE=cpu"]) == 0
    assert (tmp_path / "out" / "predictions.json").stat().st_size > 100
    with pytest.raises(TransferError, match="name a model: a run's folder"):
        main(arguments)


def test_a_class_with_its_own_score(predict: Callable[..., int], tmp_path: Path) -> None:
    assert predict("--score", "0", "--class-score", "cat=1", "--json") == 0
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {result["category_id"] for result in results} == {2}


def test_a_broken_image_is_named_and_makes_status_1(
    predict: Callable[..., int], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    assert predict("--score", "0.1") == 1
    shown = capsys.readouterr()
    assert f"left out: {photos / 'broken.png'}: in no image format\n" in shown.err
    assert "2 images, " in shown.out
    assert "\n1 image could not be read" in shown.out
    assert written(tmp_path / "out" / "overlays") == {"0.jpg", "1.jpg"}


def test_a_video(predict: Callable[..., int], tmp_path: Path) -> None:
    with video_file(tmp_path / "clip.mp4", 5.0, (64, 96)) as add_frame:
        for shade in range(0, 250, 50):
            add_frame(np.full((64, 96, 3), shade, np.uint8))
    assert predict("--input", tmp_path / "clip.mp4", "--score", "0.1") == 0
    assert written(tmp_path / "out" / "overlays") == {"clip.mp4"}
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["frame"] for image in images] == [0, 1, 2, 3, 4]
    for flag in ("--labelme", "--labelme-masks"):
        with pytest.raises(TransferError, match="--labelme: labelme opens images"):
            predict("--input", tmp_path / "clip.mp4", flag)


MISTAKES: list[tuple[list[str], str]] = [
    (["--class-score", "dgo=0.7"], r"no such class; it has cat, dog; did you mean 'dog'\?"),
    (["--score", "70"], "a score of 70 is asked for; expected one from 0 to 1"),
    (["--input", "gone.jpg"], "there is no such file or folder"),
    (["--output", "/dev/null"], "--output /dev/null: cannot write there"),
    (["--weights", "gone.pth"], r"gone\.pth: no such weight file"),
    (["MODEL.WEIGHTS", "gone_too.pth"], r"gone_too\.pth: no such weight file"),
    (["MODEL.WIEGHTS", "x"], "unknown config key 'MODEL.WIEGHTS'; did you mean 'MODEL.WEIGHTS'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes(arguments: list[str], message: str, predict: Callable[..., int]) -> None:
    with pytest.raises(TransferError, match=message):
        predict(*arguments)


UNPARSED: list[tuple[list[str], str]] = [
    (["--class-score", "dog"], "'dog': expected NAME=SCORE, for example cat=0.7"),
    (["--class-score", "dog=much"], "'dog=much': expected NAME=SCORE"),
    (["--batch", "0"], "'0'; expected whole numbers from 1 on"),
]


@pytest.mark.parametrize(("arguments", "message"), UNPARSED)
def test_arguments_that_are_none(
    arguments: list[str],
    message: str,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        predict(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = _parser().format_help()
    assert max(map(len, text.splitlines())) < 80
    assert "Examples:" in text and "Exit status:" in text


@pytest.fixture
def start(
    repository: Path, finished: Path, photos: Path, tmp_path: Path
) -> Callable[[int], subprocess.Popen[str]]:
    """start(n) -> the tool in a process of its own, on n images."""

    def run(images: int) -> subprocess.Popen[str]:
        many = tmp_path / "many"
        many.mkdir()
        for i in range(images):
            shutil.copy(photos / f"{i % 2}.png", many / f"{i}.png")
        command = [sys.executable, str(repository / "tools" / "predict.py")]
        command += ["--config-file", str(finished), "--input", str(many)]
        command += ["--output", str(tmp_path / "out"), "--score", "0.1"]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
            # What runs in the background of a shell ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files(
    start: Callable[[int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process, out = start(1000), tmp_path / "out"
    deadline = time.monotonic() + 120
    while len(list(out.glob("overlays/*.jpg"))) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert (
        "interrupted; --output holds whole files of what was done; the same command goes on"
        in errors
    )
    assert "Traceback" not in errors
    coco = COCO(str(out / "images.json"))
    assert coco.loadRes(str(out / "predictions.json")).anns
    assert 3 <= len(coco.imgs) < 1000
    assert 0 <= len(list(out.glob("overlays/*"))) - len(coco.imgs) <= 1
    assert all(cv2.imread(str(path)) is not None for path in out.glob("overlays/*.jpg"))
    assert [path.name for path in out.rglob(".*")] == [JOURNAL_FILE]


def test_a_reader_that_goes_away(
    start: Callable[[int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(2)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 141, errors
    assert errors == ""
    assert len(COCO(str(tmp_path / "out" / "images.json")).imgs) == 2


def test_a_file_that_needs_trust(
    predict: Callable[..., int], finished: Path, tmp_path: Path
) -> None:
    """It holds an object beside the weights: refused, and read where TRUST_PICKLE says so."""
    state = dict(load_weights(finished.with_name("model_final.safetensors")).tensors)
    metadata = {METADATA_KEY: {"thing_classes": ["cat", "dog"]}}
    torch.save({"model": state, **metadata, "args": argparse.Namespace()}, tmp_path / "own.pth")
    asked = ["--weights", tmp_path / "own.pth", "--json"]
    with pytest.raises(WeightFileError, match="TRUST_PICKLE True"):
        predict(*asked)
    assert predict(*asked, "MODEL.TRANSFER.TRUST_PICKLE", "True") == 0
