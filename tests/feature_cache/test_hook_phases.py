"""The cache follows SOLVER.FREEZE_SCHEDULE: in each what it freezes, from whatever iteration on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from transfer_maskrcnn.feature_cache import hook as cache_hook

Toy = Callable[..., CfgNode]
Train = Callable[..., Any]
CACHE = "MODEL.TRANSFER.CACHE_FEATURES"
ITERATIONS = 13
SPECS = "[[2,'backbone_fpn_rpn'],[2,''],[2,'backbone'],[2,'all_but_predictors'],[2,'backbone_fpn']]"
OPTS = (
    *(
        "SOLVER.MAX_ITER",
        ITERATIONS,
        "SOLVER.FREEZE_SCHEDULE",
        SPECS,
        "SOLVER.CHECKPOINT_PERIOD",
        1,
    ),
    *("SOLVER.IMS_PER_BATCH", 6),  # so that two iterations are more passes than views
    # Batch norms that train on a handful of images turn 1e-7 into 1e-1 within ten iterations.
    *("MODEL.RESNETS.NORM", "FrozenBN"),
)
# In each iteration: what of the model the cache gives.
BOTH, FPN, BACKBONE, NONE = "backbone and RPN", "backbone", "backbone.bottom_up", None
EXPECTED = [BOTH] * 2 + [NONE] * 2 + [BACKBONE] * 2 + [BOTH] * 2 + [FPN] * 2 + [NONE] * 3


class Watch(HookBase):
    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def before_step(self) -> None:
        model: Any = self.trainer.model
        part = None if model.recall is None else model.frozen_part()
        self.seen.append(part and part.name + " and RPN" * (part.rpn is not None))


@pytest.mark.parametrize("mode", ["off", "memory", "disk", "auto"])
@pytest.mark.slow
def test_each_phase_is_cached_as_far_as_it_freezes(mode: str, toy: Toy, train: Train) -> None:
    watch = Watch()
    train(toy(*OPTS, CACHE, mode), watch)
    assert watch.seen == (EXPECTED if mode != "off" else [NONE] * ITERATIONS)


class Keep(HookBase):
    """Copies each checkpoint aside, of which a run has only the last."""

    def __init__(self, folder: Path):
        self.folder = folder

    def after_step(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for path in Path(self.trainer.cfg.OUTPUT_DIR).glob("model_[0-9]*.pth"):
            shutil.copy(path, self.folder)


RESUMED = [
    # mode, iterations done -> what is seen in those that follow
    # within a phase with a cache, within one without, between two, after all of them
    ("memory", {done: EXPECTED[done:] for done in (1, 3, 4, 12)}),
    # one iteration is left of a phase that the first run cached: it alone would not pay
    ("auto", {8: EXPECTED[8:], 9: EXPECTED[9:]}),
]


@pytest.mark.parametrize(("mode", "interruptions"), RESUMED)
@pytest.mark.slow
def test_a_resumed_run_is_the_same(
    mode: str, interruptions: dict[int, Any], toy: Toy, train: Train, tmp_path: Path
) -> None:
    kept = Keep(tmp_path / "kept")
    plain = train(toy(*OPTS, CACHE, "off"))
    cfg = toy(*OPTS, CACHE, mode)
    assert train(cfg, kept).difference(plain) < 1e-5
    for done, expected in interruptions.items():
        folder = Path(cfg.OUTPUT_DIR).with_name(f"resumed{done}")
        shutil.copytree(cfg.OUTPUT_DIR, folder)
        name = f"model_{done - 1:07d}.pth"
        shutil.copy(kept.folder / name, folder)
        (folder / "last_checkpoint").write_text(name)
        later = cfg.clone()
        later.OUTPUT_DIR = str(folder)
        watch = Watch()
        resumed = train(later, watch, resume=True)
        plain_rest = type(plain)(plain.trainer, plain.losses[done:])
        assert resumed.difference(plain_rest) < 1e-5
        assert watch.seen == expected
        assert resumed.trainer.model.recall is None


def test_a_complete_run_is_not_cached(toy: Toy, train: Train, computed: list[int]) -> None:
    cfg = toy("MODEL.TRANSFER.FREEZE", "backbone", "SOLVER.MAX_ITER", 3, CACHE, "memory")
    train(cfg)
    assert len(computed) == 8
    train(cfg, resume=True)
    assert len(computed) == 8


def test_what_is_said_of_phases(toy: Toy, train: Train, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=cache_hook.__name__)
    phases = ("SOLVER.FREEZE_SCHEDULE", "[[6,'backbone_fpn'],[1,'']]", "SOLVER.MAX_ITER", 9)
    train(toy(*phases, CACHE, "auto"))
    lines = [r.getMessage() for r in caplog.records if r.pathname == cache_hook.__file__]
    assert len(lines) == 2, "and of the last phase nothing"
    assert "backbone computed once for 8 views" in lines[0]
    assert lines[1] == f"{CACHE} auto: not used from iteration 6 on, since the backbone trains"
