"""What a run evaluates: on which sets, with what files, and how much an extended model forgot."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.engine.manifest import read_or_begin
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator, detection_limit, matched_tasks
from transfer_maskrcnn.evaluation.explain import (
    EXPLANATION_FILE,
    RESULTS_FILE,
    explain_folder,
    read_sentence,
)
from transfer_maskrcnn.evaluation.explain.causes import SETTINGS_FILE
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.incremental.classes import EXTENSION_KEY, class_places
from transfer_maskrcnn.incremental.forgetting import (
    MatchedSet,
    extension_figures,
    extension_lines,
)
from transfer_maskrcnn.incremental.source import SourceFacts, source_facts, source_matches
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.surgery.names import unwrapped
from transfer_maskrcnn.text import wrapped

logger = logging.getLogger(__name__)

EVALUATION_FILE = "evaluation.json"

Results = dict[str, Any]


def sets_to_test(cfg: CfgNode) -> tuple[str, ...]:
    """``DATASETS.TEST`` and then ``DATASETS.TEST_BASE``, each set once."""
    return tuple(dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TEST_BASE)))


def without_single_name(cfg: CfgNode, sets: Mapping[str, Results]) -> Results:
    """Set -> task -> figures, as detectron2 has it: of a single DATASETS.TEST without its name.

    Sets of TEST_BASE alone keep theirs, so that the others' figures stay what they are called.
    """
    names = cfg.DATASETS.TEST
    if len(names) != 1 or names[0] not in sets:
        return dict(sets)
    return {**sets[names[0]], **{n: own for n, own in sets.items() if n != names[0]}}


def build_test_loader(cfg: CfgNode, dataset: str) -> DataLoader[Any]:
    """The images of ``dataset`` at test size."""
    mapper = CheckedDatasetMapper(cfg, is_train=False)
    loader: DataLoader[Any] = build_detection_test_loader(cfg, dataset, mapper=mapper)
    return loader


def build_evaluator(cfg: CfgNode, classes: Sequence[str], dataset: str) -> InstanceEvaluator:
    """Of a model that has these classes; it writes into ``OUTPUT_DIR/inference/<dataset>``."""
    return InstanceEvaluator(
        dataset,
        os.path.join(cfg.OUTPUT_DIR, "inference", dataset),
        class_places=class_places(cfg, classes, dataset),
        tasks=matched_tasks(cfg) + ("keypoints",) * cfg.MODEL.KEYPOINT_ON,
        max_dets_per_image=detection_limit(cfg),
    )


def evaluate_model(cfg: CfgNode, spec: RunSpec, model: nn.Module) -> dict[str, Results]:
    """Evaluate on every ``DATASETS.TEST`` and ``TEST_BASE``; all processes of a run call it.

    ``evaluation.json`` gets the results, those of other datasets stay there; of an extended model
    also its figures of base and novel classes, under "extension". Why AP is what it is stands in
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
        results[name] = inference_on_dataset(fast, loader, build_evaluator(cfg, spec.classes, name))
        if comm.is_main_process():
            logger.info("%s:", name)
            print_csv_format(results[name])
    if cfg.OUTPUT_DIR:
        _record(cfg, spec, results, fast.model)
    return results


def _record(cfg: CfgNode, spec: RunSpec, results: Mapping[str, Results], model: nn.Module) -> None:
    path, main = Path(cfg.OUTPUT_DIR, EVALUATION_FILE), comm.is_main_process()
    if main:
        others = read_or_begin(path)
        others.pop(EXTENSION_KEY, None)  # of an earlier evaluation
        write_json(path, {**others, **results})
        explain_evaluation(cfg, model)
    if not cfg.MODEL.TRANSFER.EXTEND:
        return
    try:
        extension = _extension(cfg, list(spec.classes))
    except TransferError as error:  # an evaluation is worth more than what is made of it
        logger.warning("base and novel classes are not told apart: %s", error)
        return
    if main:
        write_json(path, {**read_or_begin(path), EXTENSION_KEY: extension})


def print_summary(cfg: CfgNode, results: Mapping[str, Results]) -> None:
    """One row a test set: box and mask AP, AP50 and AP75; then what an extended model knows of old
    and novel classes; then why, a sentence a test set."""
    rows = [
        [name, task, *(by_task[task].get(metric) for metric in ("AP", "AP50", "AP75"))]
        for name, by_task in results.items()
        for task in ("bbox", "segm")
        if task in by_task
    ]
    print(tabulate(rows, ["dataset", "task", "AP", "AP50", "AP75"], floatfmt=".1f"))
    undefined = {row[0] for row in rows if any(v is not None and math.isnan(v) for v in row[2:])}
    records = chain.from_iterable(map(DatasetCatalog.get, undefined))
    # without any object, AP is undefined whatever the model detects
    if any(not a.get("iscrowd", 0) for r in records for a in r.get("annotations", ())):
        print("nan: the model detected nothing. It may need more iterations, or MODEL.WEIGHTS.")
    file = Path(cfg.OUTPUT_DIR, EVALUATION_FILE)
    told = list(read_or_begin(file).get(EXTENSION_KEY, {}).get("lines", ()))
    for name in results:
        sentence = read_sentence(Path(cfg.OUTPUT_DIR, "inference", name))
        told += [f"{name}: {sentence}"] if sentence else []
    print(*(wrapped(line, "") for line in told), f"Written to {file}", sep="\n")


