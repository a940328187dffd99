"""Which evaluation is the best, what is kept of it, and when a run ends early."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer
from torch import Tensor, nn

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer, load_trained_model
from transfer_maskrcnn.engine.hooks.record import StopTraining
from transfer_maskrcnn.engine.hooks.weights import BestCheckpoint, check_best
from transfer_maskrcnn.errors import ConfigError

NAN = float("nan")
CLASSES = ["cat", "dog"]


class Counter(nn.Module):
    """Its weight is the number of iterations done."""

    def __init__(self) -> None:
        super().__init__()
        self.done = nn.Parameter(torch.zeros(1))

    def forward(self, _: Any) -> dict[str, Tensor]:
        return {"loss": -self.done.sum()}


class Evaluations(HookBase):
    """Evaluates after every iteration, as the trainer does: those that are known are told again."""

    def __init__(self, best: BestCheckpoint, metric: str, values: list[float | None], known: int):
        self._best, self._metric, self._values, self._known = best, metric, values, known

    def before_train(self) -> None:
        for iteration in range(1, self._known + 1):
            self._tell(iteration)

    def after_step(self) -> None:
        self._tell(self.trainer.iter + 1)

    def _tell(self, iteration: int) -> None:
        row = {"iteration": iteration, self._metric: self._values[iteration - 1], "bbox/AP": 1.0}
        self._best.on_evaluation(row)


def build_trainer(
    folder: Path,
    values: list[float | None],
    metric: str = "segm/AP",
    known: int = 0,
    **kwargs: Any,
) -> SimpleTrainer:
    model = Counter()
    trainer = SimpleTrainer(model, repeat(None), torch.optim.SGD(model.parameters(), lr=1.0))
    checkpointer = TransferCheckpointer(
        model, str(folder), {"thing_classes": CLASSES}, trainer=trainer
    )
    best = BestCheckpoint(checkpointer, metric, **kwargs)
    trainer.register_hooks([Evaluations(best, metric, values, known), best])
    trainer.checkpointer = checkpointer
    return trainer


def kept(folder: Path) -> tuple[float, dict[str, Any]]:
    """The weight in model_best.pth, and what the file says of its evaluation."""
    content = torch.load(folder / "model_best.pth", weights_only=True)
    return float(content["model"]["done"]), content["evaluation"]


# metric, values after iterations 1, 2, ..., iteration of the best
BEST: list[tuple[str, list[float | None], int]] = [
    ("segm/AP", [1.0, 3.0, 2.0], 2),
    ("segm/AP", [1.0, 3.0, 3.0], 2),  # as good is not better
    ("segm/AP", [NAN, 0.0, None], 2),  # what was not measured is never the best
    ("segm/AP", [1.0, float("inf"), 2.0], 3),
    ("val_loss", [3.0, 1.0, 2.0], 2),  # lower is better
    ("val_loss_mask", [3.0, None, 2.0], 3),
]


@pytest.mark.parametrize(("metric", "values", "best"), BEST)
def test_the_best_is_kept(
    metric: str, values: list[float | None], best: int, tmp_path: Path
) -> None:
    build_trainer(tmp_path, values, metric).train(0, len(values))
    assert kept(tmp_path) == (best, {"iteration": best, metric: values[best - 1]})


def test_what_the_log_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="transfer_maskrcnn"):
        build_trainer(tmp_path, [NAN, 12.34567, 3.0]).train(0, 3)
    assert [line for line in caplog.messages if "segm/AP" in line] == [
        "segm/AP after iteration 1: not measured",
        "segm/AP after iteration 2: 12.35, the best so far, kept as model_best.pth",
        "segm/AP after iteration 3: 3; the best is 12.35 after iteration 2",
    ]


def test_nothing_is_kept_where_nothing_was_measured(tmp_path: Path) -> None:
    build_trainer(tmp_path, [NAN, None]).train(0, 2)
    assert not (tmp_path / "model_best.pth").exists()


def test_resuming_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Stock detectron2's BestCheckpointer makes --resume go on from the best."""
    trainer = build_trainer(tmp_path, [2.0, 1.0, 3.0])
    trainer.train(0, 2)
    trainer.checkpointer.save("model_0000001")
    trainer.train(2, 3)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    resumed = build_trainer(tmp_path, [])
    resumed.checkpointer.resume_or_load("")
    assert resumed.model.done.item() == 2


