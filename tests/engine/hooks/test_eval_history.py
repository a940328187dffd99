"""Which evaluations a run makes, and what is left of them after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from detectron2.engine.train_loop import TrainerBase

from transfer_maskrcnn.engine.hooks.record import EvalHistory, read_curve


class Steps(TrainerBase):
    """A trainer whose model is the number of steps it made."""

    def __init__(self, die_after: int | None = None):
        super().__init__()
        self.die_after = die_after

    def run_step(self) -> None:
        if self.iter == self.die_after:
            raise KeyboardInterrupt


class Spy:
    def __init__(self) -> None:
        self.told: list[int] = []

    def on_evaluation(self, row: dict[str, Any]) -> None:
        self.told.append(row["iteration"])


def run(
    folder: Path, start: int = 0, last: int = 10, die_after: int | None = None, **options: Any
) -> tuple[EvalHistory, Spy]:
    trainer, spy = Steps(die_after), Spy()
    curve = EvalHistory(
        lambda: {"segm/AP": float(trainer.iter), "bbox/AP": float("nan")},
        str(folder),
        **options,
    )
    curve.listeners.append(spy.on_evaluation)
    trainer.register_hooks([curve])
    trainer.train(start, last)
    return curve, spy


POINTS = [
    # options, the iterations after which there is an evaluation
    ({}, [10]),  # always after the last
    ({"period": 4}, [4, 8, 10]),
    ({"period": 5}, [5, 10]),  # the last only once
    ({"iterations": [0, 3]}, [0, 3, 10]),  # 0: the starting point
    ({"period": 4, "iterations": [4, 7, 99]}, [4, 7, 8, 10]),
]


@pytest.mark.parametrize(("options", "expected"), POINTS)
def test_evaluates_when_it_should(
    options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    curve, spy = run(tmp_path, **options)
    assert [row["iteration"] for row in curve.rows] == expected == spy.told
    assert json.loads((tmp_path / "eval_history.json").read_text()) == curve.rows
    assert all(row["bbox/AP"] is None for row in curve.rows), "nan is no JSON"
    assert curve.is_written(10) and not curve.is_written(9)


def test_a_resumed_run_keeps_what_came_before_and_drops_what_was_undone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, period=2, die_after=7)
    assert [row["iteration"] for row in read_curve(tmp_path / "eval_history.json")] == [2, 4, 6]
    curve, spy = run(tmp_path, start=5, period=2)  # the last checkpoint was at 5
    assert [row["iteration"] for row in curve.rows] == [2, 4, 6, 8, 10]
    assert spy.told == [2, 4, 6, 8, 10], "what follows the curve is told of all, once"


def test_an_evaluation_that_the_kill_prevented_is_made_up_for(tmp_path: Path) -> None:
    # killed between the checkpoint after 6 and its evaluation; then between the last two
    curve, _ = run(tmp_path, start=6, period=6)
    assert [row["iteration"] for row in curve.rows] == [6, 10]
    (tmp_path / "eval_history.json").write_text("[]")
    curve, _ = run(tmp_path, start=10)
    assert [row["iteration"] for row in curve.rows] == [10]


def test_a_run_from_the_start_forgets_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "eval_history.json").write_text('[{"iteration": 0, "segm/AP": 99}]')
    curve, _ = run(tmp_path, iterations=[0])
    assert curve.rows[0] == {"iteration": 0, "segm/AP": 0.0, "bbox/AP": None}


def test_no_file_no_rows(tmp_path: Path) -> None:
    assert read_curve(tmp_path / "eval_history.json") == []
