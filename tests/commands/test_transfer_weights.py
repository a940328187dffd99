"""tools/transfer_weights.py: plans shown, files written, files compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from transfer_maskrcnn.commands.transfer_weights import transfer_weights_tool
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.load import load_weights

Run = Callable[..., str]


@pytest.fixture
def run(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    config = repository / "configs" / "shapes" / "mask_rcnn_transfer.yaml"

    def tool(*arguments: str | Path) -> str:
        given = [str(a) for a in arguments]
        if "--diff" not in given:
            given = ["--config-file", str(config), *given]
        monkeypatch.setattr(sys, "argv", ["transfer_weights.py", *given])
        transfer_weights_tool()
        return capsys.readouterr().out

    return tool


def _cfg() -> CfgNode:
    root = Path(__file__).resolve().parents[2]
    cfg = load_config(str(root / "configs" / "shapes" / "mask_rcnn_transfer.yaml"))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.DEVICE = 3, "cpu"
    return cfg


@pytest.fixture
def start(run: Run, tmp_path: Path) -> Path:
    """A weight file with three classes, written by the tool itself."""
    path = tmp_path / "start.pth"
    run("--output", path, "--weights", "", "MODEL.TRANSFER.KEEP", "random_init")
    return path


def test_a_dry_run_shows_the_plan_and_writes_only_json(
    run: Run, start: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    shown = run("--dry-run", "--weights", start, "--json", tmp_path / "plan.json")
    assert "roi_heads.mask_head.predictor" in shown
    assert max(map(len, shown.splitlines()[1:])) <= 80
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert {t["fate"] for t in plan["tensors"]} == {"kept", "initialised", "dropped"}
    assert set(tmp_path.iterdir()) - before == {tmp_path / "plan.json"}


def test_an_extended_model(run: Run, start: Path, tmp_path: Path) -> None:
    """The file of three classes gets two names that the dataset has, and one that it lacks."""
    names = ("MODEL.TRANSFER.SOURCE_CLASSES", "['star', 'moon', 'heart']")
    extend = ("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", "True")
    path = tmp_path / "extended.safetensors"
    shown = run("--dry-run", "--weights", start, *names, *extend)
    assert shown == run("--output", path, "--weights", start, *names, *extend).replace(
        f"Written to {path}\n", ""
    )
    assert "class 'star', 'moon', 'heart': own rows, equal name" in shown
    assert "class 'ring': new class, as detectron2 initialises it" in shown
    written = load_weights(path)
    assert written.classes == ("star", "moon", "heart", "ring")
    assert len(written.tensors["roi_heads.box_predictor.cls_score.bias"]) == 5


def test_what_is_written_is_what_the_plan_says(run: Run, start: Path, tmp_path: Path) -> None:
    whole, heads = tmp_path / "whole.safetensors", tmp_path / "heads.pth"
    names = ("MODEL.TRANSFER.SOURCE_CLASSES", "['star', 'heart', 'ring']")
    run("--output", whole, "--weights", start, "MODEL.TRANSFER.KEEP", "class_rows", *names)
    run("--output", heads, "--weights", start, "SEED", "1")
    shown = run("--diff", start, whole)
    counts = [line.split() for line in shown.splitlines()[4:]]
    assert all(changed == "0" for _, _, changed, *_ in counts), "class rows of equal names: all"
    moved = [line.split()[0] for line in run("--diff", start, heads).splitlines()[4:]]
    assert "roi_heads.box_predictor.cls_score" in moved


def test_stock_detectron2_loads_the_result(run: Run, start: Path) -> None:
    model = build_model(_cfg())
    DetectionCheckpointer(model).load(str(start))
    written = torch.load(start, weights_only=True)["model"]
    assert all(torch.equal(tensor, written[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # nothing to start from
        (["--dry-run", "--weights", "", "MODEL.TRANSFER.KEEP", "backbone"], "MODEL.WEIGHTS is emp"),
        # a file that is not there
        (["--dry-run", "--weights", "nowhere.pth"], r"nowhere\.pth"),
        # a dataset nobody knows
        (["--dry-run", "DATASETS.TRAIN", "('toyy',)"], "no dataset is registered as 'toyy'"),
    ],
)
def test_mistakes_end_with_one_line_and_status_1(
    run: Run, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=rf"(?s)error: .*{message}"):
        run(*arguments)


def test_a_starting_point_does_not_pass_for_a_trained_model(run: Run, start: Path) -> None:
    with pytest.raises(SystemExit, match="needs the class names"):
        run("--dry-run", "--weights", start, "MODEL.TRANSFER.KEEP", "class_rows")
    model = build_model(_cfg())
    with pytest.raises(ConfigError, match=r"is a starting point: \d+ of its tensors were never"):
        load_trained_model(model, str(start), ["star", "heart", "ring"])


def test_nothing_is_computed_for_an_impossible_output(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no folder"):
        run("--output", tmp_path / "nowhere" / "a.pth")
    with pytest.raises(SystemExit, match=r"expected a name in \.pth or \.safetensors"):
        run("--output", tmp_path / "a.bin")
