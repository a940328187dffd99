"""What follows an evaluation: its files, and what an extended model has forgotten."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.engine.evaluated_sets import (
    Results,
    build_evaluator,
    build_test_loader,
    detection_limit,
    matched_tasks,
    sets_to_test,
)
from transfer_maskrcnn.engine.facts import explain_evaluation
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.explain.facts import EVALUATION_FILE
from transfer_maskrcnn.evaluation.inference import FastInference
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
from transfer_maskrcnn.modeling.precision import autocast_dtype

logger = logging.getLogger(__name__)


def evaluate_model(cfg: CfgNode, spec: RunSpec, model: nn.Module) -> dict[str, Results]:
    """Evaluate on every ``DATASETS.TEST`` and ``TEST_SOURCE``; all processes of a run call it.

    ``evaluation.json`` gets the results, those of other datasets stay there; of an extended model
    also its figures of old and new classes, under "extension". Why AP is what it is stands in
    ``inference/<dataset>/explanation.json``.

    Args:
        cfg: resolved.

    Returns:
        set -> task ("bbox", "segm") -> figures, AP from 0 to 100; of the main process.
    """
    fast = model if isinstance(model, FastInference) else FastInference(model, autocast_dtype(cfg))
    results: dict[str, Results] = {}
    for name in sets_to_test(cfg):
        loader = build_test_loader(cfg, name)
        found = inference_on_dataset(fast, loader, build_evaluator(cfg, spec.classes, name))
        if comm.is_main_process():
            logger.info("%s:", name)
            print_csv_format(found)
        results[name] = found
    if cfg.OUTPUT_DIR:
        _record(cfg, spec, results, fast.model)
    return results


def _record(cfg: CfgNode, spec: RunSpec, results: Mapping[str, Results], model: nn.Module) -> None:
    path = Path(cfg.OUTPUT_DIR, EVALUATION_FILE)
    content: dict[str, Any] = {}
    if comm.is_main_process():
        content = {**_read(path), **results}
        content.pop(EXTENSION_KEY, None)  # of an earlier evaluation
        write_json(path, content)
        explain_evaluation(cfg, model)
    if not cfg.MODEL.TRANSFER.EXTEND:
        return
    try:
        extension = _extension(cfg, list(spec.classes))
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


def _extension(cfg: CfgNode, model: list[str]) -> dict[str, Any]:
    """The content of "extension", in the main process; the others help to compute it."""
    tests = list(cfg.DATASETS.TEST)
    old_sets = list(dict.fromkeys(cfg.DATASETS.TEST_SOURCE)) or tests
    facts = source_facts(cfg)
    if facts is None:
        return {"old_classes": None, "new_classes": None, "sets": {"old": old_sets, "new": tests}}
    old, new = _old_and_new(model, facts)
    before = {
        name: _source_matches(cfg, facts, name)
        for name in old_sets
        if not set(old).isdisjoint(_model_classes(cfg, model, name))
    }
    figures = {}
    if comm.is_main_process():
        for task in reversed(matched_tasks(cfg)):
            matched = {
                n: _matched(cfg, model, n, task, before.get(n, {})) for n in {*old_sets, *tests}
            }
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
    if known.issuperset(model) and len(facts.tasks) > 1:
        known = set(facts.classes[: -facts.tasks[-1]])
    return [n for n in model if n in known], [n for n in model if n not in known]


def _model_classes(cfg: CfgNode, model: list[str], dataset: str) -> list[str]:
    """The model's name of each of the dataset's classes."""
    return [model[place] for place in class_places(cfg, model, dataset) or ()]


def _matched(
    cfg: CfgNode, model: list[str], dataset: str, task: str, before: Mapping[str, Matches]
) -> MatchedSet:
    folder = Path(cfg.OUTPUT_DIR, "inference", dataset)
    files = folder / f"{dataset}_ground_truth.json", folder / "coco_instances_results.json"
    matches = match_detections(*files, task, detection_limit(cfg))
    names = _model_classes(cfg, model, dataset)
    numbers = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id") or {}
    classes = tuple(names[numbers.get(int(i), int(i))] for i in matches.category_ids)
    return MatchedSet(classes, matches, before.get(task))
