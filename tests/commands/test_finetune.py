"""One command from a folder to a model: three formats, cut off, finished, faulty, in time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from transfer_maskrcnn import load_config
from transfer_maskrcnn.commands import finetune as command
from transfer_maskrcnn.commands.finetune import finetune
from transfer_maskrcnn.engine.hooks.record import EvaluationLines
from transfer_maskrcnn.engine.pace import Pace
from transfer_maskrcnn.errors import ConfigError, DatasetError, WeightFileError

from ..exports import labelme, roboflow, ultralytics

WEIGHTS = "shapes/shapes_source.pth"  # as it comes with the package
SIX = "10m"


class _Six(Pace):
    def fitting(self, seconds: float, most: int) -> tuple[int, int]:
        assert seconds <= 600 and most == 900
        return 6, 3


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pace is measured: six iterations fit, whatever the machine does meanwhile."""
    monkeypatch.setattr(
        "transfer_maskrcnn.engine.pace.measure_pace",
        lambda cfg, longest: _Six(0.0, 10.0, 0.0, 0.1, 0, 3),
    )
    monkeypatch.chdir(tmp_path)


def test_no_iteration_begins_after_the_time(
    at_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "ending", lambda pace, seconds: seconds)  # it is over at once
    finetune(labelme(tmp_path / "mine"), "cut", WEIGHTS, SIX)
    rows = json.loads(Path("cut/eval_history.json").read_text())
    assert [row["iteration"] for row in rows] == [1] and Path("cut/report.html").is_file()


FORMATS: list[tuple[Callable[[Path], Path], list[str]]] = [
    (labelme, ["blob", "bar"]),
    (roboflow, ["blob", "bar"]),
    (ultralytics, ["blob", "bar"]),
]


@pytest.mark.parametrize(("write", "classes"), FORMATS)
def test_from_a_folder_to_a_model(
    write: Callable[[Path], Path],
    classes: list[str],
    at_once: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path / "mine")
    model = finetune(data, weights=WEIGHTS, time=SIX)
    folder = tmp_path / "output" / "mine"
    assert sorted(model.names) == sorted(classes)
    image = next(data.parent.rglob("7.png") if data.is_file() else data.rglob("7.png"))
    assert set(model(str(image)).names) <= set(classes)
    for name in ("fitted.yaml", "config.yaml", "report.html", "doctor.html", "log.txt"):
        assert (folder / name).is_file(), name
    cfg = load_config(str(folder / "fitted.yaml"))
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.BEST_METRIC) == (6, "segm/AP")
    assert str(folder) == cfg.OUTPUT_DIR
    rows = json.loads((folder / "eval_history.json").read_text())
    assert [row["iteration"] for row in rows] == [2, 4, 6]
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 80 + len(str(tmp_path))
    assert "6 iterations of 10 s" in shown.out
    assert "WARNING: so few" in shown.out and "300 would suit" in shown.out
    found = Path(command._validation_images(folder / "fitted.yaml"))
    assert image.parent.parent == found.parent and list(found.glob("*.png"))
    assert (
        (folder / "fitted.yaml").read_text().partition("\n")[0].endswith("OUTPUT_DIR output/mine_2")
    )
    assert "[" not in shown.out, "no lines of the log"


