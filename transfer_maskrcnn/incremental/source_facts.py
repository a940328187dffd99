"""What an extended run knows of its source, also when the file is gone or was replaced."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from transfer_maskrcnn.engine.identity import weights_digest
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.incremental.named_source import open_named_source
from transfer_maskrcnn.modeling.extended_scores import generations_of

logger = logging.getLogger(__name__)

SOURCE_FILE = "source.json"


@dataclass(frozen=True)
class SourceFacts:
    """What is known of MODEL.WEIGHTS, also when the file is gone.

    Attributes:
        digest: of the file.
        classes: in the order of its rows, "" for a row without a class.
        generations: how many of them came with each extension; [] where it was never extended.
    """

    weights: str
    digest: str
    classes: list[str]
    generations: list[int]


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
    """Write ``source.json`` into OUTPUT_DIR, for --resume, and for evaluations without the file."""
    try:
        facts = read_facts(cfg)
    except WeightFileError:  # gone: what is noted stays
        return
    if comm.is_main_process():
        write_json(Path(cfg.OUTPUT_DIR, SOURCE_FILE), asdict(facts))


def check_same_source(cfg: CfgNode) -> None:
    """That MODEL.WEIGHTS, if it is there, is the file that the run in OUTPUT_DIR began with.

    Its path may have changed.

    Raises:
        ConfigError: it is another: it would teach, and be measured against, in the other's place.
    """
    noted = _noted(cfg.OUTPUT_DIR)
    digest = weights_digest(cfg.MODEL.WEIGHTS)
    if noted is None or not digest:
        return
    if noted.digest != digest:
        raise ConfigError(
            f"--resume: the run in {cfg.OUTPUT_DIR} extends {noted.weights}, and MODEL.WEIGHTS "
            f"{cfg.MODEL.WEIGHTS} is another file; go on with the one before, or start a new run "
            "without --resume"
        )


def read_facts(cfg: CfgNode) -> SourceFacts:
    """Of the file.

    Raises:
        ConfigError: nobody names its classes.
        WeightFileError: it cannot be read.
    """
    source = open_named_source(cfg)
    weights, classes = cfg.MODEL.WEIGHTS, list(source.classes or ())
    return SourceFacts(weights, weights_digest(weights), classes, generations_of(source.metadata))


def _noted(output_dir: str) -> SourceFacts | None:
    try:
        text = Path(output_dir, SOURCE_FILE).read_text(encoding="utf-8")
        return SourceFacts(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None
