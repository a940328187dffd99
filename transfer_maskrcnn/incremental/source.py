"""The source of an extended run: what is known of its file, and its model as it was before the run.

It stands apart from the trainer, so that whatever prepares training data may build one, too.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.config import RunSpec, flat_config
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.engine.manifest import note, read_manifest
from transfer_maskrcnn.errors import ConfigError, TransferPlanError, WeightFileError
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.heads import tasks_of
from transfer_maskrcnn.modeling.precision import describe_precision
from transfer_maskrcnn.surgery.apply import apply_plan
from transfer_maskrcnn.surgery.hook import began_with, load_named_source
from transfer_maskrcnn.surgery.load import SourceWeights, load_weights, weights_digest
from transfer_maskrcnn.surgery.names import part_of
from transfer_maskrcnn.surgery.plan import plan_transfer

logger = logging.getLogger(__name__)

COSINE_KEY = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
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
    source, weights = load_named_source(cfg), cfg.MODEL.WEIGHTS
    classes, tasks = list(source.classes or ()), tasks_of(source.metadata)
    return SourceFacts(weights, weights_digest(weights), classes, tasks)


def source_facts(cfg: CfgNode) -> SourceFacts | None:
    """Of the file; where it is gone, what the run in OUTPUT_DIR has noted.

    None, with a warning, where that says nothing either.
    """
    noted = _noted(cfg.OUTPUT_DIR)
    if noted is not None and noted.weights != cfg.MODEL.WEIGHTS:  # of another source
        noted = None
    try:
        facts = read_facts(cfg)
    except WeightFileError as error:
        if noted is None:
            logger.warning("what the model has forgotten cannot be told: %s", error)
        return noted
    if noted is not None and noted.digest != facts.digest:
        logger.warning(
            "MODEL.WEIGHTS %s is not the file that the run in %s began with: it was replaced",
            *(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR),
        )
        return noted
    return facts


def note_source(cfg: CfgNode) -> None:
    """Into ``run.json``, for --resume, and for evaluations without the file."""
    try:
        facts = read_facts(cfg)
    except WeightFileError:  # gone: what is noted stays
        return
    note(cfg.OUTPUT_DIR, source=asdict(facts))


def _noted(output_dir: str) -> SourceFacts | None:
    noted = read_manifest(output_dir).get("source")
    return SourceFacts(**noted) if noted else None


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
    trust = cfg.MODEL.TRANSFER.TRUST_PICKLE
    metadata = load_weights(trained, trust_pickle=trust).metadata or {}
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
    own, names = source_config(cfg, source), tuple(source.classes or ())
    spec = RunSpec(names, tuple(tasks_of(source.metadata)))
    with seeded(0):  # what it draws is overwritten; the run's own draws stay what they are
        model = build_model(own, spec)
    _load(model, source, strict=cfg.MODEL.TRANSFER.STRICT)
    return model.requires_grad_(False).eval(), list(names)


def source_config(cfg: CfgNode, source: SourceWeights) -> CfgNode:
    """A copy of ``cfg`` that is of the source model: its classes, its classifier, no transfer."""
    own = cfg.clone()
    own.defrost()
    own.MODEL.ROI_HEADS.NUM_CLASSES = len(source.classes or ())
    if "POINT_HEAD" in own.MODEL:
        own.MODEL.POINT_HEAD.NUM_CLASSES = len(source.classes or ())
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


def _load(model: nn.Module, source: SourceWeights, strict: bool) -> None:
    """Every tensor from the file; rows keep their places, whatever their classes are called."""
    rows = tuple(str(place) for place in range(len(source.classes or ())))
    numbered = replace(source, classes=rows)
    plan = plan_transfer(numbered, model, keep="class_rows", target_classes=rows)
    plan.check(strict)
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