def _extension(cfg: CfgNode, model: list[str]) -> dict[str, Any]:
    """The content of "extension", in the main process; the others help to compute it."""
    tests = list(cfg.DATASETS.TEST)
    base_sets = list(dict.fromkeys(cfg.DATASETS.TEST_BASE)) or tests
    sets, facts = {"base": base_sets, "novel": tests}, source_facts(cfg)
    if facts is None:
        return {"base_classes": None, "novel_classes": None, "sets": sets}
    base, novel = _base_and_novel(model, facts)
    before = {
        name: _source_matches(cfg, facts, name)
        for name in base_sets
        if not set(base).isdisjoint(_model_classes(cfg, model, name))
    }
    figures: dict[str, Any] = {"base_classes": len(base), "novel_classes": len(novel), "sets": sets}
    for task in reversed(matched_tasks(cfg)) if comm.is_main_process() else ():
        matched = {
            n: _matched(cfg, model, n, task, before.get(n, {})) for n in {*base_sets, *tests}
        }
        parts = [matched[name] for name in base_sets], [matched[name] for name in tests]
        figures[task] = extension_figures(*parts, base, novel)
    return {**figures, "lines": extension_lines(figures)}


def _source_matches(cfg: CfgNode, facts: SourceFacts, dataset: str) -> dict[str, Matches]:
    """{}, with a warning, where it is not remembered and the source model cannot be had."""
    try:
        return source_matches(cfg, facts, dataset, matched_tasks(cfg))
    except TransferError as error:
        logger.warning("%s: what the model has forgotten there cannot be told: %s", dataset, error)
        return {}


def _base_and_novel(model: Sequence[str], facts: SourceFacts) -> tuple[list[str], list[str]]:
    """The model's classes that its source has, and the others.

    Where there are no others, as in a second stage of training, the novel ones are those of the
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
    files = folder / f"{dataset}_ground_truth.json", folder / RESULTS_FILE
    matches = match_detections(*files, task, detection_limit(cfg))
    names = _model_classes(cfg, model, dataset)
    numbers = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id") or {}
    classes = tuple(names[numbers.get(int(i), int(i))] for i in matches.category_ids)
    return MatchedSet(classes, matches, before.get(task))


# Each is trained, or loaded, as one.
_PARTS = (
    "proposal_generator",
    "roi_heads.box_head",
    "roi_heads.box_predictor",
    "roi_heads.mask_head",
)


def explain_evaluation(cfg: CfgNode, model: nn.Module) -> None:
    """Write ``settings.json`` and ``explanation.json`` for every test set just evaluated.

    Where that fails, a warning says why; an evaluation is worth more than its explanation.
    """
    for name in sets_to_test(cfg):
        folder = Path(cfg.OUTPUT_DIR, "inference", name)
        if not (folder / RESULTS_FILE).is_file():
            continue
        try:
            (folder / EXPLANATION_FILE).unlink(missing_ok=True)  # of an earlier evaluation
            write_json(folder / SETTINGS_FILE, settings(cfg, model))
            explain_folder(folder)
        except Exception as error:
            logger.warning("AP on %s is not explained: %s: %s", name, type(error).__name__, error)


def settings(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """The keys that decide which detections there are, and the parts that were never trained."""
    heads, rpn = cfg.MODEL.ROI_HEADS, cfg.MODEL.RPN
    return {
        "score_threshold": heads.SCORE_THRESH_TEST,
        "nms_threshold": heads.NMS_THRESH_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "min_size_train": [int(side) for side in cfg.INPUT.MIN_SIZE_TRAIN],
        "rpn_pre_nms_topk": rpn.PRE_NMS_TOPK_TEST,
        "rpn_post_nms_topk": rpn.POST_NMS_TOPK_TEST,
        "rpn_nms_threshold": rpn.NMS_THRESH,
        "rpn_levels": len(rpn.IN_FEATURES),
        # Biases that the solver leaves alone stay at 0 in a trained model, too.
        "untrained": untrained_parts(model) if cfg.SOLVER.BIAS_LR_FACTOR else [],
    }


def untrained_parts(model: nn.Module) -> list[str]:
    """Names of parts whose weights are fresh from their initialisation.

    Every bias begins at exactly 0, and the first step of training moves it. So this holds for
    weights that silently did not load, too, which no metadata or plan tells; but not where
    SOLVER.BIAS_LR_FACTOR is 0.
    """
    parameters = dict(unwrapped(model).named_parameters())
    biases = {
        part: [p for n, p in parameters.items() if n.startswith(part) and n.endswith(".bias")]
        for part in _PARTS
    }
    return [part for part, own in biases.items() if own and not any(b.any() for b in own)]
