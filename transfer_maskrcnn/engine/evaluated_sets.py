"""The sets that an evaluation looks at, their loaders and evaluators, and their results by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from torch.utils.data import DataLoader

from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator
from transfer_maskrcnn.incremental.classes import class_places

Results = dict[str, Any]


def with_source_sets(cfg: CfgNode) -> CfgNode:
    """``cfg`` with ``DATASETS.TEST_SOURCE`` among its DATASETS.TEST, each set once."""
    every = cfg.clone()
    every.defrost()
    every.DATASETS.TEST = (*cfg.DATASETS.TEST, *_source_only(cfg))
    return every


def _source_only(cfg: CfgNode) -> tuple[str, ...]:
    sets = dict.fromkeys(cfg.DATASETS.TEST_SOURCE)
    return tuple(name for name in sets if name not in cfg.DATASETS.TEST)


def by_set(cfg: CfgNode, results: Mapping[str, Any]) -> dict[str, Results]:
    """Set -> task -> figures, from what the trainer's ``test`` gives.

    Without DATASETS.TEST_SOURCE that is detectron2's: of a single set without its name.
    """
    extra = {name: results[name] for name in _source_only(cfg) if name in results}
    rest = {key: value for key, value in results.items() if key not in extra}
    names = cfg.DATASETS.TEST
    return {**({names[0]: rest} if len(names) == 1 else rest), **extra}


def without_single_name(cfg: CfgNode, sets: Mapping[str, Results]) -> Results:
    """What :func:`by_set` undoes: the figures keep their names when TEST_SOURCE joins a set."""
    names = cfg.DATASETS.TEST
    if len(names) != 1:
        return dict(sets)
    return {**sets[names[0]], **{n: sets[n] for n in _source_only(cfg) if n in sets}}


def matched_tasks(cfg: CfgNode) -> tuple[str, ...]:
    """The IoU types of a model: boxes, and masks where it has them."""
    return ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)


def detection_limit(cfg: CfgNode) -> int:
    """COCO's AP looks at 100 detections an image; a crowded dataset may ask for more."""
    return max(100, int(cfg.TEST.DETECTIONS_PER_IMAGE))


def build_test_loader(cfg: CfgNode, dataset: str) -> DataLoader[Any]:
    """The images of ``dataset`` at test size."""
    mapper = CheckedDatasetMapper(cfg, is_train=False)
    loader: DataLoader[Any] = build_detection_test_loader(cfg, dataset, mapper=mapper)
    return loader


def build_evaluator(cfg: CfgNode, dataset: str) -> InstanceEvaluator:
    """Of the model of ``cfg``; it writes into ``OUTPUT_DIR/inference/<dataset>``."""
    return InstanceEvaluator(
        dataset,
        os.path.join(cfg.OUTPUT_DIR, "inference", dataset),
        class_places=class_places(cfg, dataset),
        tasks=matched_tasks(cfg) + ("keypoints",) * cfg.MODEL.KEYPOINT_ON,
        max_dets_per_image=detection_limit(cfg),
    )
