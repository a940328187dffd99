"""The source model as a teacher: what it finds on images, computed once for each of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.utils import comm

from transfer_maskrcnn import __version__
from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.cache_folder import cache_folder, make_room, mark_used
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.evaluation.coco import coco_results
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.incremental.detection_store import DetectionStore, file_digest
from transfer_maskrcnn.incremental.source_facts import source_facts
from transfer_maskrcnn.incremental.source_model import build_source_model, detection_settings
from transfer_maskrcnn.modeling.precision import autocast_dtype

logger = logging.getLogger(__name__)

Detections = list[dict[str, Any]]  # COCO results, whose category_id is the teacher's class

#: what scores less is not kept: thresholds from here on can be changed without labelling again
LOWEST_SCORE = 0.05
_SUFFIX = ".jsonl"


def teacher_detections(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> Iterator[Detections]:
    """What the source model finds on each image, in the order of ``records``.

    Images that it has seen before, in whatever run, are looked up; the others are computed here,
    by all processes of the run together, and each is on disk at once.

    Args:
        cfg: with ``MODEL.TRANSFER.EXTEND``.
        records: detectron2's dataset dicts.

    Raises:
        ConfigError, WeightFileError, TransferPlanError: what ``build_source_model`` raises.
        DatasetError: an image cannot be read.
    """
    path = _store_path(cfg)
    store = DetectionStore(path)
    mark_used(path)
    digests = [file_digest(r["file_name"]) for r in progress(records, "reading images")]
    new = {d: r for d, r in zip(digests, records, strict=True) if d not in store}
    comm.synchronize()  # all know what is missing before one of them adds to it
    if new:
        logger.info("%s labels %d images, into %s", cfg.MODEL.WEIGHTS, len(new), path)
        _label(cfg, new, store)
        comm.synchronize()
        store = DetectionStore(path)
    return map(store.get, digests)


def _store_path(cfg: CfgNode) -> Path:
    facts = source_facts(cfg)
    known = [facts.digest, facts.classes] if facts else []
    content = [__version__, *known, *detection_settings(_teacher_config(cfg))]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return _place(cfg, f"{digest[:32]}{_SUFFIX}")


def _place(cfg: CfgNode, name: str) -> Path:
    """In the user's cache; where that is switched off, or nothing can be written, in the run."""
    folder = cache_folder("pseudo_labels")
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                make_room(folder, _SUFFIX, keep=folder / name)
                return folder / name
            logger.warning("%s is read-only: labels are kept in OUTPUT_DIR", folder)
        except OSError as error:
            logger.warning("labels are kept in OUTPUT_DIR: %s", error)
    return Path(cfg.OUTPUT_DIR, "pseudo_labels", name)


def _teacher_config(cfg: CfgNode) -> CfgNode:
    own = cfg.clone()
    own.defrost()
    own.MODEL.ROI_HEADS.SCORE_THRESH_TEST = LOWEST_SCORE
    return own


def _label(cfg: CfgNode, images: dict[str, dict[str, Any]], store: DetectionStore) -> None:
    model, _ = build_source_model(_teacher_config(cfg))
    inference = FastInference(model, autocast_dtype(cfg))
    records = [{**record, "digest": digest} for digest, record in images.items()]
    loader = build_detection_test_loader(
        records,
        mapper=CheckedDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    with inference_context(inference), torch.no_grad():
        for batch in progress(loader, "labelling images", len(loader)):
            for image, output in zip(batch, inference(batch), strict=True):
                store.add(image["digest"], _found(output, image["image_id"]))


def _found(output: dict[str, Any], image_id: Any) -> Detections:
    results = coco_results(output["instances"], image_id)
    return [{k: v for k, v in result.items() if k != "image_id"} for result in results]
