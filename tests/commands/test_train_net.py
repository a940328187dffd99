"""Mistakes on the command line of tools/train_net.py end with one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from transfer_maskrcnn.commands import train_net
from transfer_maskrcnn.modeling.build import build_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # a misspelt key, with the nearest right one
        (["SOLVER.MAX_ITRE", "3"], r"'SOLVER\.MAX_ITRE'; did you mean 'SOLVER\.MAX_ITER'\?"),
        # a key without its value
        (["SOLVER.MAX_ITER"], r"SOLVER\.MAX_ITER"),
        # a dataset nobody knows
        (["DATASETS.TRAIN", "('baloon_val',)"], r"did you mean 'balloon_val'\?"),
        # more GPUs than there are
        (["--num-gpus", "99"], r"--num-gpus 99, but torch .* CUDA devices"),
        # a config file that is not there
        (["--config-file", "nowhere.yaml"], r"nowhere\.yaml: there is no such file"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"]
    if arguments[0].startswith("--"):
        arguments, end = arguments + end, []
    monkeypatch.setattr(sys, "argv", ["train_net.py", *end, *arguments])
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        train_net.train_net()


def test_eval_only_of_a_file_that_needs_trust(
    toy: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds an object beside the weights: refused, and read where TRUST_PICKLE says so."""
    cfg = toy().clone()
    cfg.defrost()
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    (tmp_path / "config.yaml").write_text(cfg.dump())
    content = {"model": build_model(cfg).state_dict(), "args": argparse.Namespace()}
    torch.save(content, tmp_path / "own.pth")
    given = ["--config-file", str(tmp_path / "config.yaml"), "--eval-only"]
    given += ["MODEL.WEIGHTS", str(tmp_path / "own.pth")]
    monkeypatch.setattr(sys, "argv", ["train_net.py", *given])
    with pytest.raises(SystemExit, match="TRUST_PICKLE True"):
        train_net.train_net()
    monkeypatch.setattr(
        sys, "argv", ["train_net.py", *given, "MODEL.TRANSFER.TRUST_PICKLE", "True"]
    )
    train_net.train_net()
    assert Path(cfg.OUTPUT_DIR, "evaluation.json").is_file()
