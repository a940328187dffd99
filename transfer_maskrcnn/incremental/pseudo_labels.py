"""Training images with their old objects labelled by the source model, because nobody else did."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.evaluation.coco import ground_truth
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.files import write_json, write_text
from transfer_maskrcnn.incremental.classes import annotated_classes, check_dataset, class_places
from transfer_maskrcnn.incremental.decide import PseudoLabels, Scores, decide, with_labels
from transfer_maskrcnn.incremental.source_facts import source_facts
from transfer_maskrcnn.incremental.teacher import LOWEST_SCORE, teacher_detections
from transfer_maskrcnn.incremental.thresholds import precise_scores
from transfer_maskrcnn.surgery.classes import shown
from transfer_maskrcnn.text import plural

logger = logging.getLogger(__name__)

KEY = "MODEL.TRANSFER.PSEUDO_LABELS"
SUMMARY_FILE = "pseudo_labels.json"
_MOST_CLASSES = 8  # in a sentence


def check_pseudo_labels(cfg: CfgNode) -> None:
    """Compare ``MODEL.TRANSFER.PSEUDO_LABELS`` with the rest of a ``cfg`` whose classes are known.

    Raises:
        ConfigError: scores out of order, no EXTEND, or a held-out set that is used otherwise.
    """
    keys = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    if not cfg.MODEL.TRANSFER.EXTEND:
        raise ConfigError(
            f"{KEY}.ENABLED labels the source's classes, which this model will not have; set "
            "MODEL.TRANSFER.EXTEND True and KEEP class_rows, or leave it out"
        )
    if not LOWEST_SCORE <= keys.IGNORE_SCORE <= keys.SCORE <= 1:
        raise ConfigError(
            f"{KEY}: IGNORE_SCORE {keys.IGNORE_SCORE:g} and SCORE {keys.SCORE:g}; expected "
            f"{LOWEST_SCORE:g} <= IGNORE_SCORE <= SCORE <= 1"
        )
    if not 0 < keys.TARGET_PRECISION <= 1:
        raise ConfigError(
            f"{KEY}.TARGET_PRECISION is {keys.TARGET_PRECISION:g}; expected a share, above 0 and at most 1"
        )
    used = {n: k for k in ("TRAIN", "TEST", "TEST_SOURCE") for n in cfg.DATASETS[k]}
    if keys.CALIBRATION_SET in used:
        raise ConfigError(
            f"{KEY}.CALIBRATION_SET {keys.CALIBRATION_SET!r} is in DATASETS.{used[keys.CALIBRATION_SET]}, too: its "
            "figures would be of images that thresholds were chosen on; name another set"
        )
    if keys.CALIBRATION_SET:
        check_dataset(keys.CALIBRATION_SET)
        facts = source_facts(cfg)
        if facts is not None and not _calibration_classes(cfg, facts.classes):
            raise ConfigError(
                f"{KEY}.CALIBRATION_SET {keys.CALIBRATION_SET!r} has none of the classes of "
                f"{cfg.MODEL.WEIGHTS}, for which it is to choose scores; name a set in which they "
                "are annotated, or leave it empty"
            )


def pseudo_labels(
    cfg: CfgNode, records: Sequence[dict[str, Any]]
) -> tuple[list[PseudoLabels], dict[str, Any]]:
    """What the source model adds to ``records``, and a summary of it.

    Args:
        cfg: fitted, with ``MODEL.TRANSFER.EXTEND``.
        records: training images with the model's ``category_id``.

    Returns:
        one an image, with the model's ``category_id``; and plain values: thresholds and counts by
        class.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    facts = source_facts(cfg)
    if facts is None:
        raise WeightFileError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} cannot be read, and {KEY}.ENABLED has it label the "
            "training images; put it back, or set ENABLED False"
        )
    names, model = facts.classes, cfg.MODEL.TRANSFER.CLASSES
    annotated = annotated_classes(cfg, warn=True)
    places = {i: model.index(n) for i, n in enumerate(names) if n and n in model}
    left = [names[i] for i, place in places.items() if place in annotated]
    if left:
        logger.info("no pseudo-labels of %s: DATASETS.TRAIN annotates them", shown(left))
    places = {i: place for i, place in places.items() if place not in annotated}
    scores = Scores(_sure_scores(cfg, names), cfg.MODEL.TRANSFER.PSEUDO_LABELS.IGNORE_SCORE)
    found = teacher_detections(cfg, records)
    labels = [decide(r, d, places, scores) for r, d in zip(records, found, strict=True)]
    return labels, _summary(cfg, labels, {names[i]: scores.sure[i] for i in places})


