"""Mistakes on the command line of tools/train_net.py end with one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from transfer_maskrcnn.commands import train_net


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
