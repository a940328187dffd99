"""What the source model of an extended run finds on a test set: computed once, and remembered.

It depends on the weights, the test settings and the set alone, so that other runs, seeds and
resumptions look it up in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from transfer_maskrcnn import __version__
from transfer_maskrcnn.data.cache_folder import cache_folder, make_room, mark_used
from transfer_maskrcnn.engine.evaluated_sets import (
    build_test_loader,
    detection_limit,
    matched_tasks,
)
from transfer_maskrcnn.engine.identity import began_with, weights_digest
from transfer_maskrcnn.engine.metadata import dataset_fingerprint
from transfer_maskrcnn.errors import TransferError, WeightFileError
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.incremental.source_facts import SourceFacts, read_facts
from transfer_maskrcnn.incremental.source_model import build_source_model, detection_settings
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.surgery.extension import known_classes
from transfer_maskrcnn.surgery.source import load_source_weights

logger = logging.getLogger(__name__)

_FOLDER, _SUFFIX = "source_matches", ".matches.npz"
_NO_CLASS = -1  # no model predicts it

MatchesByTask = dict[str, Matches]
_of_this_process: dict[str, MatchesByTask] = {}


def before_extension(cfg: CfgNode, trained: str) -> CfgNode:
    """``cfg`` with the MODEL.WEIGHTS that the model in ``trained`` was extended from.

    ``cfg`` itself where ``trained`` is not of an extended run: then the model is measured against
    MODEL.WEIGHTS. These stay, too, where they are that source under another path.
    """
    metadata = load_source_weights(trained).metadata or {}
    run = metadata.get("config") or {}
    source = (metadata.get("transfer") or {}).get("source")
    if not (source and cfg.MODEL.TRANSFER.EXTEND and run.get("MODEL.TRANSFER.EXTEND")):
        return cfg
    own = cfg.clone()
    own.defrost()
    if not (weights_digest(cfg.MODEL.WEIGHTS) and began_with(metadata, cfg.MODEL.WEIGHTS)):
        own.MODEL.WEIGHTS = source
    own.MODEL.TRANSFER.SOURCE_CLASSES = run.get("MODEL.TRANSFER.SOURCE_CLASSES", [])
    return own


def source_matches(cfg: CfgNode, facts: SourceFacts, dataset: str) -> MatchesByTask | None:
    """What the source model finds on ``dataset``, matched to its ground truth, by IoU type.

    All processes of a run call it together; the main one gets the answer, the others nothing.
    None, with a warning, where it is not remembered and the source model cannot be had.
    """
    key, tasks = _key(cfg, facts, dataset), matched_tasks(cfg)
    found = _recall(key, tasks)
    if comm.all_gather(found is not None)[0]:
        return found
    logger.info("evaluating the source model on %s, once, for what is forgotten", dataset)
    try:
        if read_facts(cfg).digest != facts.digest:
            raise WeightFileError(f"{facts.weights} was replaced by another file")
        found = _evaluate(cfg, dataset, tasks)
    except TransferError as error:
        logger.warning("%s: what the model has forgotten there cannot be told: %s", dataset, error)
        return None
    if comm.is_main_process():
        _remember(key, found)
    return found


def _key(cfg: CfgNode, facts: SourceFacts, dataset: str) -> str:
    """A digest of all that the matches depend on."""
    images = [os.stat(record["file_name"]) for record in DatasetCatalog.get(dataset)]
    content = [
        *(__version__, facts.digest, facts.classes, *detection_settings(cfg)),
        *(dataset_fingerprint([dataset]), list(MetadataCatalog.get(dataset).thing_classes)),
        [(image.st_size, image.st_mtime_ns) for image in images],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _recall(key: str, tasks: tuple[str, ...]) -> MatchesByTask | None:
    folder = cache_folder(_FOLDER)
    if key in _of_this_process or folder is None:
        return _of_this_process.get(key)
    paths = {task: folder / f"{key}_{task}{_SUFFIX}" for task in tasks}
    try:
        found = {task: Matches.load(path) for task, path in paths.items()}
    except TransferError:  # missing, or damaged: computed again
        return None
    for path in paths.values():
        mark_used(path)
    return found


def _remember(key: str, found: MatchesByTask) -> None:
    _of_this_process[key] = found
    folder = cache_folder(_FOLDER)
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task, matches in found.items():
            matches.save(folder / f"{key}_{task}{_SUFFIX}")
    except OSError as error:  # a full disk, no right to write: the next run computes it again
        logger.warning("what the source model finds is not kept: %s", error)
    make_room(folder, _SUFFIX)


def _evaluate(cfg: CfgNode, dataset: str, tasks: tuple[str, ...]) -> MatchesByTask:
    model, names = build_source_model(cfg)
    own = list(MetadataCatalog.get(dataset).thing_classes)
    known = known_classes(own, [name for name in names if name])
    limit = detection_limit(cfg)
    with tempfile.TemporaryDirectory() as folder:
        evaluator = _Detections(
            dataset,
            folder,
            class_places=[names.index(known[n]) if n in known else _NO_CLASS for n in own],
            tasks=tasks,
            max_dets_per_image=limit,
        )
        fast = FastInference(model, autocast_dtype(cfg))
        inference_on_dataset(fast, build_test_loader(cfg, dataset), evaluator)
        if not comm.is_main_process():
            return {}
        return {task: match_folder(Path(folder), dataset, task, limit) for task in tasks}


class _Detections(InstanceEvaluator):
    """Leaves its files, and no figures: in the log they would pass for the run's own."""

    def _evaluate(self, *_: Any) -> None:
        return None

    def _derive_coco_results(self, *_: Any, **__: Any) -> dict[str, float]:
        return {}


def match_folder(folder: Path, dataset: str, task: str, limit: int) -> Matches:
    """The detections that an evaluation on ``dataset`` left in ``folder``, matched.

    Raises:
        DatasetError: a file is not what an evaluation writes.
    """
    truth = folder / f"{dataset}_ground_truth.json"
    return match_detections(truth, folder / "coco_instances_results.json", task, limit)
