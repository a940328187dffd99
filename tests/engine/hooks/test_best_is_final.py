"""With TEST.BEST_METRIC, the weights of the best evaluation are a run's final model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from safetensors.torch import load_file

from transfer_maskrcnn.engine.trainer import TransferTrainer

# AP after each iteration, the best iteration, and whether the last weights are beside it
RUNS = [
    ([1.0, 5.0, 2.0, 3.0], 2, True),
    ([1.0, 2.0, 3.0, 4.0], 4, False),
    ([None, None, None, None], 4, False),  # nothing was measured: the last
]
FIGURES = TransferTrainer._figures


@pytest.mark.parametrize(("values", "best", "two"), RUNS)
def test_the_best_is_final(
    values: list[float | None],
    best: int,
    two: bool,
    toy: Callable[..., CfgNode],
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(values)

    def figures(trainer: TransferTrainer) -> dict[str, float]:
        value = next(left)
        return FIGURES(trainer) | {"segm/AP": float("nan") if value is None else value}

    monkeypatch.setattr(TransferTrainer, "_figures", figures)
    cfg = toy("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 1)
    cfg.DATASETS.TEST, cfg.TEST.BEST_METRIC = cfg.DATASETS.TRAIN, "segm/AP"
    run, folder = train(cfg), Path(cfg.OUTPUT_DIR)
    assert (folder / "model_last.safetensors").exists() == two
    names = sorted(path.name for path in folder.glob("*.pth"))
    assert names == ["model_best.pth"] * (values[0] is not None) + ["model_final.pth"]
    final = load_file(folder / "model_final.safetensors")
    kept = torch.load(folder / ("model_best.pth" if two else "model_final.pth"), weights_only=True)
    assert all(torch.equal(tensor, kept["model"][name]) for name, tensor in final.items())
    if two:
        last = load_file(folder / "model_last.safetensors")
        assert not all(torch.equal(tensor, last[name]) for name, tensor in final.items())
        assert kept["evaluation"]["iteration"] == best
    assert (folder / "drift.json").exists()
    evaluated = run.trainer.model.state_dict()
    assert all(torch.equal(tensor, evaluated[name]) for name, tensor in final.items())


def test_what_was_cut_off_before_the_best_was_written_goes_on(
    toy: Callable[..., CfgNode], train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = toy("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1)
    cfg.DATASETS.TEST, cfg.TEST.BEST_METRIC = cfg.DATASETS.TRAIN, "segm/AP"
    folder = Path(cfg.OUTPUT_DIR)
    with monkeypatch.context() as patch:
        patch.setattr(TransferTrainer, "_keep_best", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(cfg)
    assert not (folder / "model_final.safetensors").exists()
    assert train(cfg, resume=True).trainer.is_complete()
    rows = json.loads((folder / "eval_history.json").read_text())
    assert [row["iteration"] for row in rows] == [1, 2], "nothing is evaluated again"