def with_pseudo_labels(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``records`` with what the source model adds; those given stay as they are.

    The summary is logged, and written into OUTPUT_DIR as ``pseudo_labels.json``.
    """
    labels, summary = pseudo_labels(cfg, records)
    logger.info(describe(summary))
    if comm.is_main_process():
        write_json(os.path.join(cfg.OUTPUT_DIR, SUMMARY_FILE), summary)
    return [with_labels(r, added) for r, added in zip(records, labels, strict=True)]


def describe(summary: Mapping[str, Any], undecided: str = "no loss depends on") -> str:
    """How many objects, of which classes, the most frequent first; and classes without a score.

    Args:
        summary: of :func:`pseudo_labels`.
        undecided: what is said of the doubtful ones, whose number follows.
    """
    counts = Counter({name: c["objects"] for name, c in summary["classes"].items()})
    found = +counts  # those that there are
    most = ", ".join(f"{name} {count}" for name, count in found.most_common(_MOST_CLASSES))
    most += ", ..." if len(found) > _MOST_CLASSES else ""
    return (
        f"pseudo-labels on {plural(summary['images'], 'image')}: "
        f"{plural(found.total(), 'object')} of {len(found)} of the {len(counts)} classes that are "
        f"not annotated{f' ({most})' if most else ''}; {undecided} "
        f"{plural(summary['doubtful'], 'doubtful one')}{_by_default(summary)}"
        f"{_never_labelled(summary)}"
    )


def _by_default(summary: Mapping[str, Any]) -> str:
    """Of classes for which the held-out set says too little."""
    names = [name for name, c in summary["classes"].items() if c["score"] == summary["score"]]
    if not (summary["calibration"] and names):
        return ""
    return (
        f". CALIBRATION_SET {summary['calibration']} says too little of {_listed(names)}: SCORE "
        f"{summary['score']:g} stands"
    )


def _never_labelled(summary: Mapping[str, Any]) -> str:
    names = [name for name, c in summary["classes"].items() if c["score"] is None]
    if not names:
        return ""
    return (
        f". No score of CALIBRATION_SET {summary['calibration']} is precise enough "
        f"({summary['precision']:g}) for {_listed(names)}: {'they are' if names[1:] else 'it is'} "
        "not labelled"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return ", ".join(names[:_MOST_CLASSES]) + more


def _summary(
    cfg: CfgNode, labels: Sequence[PseudoLabels], sure: Mapping[str, float]
) -> dict[str, Any]:
    keys = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    names = cfg.MODEL.TRANSFER.CLASSES
    counts = Counter(names[a["category_id"]] for image in labels for a in image.sure)
    return {
        "teacher": cfg.MODEL.WEIGHTS,
        "images": len(labels),
        "calibration": keys.CALIBRATION_SET or None,
        "precision": keys.TARGET_PRECISION if keys.CALIBRATION_SET else None,
        "score": keys.SCORE,
        "doubtful_score": keys.IGNORE_SCORE,
        "doubtful": sum(len(image.doubtful) for image in labels),
        "classes": {
            name: {"score": None if math.isinf(score) else score, "objects": counts[name]}
            for name, score in sure.items()
        },
    }


def _sure_scores(cfg: CfgNode, names: Sequence[str]) -> list[float]:
    """Of each of the source's classes: chosen on ``CALIBRATION_SET``, or ``SCORE``."""
    keys = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    scores = [keys.SCORE] * len(names)
    if keys.CALIBRATION_SET:
        own = _calibration_classes(cfg, names)
        matches = _calibration_matches(cfg, own)
        chosen = precise_scores(matches, keys.TARGET_PRECISION, keys.SCORE)
        for category, score in zip(matches.category_ids.tolist(), chosen, strict=True):
            if category in own:
                scores[own[category]] = max(score, keys.IGNORE_SCORE)
    return scores


def _calibration_classes(cfg: CfgNode, names: Sequence[str]) -> dict[int, int]:
    """Category id of the held-out set -> the source's class; new classes are left out."""
    dataset, model = cfg.MODEL.TRANSFER.PSEUDO_LABELS.CALIBRATION_SET, cfg.MODEL.TRANSFER.CLASSES
    places = class_places(cfg, dataset) or ()
    ids: Mapping[int, int] = MetadataCatalog.get(dataset).get(
        "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(places))}
    )
    classes = {category: model[places[i]] for category, i in ids.items()}
    return {category: names.index(name) for category, name in classes.items() if name in names}


def _calibration_matches(cfg: CfgNode, classes: Mapping[int, int]) -> Matches:
    """The teacher on the held-out set. ``classes``: category id -> the teacher's class."""
    name = cfg.MODEL.TRANSFER.PSEUDO_LABELS.CALIBRATION_SET
    categories = {place: category for category, place in classes.items()}
    records = list(DatasetCatalog.get(name))
    results = [
        {**d, "category_id": categories[d["category_id"]], "image_id": record["image_id"]}
        for record, found in zip(records, teacher_detections(cfg, records), strict=True)
        for d in found
        if d["category_id"] in categories
    ]
    task = "segm" if all("segmentation" in r for r in results) else "bbox"
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "truth.json"), Path(folder, "results.json")
        for file, content in zip(files, (ground_truth(name), results), strict=True):
            write_text(file, json.dumps(content))
        return match_detections(*files, task)
