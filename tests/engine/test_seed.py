"""A run without a seed gets one, and keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer
from transfer_maskrcnn.engine.manifest import check_same_run, own_config, resumed_seed
from transfer_maskrcnn.engine.setup import draw_seed
from transfer_maskrcnn.errors import ConfigError


def config(folder: Path, *options: str) -> CfgNode:
    return load_config("", ["OUTPUT_DIR", str(folder), *options])


def leave_checkpoint(cfg: CfgNode, **metadata: object) -> None:
    content = {"thing_classes": ["cat"], "config": own_config(cfg), **metadata}
    TransferCheckpointer(nn.Linear(1, 1), cfg.OUTPUT_DIR, content).save(
        "model_0000004", iteration=4
    )


def test_a_run_without_a_seed_is_resumed_with_the_one_it_drew(tmp_path: Path) -> None:
    assert config(tmp_path).SEED < 0
    first = RunSpec((), seed=draw_seed())
    leave_checkpoint(first.resolve(config(tmp_path)))
    seed = resumed_seed(config(tmp_path))
    assert seed == first.seed != draw_seed()
    check_same_run(RunSpec((), seed=seed).resolve(config(tmp_path)))


def test_the_config_that_a_run_wrote_is_its_own(tmp_path: Path) -> None:
    cfg = config(tmp_path, "SEED", "1")
    leave_checkpoint(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())  # which has lists within lists, not tuples
    check_same_run(load_config(str(tmp_path / "config.yaml")))


CHANGES = [
    # key, value, whether --resume may change it
    ("SOLVER.MAX_ITER", "70", True),
    ("MODEL.TRANSFER.CACHE_FEATURES", "disk", True),
    ("MODEL.TRANSFER.CACHE_FEATURES", "off", False),  # other padding
    ("TEST.EVAL_PERIOD", "7", True),
    ("TEST.BEST_METRIC", "segm/AP", True),
    ("MODEL.WEIGHTS", "moved/a.pth", True),
    ("DATALOADER.NUM_WORKERS", "0", True),
    ("SEED", "8", False),
    ("DATASETS.TRAIN_FRACTION", "0.5", False),
    ("SOLVER.LR_MULTIPLIERS", "[['backbone', 0.1]]", False),
    ("MODEL.TRANSFER.KEEP", "backbone", False),
    ("INPUT.MIN_SIZE_TRAIN", "(200,)", False),
]


@pytest.mark.parametrize(("key", "value", "allowed"), CHANGES)
def test_what_may_change(key: str, value: str, allowed: bool, tmp_path: Path) -> None:
    leave_checkpoint(config(tmp_path, "SEED", "1"))
    changed = config(tmp_path, "SEED", "1", key, value)
    if allowed:
        check_same_run(changed)
        assert own_config(changed) is not None
    else:
        with pytest.raises(ConfigError, match=f"{key}: .* before, .* now"):
            check_same_run(changed)


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    check_same_run(cfg)  # no checkpoint
    leave_checkpoint(config(tmp_path, "SEED", "1"), config=None)
    check_same_run(cfg)  # one that does not say
    assert resumed_seed(cfg) is None
