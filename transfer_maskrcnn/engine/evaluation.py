"""What a run evaluates: on which sets, with what files, how much an extended model forgot, and the
training losses on images that are not trained on."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import build_augmentation
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from transfer_maskrcnn.compat import BatchNorm, Dropout
from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.engine.manifest import read_or_begin
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator, detection_limit, matched_tasks
from transfer_maskrcnn.evaluation.explain import (
    EXPLANATION_FILE,
    RESULTS_FILE,
    explain_folder,
    read_told,
)
from transfer_maskrcnn.evaluation.explain.causes import SETTINGS_FILE
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.incremental.classes import EXTENSION_KEY, class_places, in_model_classes
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
    return build_detection_test_loader(cfg, dataset, mapper=mapper)


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
    from transfer_maskrcnn.incremental.forgetting import extension_of

    try:
        extension = extension_of(cfg, list(spec.classes))
    except TransferError as error:  # an evaluation is worth more than what is made of it
        logger.warning("base and novel classes are not told apart: %s", error)
        return
    if main:
        write_json(path, {**read_or_begin(path), EXTENSION_KEY: extension})


def print_summary(cfg: CfgNode, results: Mapping[str, Results]) -> None:
    """One row a test set: box and mask AP, AP50 and AP75; then what an extended model knows of old
    and novel classes; then why, a sentence a test set."""
    told_of = {name: read_told(Path(cfg.OUTPUT_DIR, "inference", name)) for name in results}
    rows: list[list[Any]] = []
    for name, by_task in results.items():
        for task in [task for task in ("bbox", "segm") if task in by_task]:
            ends = told_of[name][1].get(task)
            figures = (by_task[task].get(metric) for metric in ("AP", "AP50", "AP75"))
            rows.append([name, task, *figures, "{:.1f} to {:.1f}".format(*ends) if ends else ""])
    title = "95 % interval"
    print(tabulate(rows, ["dataset", "task", "AP", "AP50", "AP75", title], floatfmt=".1f"))
    if any(row[-1] for row in rows):
        print(f"{title}: over the images alone; another seed of training is not in it.")
    undefined = {r[0] for r in rows if any(v is not None and math.isnan(v) for v in r[2:-1])}
    records = chain.from_iterable(map(DatasetCatalog.get, undefined))
    # without any object, AP is undefined whatever the model detects
    if any(not a.get("iscrowd", 0) for r in records for a in r.get("annotations", ())):
        print("nan: the model detected nothing. It may need more iterations, or MODEL.WEIGHTS.")
    file = Path(cfg.OUTPUT_DIR, EVALUATION_FILE)
    told = list(read_or_begin(file).get(EXTENSION_KEY, {}).get("lines", ()))
    told += [f"{name}: {sentence}" for name, (sentence, _) in told_of.items() if sentence]
    print(*(wrapped(line, "") for line in told), f"Written to {file}", sep="\n")


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


def losses_on_test_sets(cfg: CfgNode, spec: RunSpec, model: nn.Module) -> dict[str, float]:
    """:func:`validation_losses` on all of ``DATASETS.TEST`` together."""
    loaders = (build_validation_loader(cfg, spec, name) for name in cfg.DATASETS.TEST)
    return validation_losses(model, chain.from_iterable(loaders))


def build_validation_loader(cfg: CfgNode, spec: RunSpec, dataset: str) -> DataLoader[Any]:
    """The images of a test set at test size, with annotations; empty ones as in training."""
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = CheckedDatasetMapper(cfg, is_train=True, augmentations=augmentations)
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    dicts = get_detection_dataset_dicts(dataset, filter_empty=filter_empty)
    dicts = in_model_classes(cfg, spec.classes, dataset, dicts)
    workers = cfg.DATALOADER.NUM_WORKERS
    return build_detection_test_loader(dicts, mapper=mapper, num_workers=workers)


@contextmanager
def giving_losses(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` gives losses, but updates no norm statistics and drops nothing out."""
    before = {module: module.training for module in model.modules()}
    model.train()
    for module in before:
        module.training &= not isinstance(module, (BatchNorm, Dropout))
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def validation_losses(
    model: nn.Module, batches: Iterable[list[dict[str, Any]]], seed: int = 0
) -> dict[str, float]:
    """Mean losses per batch: ``val_loss`` and its parts, ``val_loss_mask`` and so on.

    The model's random choices (which anchors and proposals are scored) come from ``seed``, the same
    at every call, so that two calls differ by the weights alone; training's generators, norm
    statistics and modes stay as they are.

    Args:
        model: a detectron2 model; a DistributedDataParallel one is called without its wrapper.
        batches: images with ``instances``; every process may have its own share.
        seed: see above.
    """
    model = unwrapped(model)
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices=cuda),
        seeded(seed),
        torch.no_grad(),
        giving_losses(model),
        EventStorage(),  # detectron2's heads log their accuracy into the current one
    ):
        if cuda:
            torch.cuda.manual_seed(seed)
        own = [{f"val_{k}": float(v) for k, v in model(batch).items()} for batch in batches]
    rows = list(chain.from_iterable(comm.all_gather(own)))
    names = sorted({name for row in rows for name in row})
    means = {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}
    return {"val_loss": sum(means.values()), **means} if rows else {}