def test_the_best_is_a_trained_model_for_all_who_load_it(tmp_path: Path) -> None:
    build_trainer(tmp_path, [1.0]).train(0, 1)
    path = str(tmp_path / "model_best.pth")
    ours, stock = Counter(), Counter()
    load_trained_model(ours, path, CLASSES)
    DetectionCheckpointer(stock).load(path)
    assert ours.done.item() == stock.done.item() == 1


def test_the_weights_that_were_evaluated_are_kept(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, [1.0])

    @contextmanager
    def averaged() -> Iterator[None]:
        trainer.model.done.data += 40
        yield
        trainer.model.done.data -= 40

    trainer._hooks[1]._evaluated = averaged
    trainer.train(0, 1)
    assert kept(tmp_path)[0] == 41
    assert trainer.model.done.item() == 1


# values, patience, iterations done when training ends, what the message says of the best
STOPS: list[tuple[str, list[float | None], int, int, str]] = [
    ("segm/AP", [1.0, 2.0, 1.0, 2.0, 9.0], 2, 4, "best: 2 after iteration 2"),
    ("segm/AP", [1.0, 0.5, 2.0, 1.0, 1.5], 2, 5, "best: 2 after iteration 3"),
    ("val_loss", [1.0, 1.5, 2.0, 0.1], 2, 3, "best: 1 after iteration 1"),
    ("segm/AP", [NAN, None, 1.0], 2, 2, "best: no finite value"),
]


@pytest.mark.parametrize(("metric", "values", "patience", "done", "words"), STOPS)
def test_when_training_ends(
    metric: str, values: list[float | None], patience: int, done: int, words: str, tmp_path: Path
) -> None:
    trainer = build_trainer(tmp_path, values, metric, patience=patience)
    ends: list[int] = []
    trainer._hooks[1]._end_at = ends.append
    with pytest.raises(StopTraining, match=words) as stopped:
        trainer.train(0, len(values) + 1)
    assert (ends, trainer.iter + 1) == ([done], done)
    assert f"after iteration {done}: {patience} evaluations without a better {metric}" in str(
        stopped.value
    )


# values, patience; none of them ends a run of so many iterations
@pytest.mark.parametrize(
    ("values", "patience"), [([3.0, 2.0, 1.0], 0), ([3.0, 2.0, 1.0], 3), ([1.0, 0.0, 2.0], 2)]
)
def test_when_it_does_not(values: list[float | None], patience: int, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, values, patience=patience)
    trainer.train(0, 3)
    assert trainer.iter == 3


VALUES: list[float | None] = [1.0, 5.0, 4.0, 3.0, 2.0, 6.0]


# iterations at the last checkpoint, whether it knows of its own evaluation, iterations when killed
@pytest.mark.parametrize(
    ("saved_at", "evaluated", "known"), [(1, True, 1), (2, False, 2), (2, True, 4), (3, False, 4)]
)
def test_a_resumed_run_counts_no_evaluation_twice(
    saved_at: int, evaluated: bool, known: int, tmp_path: Path
) -> None:
    first = build_trainer(tmp_path, VALUES, patience=3)
    first.train(0, saved_at)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    if not evaluated:  # as PeriodicCheckpointer, which saves first
        del saved[1]["hooks"]["BestCheckpoint"]["values"][saved_at]
    first.train(saved_at, known)
    second = build_trainer(tmp_path, VALUES, known=saved_at, patience=3)
    second.model.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    with pytest.raises(StopTraining, match=r"after iteration 5: .*best: 5 after iteration 2"):
        second.train(saved_at, 6)
    assert kept(tmp_path) == (2, {"iteration": 2, "segm/AP": 5.0})


