"""Whether --resume goes on with the run that is there, or would mix two."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from transfer_maskrcnn.config import flat_config, load_config
from transfer_maskrcnn.engine.manifest import own_config
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.incremental.source import check_same_source
from transfer_maskrcnn.surgery.load import last_checkpoint, load_weights

# What may change when a run goes on: how long it is, where things lie, what is looked at.
_MAY_CHANGE = (
    *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.EPOCHS"),
    *("MODEL.WEIGHTS", "DATASETS.CATALOG", "DATASETS.TEST", "DATASETS.TEST_BASE"),
    "VIS_PERIOD",
)
_MAY_CHANGE_BELOW = "TEST."
_CACHE_KEY = "MODEL.TRANSFER.CACHE_FEATURES"


def check_same_run(cfg: CfgNode) -> None:
    """Compare a fitted ``cfg`` with the one that the checkpoint in OUTPUT_DIR was trained with.

    Raises:
        ConfigError: keys differ that the rest of the run cannot change: the optimizer's state and
            what was trained so far are of the old values.
            or MODEL.WEIGHTS of an extended model is another file.
        WeightFileError: the checkpoint cannot be read.
    """
    before = _checkpoint_config(cfg)
    if before is None:
        return
    if cfg.MODEL.TRANSFER.EXTEND:
        check_same_source(cfg)
    now, defaults = own_config(cfg), dict(flat_config(load_config("")))
    changed = [
        f"  {key}: {before.get(key, defaults.get(key))!r} before, "
        f"{now.get(key, defaults.get(key))!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and key not in _MAY_CHANGE
        and not key.startswith(_MAY_CHANGE_BELOW)
        # where the cache lies changes nothing; without one, images are padded differently
        and not (key == _CACHE_KEY and "off" not in (before.get(key), now.get(key)))
    ]
    if changed:
        raise ConfigError(
            f"--resume: {cfg.OUTPUT_DIR} holds a run of another config:\n"
            + "\n".join(changed)
            + "\nGo on with the values before; or start a new run without --resume, from "
            "MODEL.WEIGHTS or from a checkpoint of this one"
        )


def resumed_seed(cfg: CfgNode) -> int | None:
    """The seed of the run in OUTPUT_DIR: one without a stated one can go on with what it drew."""
    seed = (_checkpoint_config(cfg) or {}).get("SEED")
    return None if seed is None else int(seed)


def _checkpoint_config(cfg: CfgNode) -> dict[str, Any] | None:
    path = last_checkpoint(cfg.OUTPUT_DIR)
    if path is None or not path.is_file():
        return None
    metadata = load_weights(path, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE).metadata
    config: dict[str, Any] | None = (metadata or {}).get("config")
    return config
