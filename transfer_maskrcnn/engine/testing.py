"""What follows an evaluation: its files, and what an extended model has forgotten."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn

from transfer_maskrcnn.engine.evaluated_sets import (
    Results,
    detection_limit,
    matched_tasks,
    with_source_sets,
)
from transfer_maskrcnn.engine.facts import explain_evaluation
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.explain.facts import EVALUATION_FILE
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.incremental.classes import class_places
from transfer_maskrcnn.incremental.detections import source_matches
from transfer_maskrcnn.incremental.forgetting import (
    EXTENSION_KEY,
    MatchedSet,
    extension_figures,
    extension_lines,
)
from transfer_maskrcnn.incremental.source import SourceFacts, source_facts

logger = logging.getLogger(__name__)


def record_evaluation(
    cfg: CfgNode, results: Mapping[str, Results], model: nn.Module | None
) -> None:
    """Write what was evaluated into OUTPUT_DIR; all processes of a run call it together.

    ``evaluation.json`` gets the results, those of other datasets stay there; of an extended model
    also its figures of old and new classes, under "extension". Why AP is what it is stands in
    ``inference/<dataset>/explanation.json``.

    Args:
        cfg: fitted.
        results: set -> task -> figures; of the main process.
        model: that was evaluated by our own evaluators; None: by others, whose files nobody knows.
    """
    if not cfg.OUTPUT_DIR:
        return
    path = Path(cfg.OUTPUT_DIR, EVALUATION_FILE)
    content: dict[str, Any] = {}
    if comm.is_main_process():
        content = {**_read(path), **results}
        content.pop(EXTENSION_KEY, None)  # of an earlier evaluation
        write_json(path, content)
    if model is None:
        return
    if comm.is_main_process():
        explain_evaluation(with_source_sets(cfg), model)
    if not cfg.MODEL.TRANSFER.CLASSES:
        return
    try:
        extension = _extension(cfg)
    except TransferError as error:  # an evaluation is worth more than what is made of it
        logger.warning("old and new classes are not told apart: %s", error)
        return
    if comm.is_main_process():
        write_json(path, {**content, EXTENSION_KEY: extension})


def read_extension(output_dir: str) -> dict[str, Any] | None:
    """The figures of old and new classes in ``evaluation.json``; None where there are none."""
    extension: dict[str, Any] | None = _read(Path(output_dir, EVALUATION_FILE)).get(EXTENSION_KEY)
    return extension


def _read(path: Path) -> dict[str, Any]:
    """An ``evaluation.json``; {} where there is none and, with a warning, where it is damaged."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        logger.warning("%s is damaged, and begun anew: %s", path, error)
        return {}


def _extension(cfg: CfgNode) -> dict[str, Any]:
    """The content of "extension", in the main process; the others help to compute it."""
    tests, model = list(cfg.DATASETS.TEST), list(cfg.MODEL.TRANSFER.CLASSES)
    old_sets = list(dict.fromkeys(cfg.DATASETS.TEST_SOURCE)) or tests
    facts = source_facts(cfg)
    if facts is None:
        return {"old_classes": None, "new_classes": None, "sets": {"old": old_sets, "new": tests}}
    old, new = _old_and_new(model, facts)
    before = {
        name: _source_matches(cfg, facts, name)
        for name in old_sets
        if not set(old).isdisjoint(_model_classes(cfg, name))
    }
    figures = {}
    if comm.is_main_process():
        for task in reversed(matched_tasks(cfg)):
            matched = {n: _matched(cfg, n, task, before.get(n, {})) for n in {*old_sets, *tests}}
            parts = [matched[name] for name in old_sets], [matched[name] for name in tests]
            figures[task] = extension_figures(*parts, old, new)
    counts = {"old_classes": len(old), "new_classes": len(new)}
    extension = {**figures, **counts, "sets": {"old": old_sets, "new": tests}}
    return {**extension, "lines": extension_lines(extension)}


def _source_matches(cfg: CfgNode, facts: SourceFacts, dataset: str) -> dict[str, Matches]:
    """{}, with a warning, where it is not remembered and the source model cannot be had."""
    try:
        return source_matches(cfg, facts, dataset, matched_tasks(cfg))
    except TransferError as error:
        logger.warning("%s: what the model has forgotten there cannot be told: %s", dataset, error)
        return {}


def _old_and_new(model: Sequence[str], facts: SourceFacts) -> tuple[list[str], list[str]]:
    """The model's classes that its source has, and the others.

    Where there are no others, as in a second stage of training, the new ones are those of the
    source's own last extension.
    """
    known = set(facts.classes)
    if known.issuperset(model) and len(facts.generations) > 1:
        known = set(facts.classes[: -facts.generations[-1]])
    return [n for n in model if n in known], [n for n in model if n not in known]


def _model_classes(cfg: CfgNode, dataset: str) -> list[str]:
    """The model's name of each of the dataset's classes."""
    return [cfg.MODEL.TRANSFER.CLASSES[place] for place in class_places(cfg, dataset) or ()]


def _matched(cfg: CfgNode, dataset: str, task: str, before: Mapping[str, Matches]) -> MatchedSet:
    folder = Path(cfg.OUTPUT_DIR, "inference", dataset)
    files = folder / f"{dataset}_ground_truth.json", folder / "coco_instances_results.json"
    matches = match_detections(*files, task, detection_limit(cfg))
    names = _model_classes(cfg, dataset)
    numbers = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id") or {}
    classes = tuple(names[numbers.get(int(i), int(i))] for i in matches.category_ids)
    return MatchedSet(classes, matches, before.get(task))
