"""What a run is and came from: ``run.json`` beside it, and the metadata inside its checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.utils import comm

from transfer_maskrcnn import __version__
from transfer_maskrcnn.config import RunSpec, flat_config, load_config
from transfer_maskrcnn.data.registry import dataset_digest
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.modeling.precision import describe_precision

RUN_FILE = "run.json"
_ELSEWHERE = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")

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
    device = "cpu"
    if cfg.MODEL.DEVICE.startswith("cuda"):
        device = torch.cuda.get_device_name(cfg.MODEL.DEVICE)
    return {
        "command": sys.argv,
        "device": device,
        "machine": platform.machine(),
        "precision": describe_precision(cfg),
        "threads": torch.get_num_threads(),
        "processes": comm.get_world_size(),
        "versions": versions(),
        "spec": spec.to_json(),
    }


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
    main = comm.is_main_process()
    return {
        "transfer_maskrcnn": __version__,
        "thing_classes": list(spec.classes),
        "tasks": list(spec.tasks),
        "train": list(cfg.DATASETS.TRAIN),
        "dataset_fingerprint": dataset_fingerprint(cfg.DATASETS.TRAIN) if main else "",
        "config_hash": config_hash(cfg),
        "config": own_config(cfg),
    }


def dataset_fingerprint(names: Sequence[str]) -> str:
    """A hash of the images' names and sizes and all annotations, wherever the files lie."""
    digests = " ".join(map(dataset_digest, names))
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def config_hash(cfg: CfgNode) -> str:
    """A hash of what determines the result: not of where it is written or computed.

    Only what differs from the defaults counts, so that a new key leaves old runs what they were.
    """
    return hashlib.sha256(json.dumps(own_config(cfg), sort_keys=True).encode()).hexdigest()[:16]


def own_config(cfg: CfgNode) -> dict[str, Any]:
    """What in ``cfg`` differs from the defaults and determines the result, by dotted key."""
    defaults = dict(flat_config(load_config("")))
    own = {k: v for k, v in flat_config(cfg) if k not in _ELSEWHERE and v != defaults.get(k)}
    plain: dict[str, Any] = json.loads(json.dumps(own))  # tuples become lists, as read back
    return plain
