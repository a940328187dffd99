"""What a checkpoint says about itself: classes, data, config, and what its weights started from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from transfer_maskrcnn import __version__
from transfer_maskrcnn.config import RunSpec, flat_config, load_config
from transfer_maskrcnn.data.registry import dataset_digest

_ELSEWHERE = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")


def make_metadata(cfg: CfgNode, spec: RunSpec) -> dict[str, Any]:
    """The metadata of a run; plain values only. The trainer adds ``transfer``, the plan's summary.

    Args:
        cfg: resolved.
    """
    return {
        "transfer_maskrcnn": __version__,
        "thing_classes": list(spec.classes),
        "tasks": list(spec.tasks),
        "train": list(cfg.DATASETS.TRAIN),
        "dataset_fingerprint": dataset_fingerprint(cfg.DATASETS.TRAIN),
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