def test_the_first_value_of_an_iteration_counts(tmp_path: Path) -> None:
    """Repeated on another machine, an evaluation may differ in its last digits."""
    trainer = build_trainer(tmp_path, [5.0])
    trainer.train(0, 1)
    trainer._hooks[1].on_evaluation({"iteration": 1, "segm/AP": 7.0})
    assert kept(tmp_path) == (1, {"iteration": 1, "segm/AP": 5.0})


def test_a_run_that_ended_early_ends_again(tmp_path: Path) -> None:
    first = build_trainer(tmp_path, VALUES, patience=2)
    with pytest.raises(StopTraining):
        first.train(0, 6)
    second = build_trainer(tmp_path, VALUES, patience=2)
    second.load_state_dict(first.state_dict())
    with pytest.raises(StopTraining, match="ends after iteration 4:"):
        second.train(4, 6)
    assert second.model.done.item() == 0


def test_what_was_evaluated_before_it_was_followed_is_not_saved(tmp_path: Path) -> None:
    """The weights of iteration 2 are gone when the run is resumed at 3 with a BEST_METRIC."""
    build_trainer(tmp_path, VALUES, known=3).train(3, 4)
    assert kept(tmp_path)[1] == {"iteration": 3, "segm/AP": 4.0}


def test_another_metric_begins_anew(tmp_path: Path) -> None:
    first = build_trainer(tmp_path, VALUES)
    first.train(0, 2)
    second = build_trainer(tmp_path, VALUES, "val_loss")
    second.load_state_dict(first.state_dict())
    second.train(2, 3)
    assert kept(tmp_path)[1] == {"iteration": 3, "val_loss": 4.0}


def test_an_unknown_metric(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, [1.0], "segm/AP")
    trainer._hooks[1]._metric = "segm/Ap"
    expected = r"'segm/Ap' is not among .*: segm/AP, bbox/AP; did you mean 'segm/AP'\?"
    with pytest.raises(ConfigError, match=expected):
        trainer.train(0, 1)


FOLLOW = ["TEST.BEST_METRIC", "segm/AP", "DATASETS.TEST", "('cats',)", "MODEL.MASK_ON", "True"]
# options, words of the error
BAD_CONFIGS = [
    (["TEST.EARLY_STOPPING", "3"], "3 needs a metric to follow"),
    (
        [*FOLLOW, "TEST.EARLY_STOPPING", "3"],
        "more than 3 evaluations .* there will be 0.*EVAL_PERIOD",
    ),
    ([*FOLLOW, "TEST.EARLY_STOPPING", "-1"], "is -1; expected 0"),
    (
        [*FOLLOW, "TEST.EARLY_STOPPING", "3", "TEST.EVAL_ITERS", "[1,2,3]"],
        "there will be 3",
    ),
    (FOLLOW[:2], "DATASETS.TEST names no dataset"),
    # misspelt; of one of several datasets
    ([*FOLLOW, "TEST.BEST_METRIC", "segm/ap"], "did you mean 'segm/AP'"),
    ([*FOLLOW, "DATASETS.TEST", "('cats','dogs')"], "did you mean '(cats|dogs)/segm/AP'"),
    ([*FOLLOW, "MODEL.MASK_ON", "False"], "'segm/AP' is not among .*: bbox/AP, "),
    ([*FOLLOW, "TEST.BEST_METRIC", "val_loss_mask"], "val_loss_mask .*TEST.VAL_LOSS True"),
]


@pytest.mark.parametrize(("opts", "words"), BAD_CONFIGS)
def test_configs_that_cannot_be(opts: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_best(load_config("", opts))


def test_configs_that_can() -> None:
    check_best(load_config("", [*FOLLOW, "TEST.EARLY_STOPPING", "1", "TEST.EVAL_PERIOD", "5"]))
