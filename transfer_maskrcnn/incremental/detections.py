"""What the source model finds on images: computed once for each of them, in whatever run.

It depends on the weights, the test settings and the image alone, so that other runs, seeds and
resumptions look it up. It teaches (pseudo-labels), and tells what was forgotten.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.utils import comm

from transfer_maskrcnn import __version__
from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.cache import Cache, digest_of, user_cache
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.evaluation.coco import coco_results, detection_limit, ground_truth
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.files import file_digest, write_text
from transfer_maskrcnn.incremental.source import (
    SourceFacts,
    build_source_model,
    detection_settings,
    read_facts,
)
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.surgery.classes import known_classes

logger = logging.getLogger(__name__)

Detections = list[dict[str, Any]]  # COCO results, whose category_id is the source's class
_FOLDER = "detections"


def source_detections(
    cfg: CfgNode, facts: SourceFacts, records: Sequence[dict[str, Any]]
) -> list[Detections]:
    """What the source model finds on each image, in the order of ``records``.

    Images that it has seen before are looked up; the others are computed here, by all processes of
    the run together, and each is kept at once.

    Args:
        cfg: with ``MODEL.TRANSFER.EXTEND``.
        facts: of the source.
        records: detectron2's dataset dicts.

    Raises:
        ConfigError, WeightFileError, TransferPlanError: what ``build_source_model`` raises; the
            file is another than that of ``facts``.
        DatasetError: an image cannot be read.
    """
    key = digest_of([__version__, facts.digest, facts.classes, *detection_settings(cfg)])
    # where the user's is switched off, or cannot be written, the run has its own
    caches = [user_cache(_FOLDER, key), Cache(Path(cfg.OUTPUT_DIR, _FOLDER, key))]
    digests = [file_digest(r["file_name"]) for r in progress(records, "reading images")]
    images = dict(zip(digests, records, strict=True))
    known = {d: entry.value for d in images for c in caches if (entry := c.get(d)) is not None}
    # a process may have found what another, a little later or earlier, did not
    missing = sorted(set().union(*comm.all_gather(set(images) - set(known))))
    if missing:
        if read_facts(cfg).digest != facts.digest:
            raise WeightFileError(f"{facts.weights} was replaced by another file")
        logger.info("%s looks at %d images", cfg.MODEL.WEIGHTS, len(missing))
        for found in comm.all_gather(_compute(cfg, {d: images[d] for d in missing}, caches)):
            known.update(found)
    return [known[digest] for digest in digests]


def source_matches(
    cfg: CfgNode, facts: SourceFacts, dataset: str, tasks: Sequence[str]
) -> dict[str, Matches]:
    """What the source model finds on ``dataset``, matched to its ground truth, by IoU type.

    All processes of a run call it together, and each gets the answer.

    Args:
        tasks: IoU types.

    Raises: what :func:`source_detections` raises.
    """
    records = list(DatasetCatalog.get(dataset))
    categories = {place: i for i, place in source_categories(dataset, facts.classes).items()}
    results = [
        {**d, "category_id": categories[d["category_id"]], "image_id": record["image_id"]}
        for record, found in zip(records, source_detections(cfg, facts, records), strict=True)
        for d in found
        if d["category_id"] in categories
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "truth.json"), Path(folder, "results.json")
        for file, content in zip(files, (ground_truth(dataset), results), strict=True):
            write_text(file, json.dumps(content))
        limit = detection_limit(cfg)
        return {task: match_detections(*files, task, limit) for task in tasks}


def source_categories(dataset: str, names: Sequence[str]) -> dict[int, int]:
    """Category id of a dataset -> the source's class, by name; other categories are left out."""
    metadata = MetadataCatalog.get(dataset)
    own = list(metadata.thing_classes)
    known = known_classes(own, [name for name in names if name])
    ids: Mapping[int, int] = metadata.get(
        "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(own))}
    )
    return {i: names.index(known[own[k]]) for i, k in ids.items() if own[k] in known}


def _compute(
    cfg: CfgNode, images: dict[str, dict[str, Any]], caches: Sequence[Cache]
) -> dict[str, Detections]:
    """This process's share of ``images``, by digest; kept in the first cache that takes it."""
    inference = FastInference(build_source_model(cfg)[0], autocast_dtype(cfg))
    records = [{**record, "digest": digest} for digest, record in images.items()]
    loader = build_detection_test_loader(
        records,
        mapper=CheckedDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    computed: dict[str, Detections] = {}
    with inference_context(inference), torch.no_grad():
        for batch in progress(loader, "looking at images", len(loader)):
            for image, output in zip(batch, inference(batch), strict=True):
                results = coco_results(output["instances"], image["image_id"])
                found = [{k: v for k, v in d.items() if k != "image_id"} for d in results]
                computed[image["digest"]] = found
                any(cache.put(image["digest"], value=found) for cache in caches)
    return computed
