"""The sets that an evaluation looks at, their loaders and evaluators, and their results by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from torch.utils.data import DataLoader

from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator
from transfer_maskrcnn.incremental.classes import class_places

Results = dict[str, Any]


def sets_to_test(cfg: CfgNode) -> tuple[str, ...]:
    """``DATASETS.TEST`` and then ``DATASETS.TEST_SOURCE``, each set once."""
    return tuple(dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TEST_SOURCE)))


def without_single_name(cfg: CfgNode, sets: Mapping[str, Results]) -> Results:
    """Set -> task -> figures, as detectron2 has it: of a single DATASETS.TEST without its name.

    Sets of TEST_SOURCE alone keep theirs, so that the others' figures stay what they are called.
    """
    names = cfg.DATASETS.TEST
    if len(names) != 1 or names[0] not in sets:
        return dict(sets)
    return {**sets[names[0]], **{n: own for n, own in sets.items() if n != names[0]}}


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


def build_evaluator(cfg: CfgNode, classes: Sequence[str], dataset: str) -> InstanceEvaluator:
    """Of a model of ``cfg`` that has these classes; it writes into ``OUTPUT_DIR/inference/<dataset>``."""
    return InstanceEvaluator(
        dataset,
        os.path.join(cfg.OUTPUT_DIR, "inference", dataset),
        class_places=class_places(cfg, classes, dataset),
        tasks=matched_tasks(cfg) + ("keypoints",) * cfg.MODEL.KEYPOINT_ON,
        max_dets_per_image=detection_limit(cfg),
    )