def test_what_was_cut_off_goes_on(
    at_once: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = labelme(tmp_path / "mine")
    finetune(data, "whole", WEIGHTS, SIX)
    measured = []
    monkeypatch.setattr(command, "_prepare", _counting(command._prepare, measured))
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationLines, "after_step", _interrupts)
        with pytest.raises(KeyboardInterrupt):
            finetune(data, "cut", WEIGHTS, SIX)
    assert not Path("cut/report.html").exists()
    config = Path("cut/fitted.yaml").read_bytes()
    finetune(data, "cut", WEIGHTS, SIX)
    assert (len(measured), Path("cut/fitted.yaml").read_bytes()) == (1, config)
    whole, cut = (load_file(f"{name}/model_final.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())
    capsys.readouterr()
    before = Path("cut/model_final.safetensors").stat().st_mtime_ns
    assert finetune(data, "cut", WEIGHTS, SIX).names == ["bar", "blob"]
    assert "finished" in capsys.readouterr().out
    assert Path("cut/model_final.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"cut holds .*10m.*30m.*--output"):
        finetune(data, "cut", WEIGHTS, "30m")


def _counting(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls.append(1)
        return function(*args)

    return counted


def _interrupts(hook: EvaluationLines) -> None:
    if hook.trainer.iter == 4:
        raise KeyboardInterrupt


def test_faulty_data_stops_and_is_mended(
    at_once: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = labelme(tmp_path / "mine")
    content = json.loads((data / "0.json").read_text())
    line = {"label": "bar", "shape_type": "polygon", "points": [[1, 2], [9, 9]], "group_id": None}
    content["shapes"].append(line)
    (data / "0.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="--fix"):
        finetune(data, weights=WEIGHTS, time=SIX)
    folder = tmp_path / "output" / "mine"
    assert "ERROR" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["doctor.html"]
    shutil.copytree(data, tmp_path / "before")
    finetune(data, weights=WEIGHTS, time=SIX, fix=True)
    assert (folder / "mended/catalog.yaml").is_file() and (folder / "report.html").is_file()
    names = [path.name for path in sorted(data.iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "before").iterdir())]
    assert (data / "0.json").read_bytes() == (tmp_path / "before/0.json").read_bytes()


def _unknown_class(content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 99


def _no_instances(content: dict[str, Any]) -> None:
    content["annotations"] = []


@pytest.mark.parametrize("spoil", [_unknown_class, _no_instances])
def test_what_no_program_can_mend_stops_a_fix_too(
    spoil: Callable[[dict[str, Any]], None], at_once: None, tmp_path: Path
) -> None:
    file = roboflow(tmp_path / "mine") / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"mine.* no program can"):
        finetune(tmp_path / "mine", weights=WEIGHTS, time=SIX, fix=True)


# data, options, the error, what it says
WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("mine", {"time": "soon"}, ConfigError, "--time soon: .*90s, 30m or 2h"),
    ("mine", {"time": "0s"}, ConfigError, "--time 0s: .*above 0"),
    ("mine", {"time": "9s"}, ConfigError, r"--time: 9 seconds cannot be kept: .*--time 6\dm$"),
    ("mime", {}, DatasetError, "mime: no such folder or file; did you mean 'mine'"),
    ("mine", {"output": "mine/0.json/run"}, ConfigError, "--output .*0.json is a file"),
    ("config.yaml", {}, DatasetError, "is a config: the command is train --config-file"),
    ("mine", {"weights": "mask_rcnn_R_50_FPN"}, WeightFileError, "did you mean 'mask_rcnn_R_50"),
    ("nowhere", {}, DatasetError, "nowhere"),
]


@pytest.mark.parametrize(("data", "options", "error", "message"), WRONG)
def test_mistakes(
    data: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    at_once: None,
    tmp_path: Path,
) -> None:
    labelme(tmp_path / "mine")
    (tmp_path / "config.yaml").write_text("_BASE_: Base-Transfer-RCNN-FPN.yaml\n")
    with pytest.raises(error, match=message):
        finetune(tmp_path / data, **({"weights": WEIGHTS} | options))
    assert not list(tmp_path.rglob("fitted*"))
    assert all(any(folder.iterdir()) for folder in tmp_path.glob("output/*")), "an empty folder"


NAMES = [
    ("photos", "photos"),
    ("a/train.yaml", "train"),
    ("a/data.yaml", "a"),  # Ultralytics' files are all called so
    ("a.b/catalog.yml", "a.b"),
    ("my.json", "my"),
    ("My.v1i.coco/", "My.v1i.coco"),  # a folder's is whole
]


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_the_folder_is_called_as_the_data(path: str, name: str, tmp_path: Path) -> None:
    if path.endswith("/"):
        (tmp_path / path).mkdir()
    assert command._name(tmp_path / path) == name


# ------------------------------------------------------------------------------- the pace

# a pace, seconds; iterations and evaluations that fit, of at most 900
FITTING = [
    (Pace(0.0, 1.0, 0.0, 0.0, 0, 2), 100, (80, 10)),
    (Pace(15.0, 1.0, 0.0, 1.0, 0, 2), 100, (54, 10)),  # ten evaluations, and the best once more
    (Pace(0.0, 1.0, 0.0, 10.0, 0, 2), 100, (60, 1)),  # slow ones: a quarter of the time
    (Pace(0.0, 0.5, 0.1, 0.0, 100, 2), 100, (140, 10)),  # what is kept is computed first
    (Pace(0.0, 0.5, 0.1, 0.0, 10_000, 2), 100, (114, 10)),  # too many images to keep
    (Pace(0.0, 0.01, 0.0, 0.0, 0, 2), 100, (900, 10)),
    (Pace(200.0, 1.0, 0.0, 0.0, 0, 2), 100, (1, 1)),
]


@pytest.mark.parametrize(("pace", "seconds", "expected"), FITTING)
def test_what_fits_into_a_time(pace: Pace, seconds: float, expected: tuple[int, int]) -> None:
    found = pace.fitting(seconds, 900)
    assert found == expected
    assert found[0] == 1 or pace.seconds(*found) <= seconds


@pytest.mark.parametrize(("frozen", "kept"), [("backbone", True), ("", False)])
def test_the_pace_is_measured(toy: Callable[..., Any], frozen: str, kept: bool) -> None:
    from transfer_maskrcnn.engine.pace import measure_pace

    cfg = toy("MODEL.TRANSFER.FREEZE", frozen, "MODEL.RESNETS.NORM", "FrozenBN")
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    pace = measure_pace(cfg, 60.0 if kept else 0.0)
    assert 0 < pace.step < 60 and 0 < pace.evaluation < 60 and 0 < pace.start < 60
    assert (pace.view > 0, pace.views, pace.batch) == (kept, 8, 2)
    assert not Path(cfg.OUTPUT_DIR).exists(), "nothing is left"
