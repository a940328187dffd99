"""What a run is and came from: ``run.json`` beside it, and the metadata inside its checkpoints; and
whether --resume goes on with the run that is there, or would mix two."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.utils import comm

from transfer_maskrcnn import __version__
from transfer_maskrcnn.cli import command_line
from transfer_maskrcnn.config import CONFIG_FILE, RunSpec, editable, flat_config, load_config
from transfer_maskrcnn.data.registry import dataset_digest
from transfer_maskrcnn.errors import ConfigError, TransferError, refuse
from transfer_maskrcnn.files import parse_yaml, read_json, write_json, write_text
from transfer_maskrcnn.modeling.precision import describe_precision
from transfer_maskrcnn.surgery.load import last_checkpoint, load_weights

RUN_FILE = "run.json"
_ELSEWHERE = (
    *("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS"),
    "MODEL.TRANSFER.TRUST_PICKLE",
)
# What may change when a run goes on: how long it is, where things lie, what is looked at.
_MAY_CHANGE = (
    *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.EPOCHS"),
    *("MODEL.WEIGHTS", "DATASETS.CATALOG", "DATASETS.TEST", "DATASETS.TEST_BASE"),
    "VIS_PERIOD",
)
_MAY_CHANGE_BELOW = "TEST."
_CACHE_KEY = "MODEL.TRANSFER.CACHE_FEATURES"

logger = logging.getLogger(__name__)


def read_manifest(output_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """``run.json``; {} where there is none and, with a warning, where it is damaged.

    Its keys: ``command``, ``device``, ``machine``, ``precision``, ``threads``, ``processes``,
    ``versions``, ``spec`` (see :class:`~transfer_maskrcnn.config.RunSpec`), ``transfer`` (the
    plan's summary: source, its digest, parameters by fate), ``source`` (of an extended model) and,
    when it has ended, ``cost``.
    """
    return read_or_begin(Path(output_dir, RUN_FILE))


def read_or_begin(path: Path) -> dict[str, Any]:
    """A JSON file that a run adds to; {} where there is none and, with a warning, where it is
    damaged."""
    try:
        return read_json(path, dict, {})
    except TransferError as error:
        logger.warning("%s is damaged, and begun anew: %s", path, error)
        return {}


def note(output_dir: str | os.PathLike[str], **entries: Any) -> None:
    """Put ``entries`` into ``run.json``, in the main process; what it has beside them stays."""
    if comm.is_main_process():
        write_json(Path(output_dir, RUN_FILE), {**read_manifest(output_dir), **entries})


def describe_run(cfg: CfgNode, spec: RunSpec) -> dict[str, Any]:
    """What a reader needs to repeat the run; plain values for :func:`note`."""
    device = cfg.MODEL.DEVICE
    return {
        "command": command_line(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "machine": platform.machine(),
        "precision": describe_precision(cfg),
        "threads": torch.get_num_threads(),
        "processes": comm.get_world_size(),
        "versions": versions(),
        "spec": spec.to_json(),
    }


def name_trained(cfg: CfgNode, trained: str) -> None:
    """Have the run's config.yaml name what it has trained, for detectron2's own DefaultPredictor;
    ``load_config`` still finds what the run started from.

    Args:
        trained: a file in OUTPUT_DIR.
    """
    own = editable(cfg)
    own.MODEL.WEIGHTS = os.path.abspath(os.path.join(cfg.OUTPUT_DIR, trained))
    own.MODEL.TRANSFER.TRAINED_FROM = [own.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS]
    write_text(Path(cfg.OUTPUT_DIR, CONFIG_FILE), own.dump())


def name_moved(folder: Path) -> None:
    """The same for a run that was moved to ``folder``; one that trained nothing, or whose config
    cannot be read, stays as it is."""
    file = folder / CONFIG_FILE
    with suppress(OSError, TransferError, ValueError, LookupError, TypeError):
        content = parse_yaml(file.read_text("utf-8"), str(file))
        model = content["MODEL"]
        model["TRANSFER"]["TRAINED_FROM"][0] = model["WEIGHTS"] = str(
            folder.absolute() / Path(model["WEIGHTS"]).name
        )
        write_text(file, yaml.safe_dump(content))


def check_device(device: str) -> None:
    """Say in one line where the model runs.

    Raises:
        ConfigError: another device than the CPU and CUDA's, or one that is not there.
    """
    cuda, count = re.fullmatch(r"cuda(?::(\d+))?", device), torch.cuda.device_count()
    refuse(
        (
            not (cuda or device == "cpu" or (device == "mps" and torch.mps.is_available())),
            f"there is no device {device!r}; expected cpu, cuda, or cuda:1",
        ),
        (
            cuda and not torch.cuda.is_available(),
            f"MODEL.DEVICE is {device!r}, but torch {torch.__version__} sees no CUDA device; "
            "use MODEL.DEVICE cpu, or install the driver and a CUDA build of torch",
        ),
        (
            cuda and int(cuda[1] or 0) >= count,
            f"there is no device {device!r}; torch sees {count}, from cuda:0 on",
        ),
    )
    what = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} threads"
    logger.info("MODEL.DEVICE %s (%s)", device, what)


def versions() -> dict[str, str]:
    """Of what a run's result may depend on."""
    return {
        "transfer_maskrcnn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2_version,
    }


def make_metadata(cfg: CfgNode, spec: RunSpec) -> dict[str, Any]:
    """The metadata of a run's checkpoints, which the main process writes; plain values only.

    The trainer adds ``transfer``, the plan's summary.

    Args:
        cfg: resolved.
    """
    sets = cfg.DATASETS.TRAIN
    return {
        "transfer_maskrcnn": __version__,
        "thing_classes": list(spec.classes),
        "tasks": list(spec.tasks),
        "train": list(sets),
        "dataset_fingerprint": dataset_fingerprint(sets) if comm.is_main_process() else "",
        "config_hash": config_hash(cfg),
        "config": own_config(cfg),
    }


def dataset_fingerprint(names: Sequence[str]) -> str:
    """A hash of the images' names and sizes and all annotations, wherever the files lie."""
    return hashlib.sha256(" ".join(map(dataset_digest, names)).encode()).hexdigest()[:16]


def config_hash(cfg: CfgNode) -> str:
    """A hash of what determines the result: not of where it is written or computed.

    Only what differs from the defaults counts, so that a new key leaves old runs what they were.
    """
    return hashlib.sha256(json.dumps(own_config(cfg), sort_keys=True).encode()).hexdigest()[:16]


def own_config(cfg: CfgNode) -> dict[str, Any]:
    """What in ``cfg`` differs from the defaults and determines the result, by dotted key."""
    # Tuples within tuples become lists, as in the config.yaml of a run.
    defaults, now = (json.loads(json.dumps(dict(flat_config(c)))) for c in (load_config(""), cfg))
    return {k: v for k, v in now.items() if k not in _ELSEWHERE and v != defaults.get(k)}


def check_same_run(cfg: CfgNode) -> None:
    """Compare a fitted ``cfg`` with the one that the checkpoint in OUTPUT_DIR was trained with.

    Raises:
        ConfigError: keys differ that the rest of the run cannot change: the optimizer's state and
            what was trained so far are of the old values; or MODEL.WEIGHTS of an extended model
            is another file.
        WeightFileError: the checkpoint cannot be read.
    """
    before = _checkpoint_config(cfg)
    if not before:
        return
    if cfg.MODEL.TRANSFER.EXTEND:
        from transfer_maskrcnn.incremental.source import check_same_source

        check_same_source(cfg)
    defaults = dict(flat_config(load_config("")))
    before, now = {**defaults, **before}, {**defaults, **own_config(cfg)}
    changed = [
        f"  {key}: {before[key]!r} before, {now[key]!r} now"
        for key in sorted(now)
        if before[key] != now[key]
        and key not in _MAY_CHANGE
        and not key.startswith(_MAY_CHANGE_BELOW)
        # where the cache lies changes nothing; without one, images are padded differently
        and not (key == _CACHE_KEY and "off" not in (before[key], now[key]))
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
    return _checkpoint_config(cfg).get("SEED")


def _checkpoint_config(cfg: CfgNode) -> dict[str, Any]:
    """What the last checkpoint in OUTPUT_DIR says of its config; {} where there is none."""
    path = last_checkpoint(cfg.OUTPUT_DIR)
    if path is None or not path.is_file():
        return {}
    metadata = load_weights(path, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE).metadata
    return (metadata or {}).get("config") or {}
