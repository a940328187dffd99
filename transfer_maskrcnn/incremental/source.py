"""The source of an extended run: what is known of its file, its model as it was before the run, and
what that finds on images: computed once for each of them, in whatever run.

It depends on the weights, the test settings and the image alone, so that other runs, seeds and
resumptions look it up. It teaches (pseudo-labels), and tells what was forgotten. It stands apart
from the trainer, so that whatever prepares training data may build one, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from transfer_maskrcnn import __version__
from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.config import RunSpec, editable, flat_config
from transfer_maskrcnn.data.cache import Cache, digest_of, user_cache
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.engine.manifest import note, read_manifest
from transfer_maskrcnn.errors import ConfigError, TransferPlanError, WeightFileError
from transfer_maskrcnn.evaluation.coco import coco_results, detection_limit, ground_truth
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.evaluation.matches import Matches, match
from transfer_maskrcnn.files import file_digest
from transfer_maskrcnn.incremental.classes import source_categories
from transfer_maskrcnn.modeling.build import COSINE_KEY, build_model, tasks_of
from transfer_maskrcnn.modeling.precision import autocast_dtype, describe_precision
from transfer_maskrcnn.surgery.hook import began_with, load_named_source
from transfer_maskrcnn.surgery.load import SourceWeights, load_weights, weights_digest
from transfer_maskrcnn.surgery.names import part_of
from transfer_maskrcnn.surgery.plan import apply_plan, plan_transfer

logger = logging.getLogger(__name__)

Detections = list[dict[str, Any]]  # COCO results, whose category_id is the source's class
_FOLDER = "detections"
_TEST_KEYS = (
    *("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    "TEST.DETECTIONS_PER_IMAGE",
)
# Of the extended model, of training, or, as the digest of the weights, known otherwise.
_OTHER_KEYS = (
    *("MODEL.TRANSFER.", "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.BACKBONE.FREEZE_AT"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.POINT_HEAD.NUM_CLASSES", COSINE_KEY),
)


@dataclass(frozen=True)
class SourceFacts:
    """What is known of MODEL.WEIGHTS, also when the file is gone.

    Attributes:
        digest: of the file.
        classes: in the order of its rows, "" for a row without a class.
        tasks: how many of them came with each extension; [] where it was never extended.
    """

    weights: str
    digest: str
    classes: list[str]
    tasks: list[int]


def read_facts(cfg: CfgNode) -> SourceFacts:
    """Of the file.

    Raises:
        ConfigError: nobody names its classes.
        WeightFileError: it cannot be read.
    """
    source = load_named_source(cfg)
    return SourceFacts(
        weights=cfg.MODEL.WEIGHTS,
        digest=weights_digest(cfg.MODEL.WEIGHTS),
        classes=list(source.classes or ()),
        tasks=tasks_of(source.metadata),
    )


def source_facts(cfg: CfgNode) -> SourceFacts | None:
    """Of the file; where it is gone, what the run in OUTPUT_DIR has noted.

    None, with a warning, where that says nothing either.
    """
    noted = _noted(cfg.OUTPUT_DIR)
    noted = noted if noted and noted.weights == cfg.MODEL.WEIGHTS else None  # of another source
    try:
        facts = read_facts(cfg)
    except WeightFileError as error:
        if noted is None:
            logger.warning("what the model has forgotten cannot be told: %s", error)
        return noted
    if noted is None or noted.digest == facts.digest:
        return facts
    logger.warning(
        "MODEL.WEIGHTS %s is not the file that the run in %s began with: it was replaced",
        *(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR),
    )
    return noted


def note_source(cfg: CfgNode) -> None:
    """Into ``run.json``, for --resume, and for evaluations without the file."""
    with suppress(WeightFileError):  # gone: what is noted stays
        note(cfg.OUTPUT_DIR, source=asdict(read_facts(cfg)))


def _noted(output_dir: str) -> SourceFacts | None:
    return SourceFacts(**noted) if (noted := read_manifest(output_dir).get("source")) else None


def check_same_source(cfg: CfgNode) -> None:
    """That MODEL.WEIGHTS, if it is there, is the file that the run in OUTPUT_DIR began with.

    Its path may have changed.

    Raises:
        ConfigError: it is another: it would teach, and be measured against, in the other's place.
    """
    noted, digest = _noted(cfg.OUTPUT_DIR), weights_digest(cfg.MODEL.WEIGHTS)
    if noted is not None and digest and noted.digest != digest:
        raise ConfigError(
            f"--resume: the run in {cfg.OUTPUT_DIR} extends {noted.weights}, and MODEL.WEIGHTS "
            f"{cfg.MODEL.WEIGHTS} is another file; go on with the one before, or start a new run "
            "without --resume"
        )


def before_extension(cfg: CfgNode, trained: str) -> CfgNode:
    """``cfg`` with the MODEL.WEIGHTS that the model in ``trained`` was extended from.

    ``cfg`` itself where ``trained`` is not of an extended run: then the model is measured against
    MODEL.WEIGHTS. These stay, too, where they are that source under another path.
    """
    metadata = load_weights(trained, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE).metadata or {}
    run = metadata.get("config") or {}
    source = (metadata.get("transfer") or {}).get("source")
    if not (source and cfg.MODEL.TRANSFER.EXTEND and run.get("MODEL.TRANSFER.EXTEND")):
        return cfg
    own = editable(cfg)
    if not (weights_digest(cfg.MODEL.WEIGHTS) and began_with(metadata, cfg.MODEL.WEIGHTS)):
        own.MODEL.WEIGHTS = source
    own.MODEL.TRANSFER.SOURCE_CLASSES = run.get("MODEL.TRANSFER.SOURCE_CLASSES", [])
    return own


def build_source_model(cfg: CfgNode) -> tuple[nn.Module, list[str]]:
    """The model of ``MODEL.WEIGHTS`` with its own classes and weights, to evaluate or to teach.

    Args:
        cfg: of an extended run, fitted or not; stays as it is. Input, architecture, test settings
            and device are taken from it.

    Returns:
        the model on its device, in eval mode, no parameter of which requires a gradient; and its
        class names in the order of its rows, "" for a row without a class.

    Raises:
        ConfigError: nobody knows the class names.
        WeightFileError: the file cannot be read.
        TransferPlanError: it is not a whole model of this config.
    """
    source = load_named_source(cfg)
    names = tuple(source.classes or ())
    with seeded(0):  # what it draws is overwritten; the run's own draws stay what they are
        model = build_model(
            source_config(cfg, source), RunSpec(names, tuple(tasks_of(source.metadata)))
        )
    # rows keep their places, whatever their classes are called
    rows = tuple(str(place) for place in range(len(names)))
    numbered = replace(source, classes=rows)
    plan = plan_transfer(numbered, model, keep="class_rows", target_classes=rows)
    plan.check(cfg.MODEL.TRANSFER.STRICT)
    lacking = [  # what is learnt and stays as built
        tensor.target
        for tensor in plan.tensors
        if tensor.target is not None
        and tensor.fate == "initialised"
        and tensor.parameters
        and part_of(tensor.target) != "settings"
    ]
    if lacking:
        raise TransferPlanError(
            f"MODEL.WEIGHTS {source.path} is not a whole model of this config with its "
            f"{len(rows)} classes: {len(lacking)} tensors would stay random (first: {lacking[0]}). "
            "EXTEND needs a trained Mask R-CNN; use the architecture keys that it was trained with"
        )
    apply_plan(plan, numbered, model)
    return model.requires_grad_(False).eval(), list(names)


def source_config(cfg: CfgNode, source: SourceWeights) -> CfgNode:
    """A copy of ``cfg`` that is of the source model: its classes, its classifier, no transfer."""
    own = editable(cfg)
    for heads in (own.MODEL.ROI_HEADS, own.MODEL.get("POINT_HEAD", CfgNode())):
        heads.NUM_CLASSES = len(source.classes or ())
    trained_with = (source.metadata or {}).get("config") or {}
    own.MODEL.ROI_BOX_HEAD.COSINE_SCALE = float(trained_with.get(COSINE_KEY, 0.0))
    own.MODEL.TRANSFER.update(EXTEND=False, FREEZE="", DISTILLATION=0.0)
    own.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED = False
    return own


def detection_settings(cfg: CfgNode) -> list[Any]:
    """All but the weights and the images that the source model's detections depend on."""
    keys = {
        key: value
        for key, value in flat_config(cfg)
        if key in _TEST_KEYS or (key.startswith("MODEL.") and not key.startswith(_OTHER_KEYS))
    }
    return [keys, describe_precision(cfg), torch.device(cfg.MODEL.DEVICE).type]


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
    truth, limit = ground_truth(dataset), detection_limit(cfg)
    return {task: match(truth, results, task, limit) for task in tasks}


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
