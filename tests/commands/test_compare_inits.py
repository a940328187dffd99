"""Mistakes on the command line of tools/compare_inits.py end with one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from transfer_maskrcnn.commands import compare_inits as cli
from transfer_maskrcnn.config import RunSpec

CONFIG = ["--config-file", "configs/shapes/mask_rcnn_transfer.yaml"]
MISTAKES = [
    # more GPUs than there are
    (["--num-gpus", "99"], r"--num-gpus 99, but torch sees \d+ CUDA devices"),
    # a misspelt variant
    (["--variants", "random_init,bakbone"], "did you mean 'backbone'"),
    # no number
    (["--fractions", "0.5,all"], r"--fractions 0\.5,all: expected numbers"),
    # an unknown key
    (["SOLVER.MAX_ITRE", "3"], r"did you mean 'SOLVER\.MAX_ITER'"),
    # a budget that depends on the number of images
    (["SOLVER.EPOCHS", "3.0"], r"EPOCHS is 3, .* set SOLVER\.MAX_ITER"),
    # weights that are not there
    (["--variants", "random_init,backbone@nowhere.pth"], r"nowhere\.pth"),
]


def three_classes(cfg: CfgNode) -> RunSpec:
    """Stands for reading the datasets, which may not be there."""
    return RunSpec(("a", "b", "c"))


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(repository)
    output = ["--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["compare_inits.py", *CONFIG, *output, *arguments])
    monkeypatch.setattr("transfer_maskrcnn.study.design.fit_config", three_classes)
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        cli.compare_inits()
    assert not (tmp_path / "out").exists(), "nothing is begun"
