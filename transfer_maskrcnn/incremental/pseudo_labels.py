"""Training images whose base classes the source model labels, because nobody else did."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from transfer_maskrcnn.config import RunSpec, editable
from transfer_maskrcnn.data.export import coco_document
from transfer_maskrcnn.data.export.base import common_folder, write_yaml
from transfer_maskrcnn.data.registry import catalog_entry
from transfer_maskrcnn.engine.setup import check_dataset
from transfer_maskrcnn.errors import ConfigError, WeightFileError, refuse
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.incremental.classes import (
    CALIBRATION_KEY,
    annotated_classes,
    class_places,
    dataset_keys,
    in_model_classes,
    source_categories,
)
from transfer_maskrcnn.incremental.decide import (
    Annotation,
    PseudoLabels,
    Record,
    Scores,
    decide,
    precise_scores,
    with_labels,
)
from transfer_maskrcnn.incremental.source import (
    SourceFacts,
    source_detections,
    source_facts,
    source_matches,
)
from transfer_maskrcnn.text import few, plural, quoted

logger = logging.getLogger(__name__)

KEY = "MODEL.TRANSFER.PSEUDO_LABELS"
#: what scores less is not kept: thresholds from here on can be changed without labelling again
LOWEST_SCORE = 0.05
_MOST_CLASSES = 8  # in a sentence


def check_pseudo_labels(cfg: CfgNode, spec: RunSpec) -> None:
    """Compare ``MODEL.TRANSFER.PSEUDO_LABELS`` with the rest of a ``cfg`` whose classes are known.

    Raises:
        ConfigError: scores out of order, no EXTEND, or a calibration set that is used otherwise.
    """
    keys = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    refuse(
        (
            not cfg.MODEL.TRANSFER.EXTEND,
            f"{KEY}.ENABLED labels the source's classes, which this model will not have; set "
            "MODEL.TRANSFER.EXTEND True and KEEP class_rows, or leave it out",
        ),
        (
            not LOWEST_SCORE <= keys.IGNORE_SCORE <= keys.SCORE <= 1,
            f"{KEY}: IGNORE_SCORE {keys.IGNORE_SCORE:g} and SCORE {keys.SCORE:g}; expected "
            f"{LOWEST_SCORE:g} <= IGNORE_SCORE <= SCORE <= 1",
        ),
        (
            not 0 < keys.TARGET_PRECISION <= 1,
            f"{KEY}.TARGET_PRECISION is {keys.TARGET_PRECISION:g}; expected a share, above 0 and "
            "at most 1",
        ),
    )
    if keys.CALIBRATION_SET:
        _check_calibration_set(cfg, spec, keys.CALIBRATION_SET)


def _check_calibration_set(cfg: CfgNode, spec: RunSpec, name: str) -> None:
    key = dataset_keys(cfg)[name]
    if key != CALIBRATION_KEY:
        raise ConfigError(
            f"{CALIBRATION_KEY} {name!r} is in {key}, too: its figures would be of images that "
            "thresholds were chosen on; name another set"
        )
    check_dataset(name)
    class_places(cfg, spec.classes, name)  # it has no class that the model lacks
    facts = source_facts(cfg)
    if facts is not None and not source_categories(name, facts.classes):
        raise ConfigError(
            f"{CALIBRATION_KEY} {name!r} has none of the classes of {cfg.MODEL.WEIGHTS}, for "
            "which it is to choose scores; name a set in which they are annotated, or leave it "
            "empty"
        )


def pseudo_labels(
    cfg: CfgNode, spec: RunSpec, records: Sequence[dict[str, Any]]
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
    names, model = facts.classes, spec.classes
    done = [model[place] for place in annotated_classes(cfg, model, warn=True)]
    if left := [name for name in names if name in done]:
        logger.info("no pseudo-labels of %s: DATASETS.TRAIN annotates them", quoted(left))
    places = {i: model.index(n) for i, n in enumerate(names) if n in model and n not in done}
    own = editable(cfg)
    own.MODEL.ROI_HEADS.SCORE_THRESH_TEST = LOWEST_SCORE
    scores = Scores(_sure_scores(own, facts), cfg.MODEL.TRANSFER.PSEUDO_LABELS.IGNORE_SCORE)
    found = source_detections(own, facts, records)
    labels = [decide(r, d, places, scores) for r, d in zip(records, found, strict=True)]
    return labels, _summary(cfg, spec, labels, {names[i]: scores.sure[i] for i in places})


def _sure_scores(cfg: CfgNode, facts: SourceFacts) -> list[float]:
    """Of each of the source's classes: chosen on ``CALIBRATION_SET``, or ``SCORE``."""
    keys = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    scores = [keys.SCORE] * len(facts.classes)
    if keys.CALIBRATION_SET:
        task = "segm" if cfg.MODEL.MASK_ON else "bbox"
        matches = source_matches(cfg, facts, keys.CALIBRATION_SET, [task])[task]
        chosen = precise_scores(matches, keys.TARGET_PRECISION, keys.SCORE)
        own = source_categories(keys.CALIBRATION_SET, facts.classes)
        for category, score in zip(matches.category_ids.tolist(), chosen, strict=True):
            if category in own:
                scores[own[category]] = max(score, keys.IGNORE_SCORE)
    return scores


def _summary(
    cfg: CfgNode, spec: RunSpec, labels: Sequence[PseudoLabels], sure: Mapping[str, float]
) -> dict[str, Any]:
    keys = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    counts = Counter(spec.classes[a["category_id"]] for image in labels for a in image.sure)
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


def with_pseudo_labels(
    cfg: CfgNode, spec: RunSpec, records: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """``records`` with what the source model adds; those given stay as they are.

    The summary is logged, and written into OUTPUT_DIR as ``pseudo_labels.json``.
    """
    labels, summary = pseudo_labels(cfg, spec, records)
    sentence = describe(summary)
    logger.info(sentence)
    if comm.is_main_process():
        write_json(Path(cfg.OUTPUT_DIR, "pseudo_labels.json"), {**summary, "sentence": sentence})
    return [with_labels(r, added) for r, added in zip(records, labels, strict=True)]


def describe(summary: Mapping[str, Any], undecided: str = "no loss depends on") -> str:
    """How many objects, of which classes, the most frequent first; and classes without a score.

    Args:
        summary: of :func:`pseudo_labels`.
        undecided: what is said of the doubtful ones, whose number follows.
    """
    classes, calibration = summary["classes"], summary["calibration"]
    counts = Counter({name: c["objects"] for name, c in classes.items()})
    found = +counts  # those that there are
    words = [f"{name} {count}" for name, count in found.most_common(_MOST_CLASSES)]
    most = ", ".join([*words, "..."] if len(found) > len(words) else words)
    text = (
        f"pseudo-labels on {plural(summary['images'], 'image')}: "
        f"{plural(found.total(), 'object')} of {len(found)} of the {len(counts)} classes that are "
        f"not annotated{f' ({most})' if most else ''}; {undecided} "
        f"{plural(summary['doubtful'], 'doubtful one')}"
    )
    default = [name for name, c in classes.items() if c["score"] == summary["score"]]
    if calibration and default:
        text += (
            f". CALIBRATION_SET {calibration} says too little of {few(default, _MOST_CLASSES)}: "
            f"SCORE {summary['score']:g} stands"
        )
    if never := [name for name, c in classes.items() if c["score"] is None]:
        text += (
            f". No score of CALIBRATION_SET {calibration} is precise enough "
            f"({summary['precision']:g}) for {few(never, _MOST_CLASSES)}: "
            f"{'they are' if never[1:] else 'it is'} not labelled"
        )
    return text


def label_document(
    records: Sequence[Record],
    annotations: Sequence[Sequence[Annotation]],
    classes: Sequence[str],
    image_root: str,
    first_id: int = 1,
) -> dict[str, Any]:
    """The content of a COCO json.

    Args:
        records: the images.
        annotations: of each image; each with a mask, and ``category_id`` a place in ``classes``.
            A ``score`` is kept: who has one was labelled by a model.
        classes: their category ids count from 1.
        image_root: file names are relative to this folder.
        first_id: the first annotation's ``id``; those of the others follow.
    """
    dicts = [
        {
            **record,
            "file_name": os.path.relpath(record["file_name"], image_root).replace(os.sep, "/"),
            "image_id": number,
            "annotations": list(own),
        }
        for number, (record, own) in enumerate(zip(records, annotations, strict=True), start=1)
    ]
    content = coco_document(dicts, classes)
    pairs = zip(content["annotations"], (a for own in annotations for a in own), strict=True)
    content["annotations"] = [
        {**written, "id": number}
        | ({"score": round(annotation["score"], 4)} if "score" in annotation else {})
        for number, (written, annotation) in enumerate(pairs, start=first_id)
    ]
    return content


def write_labels(cfg: CfgNode, spec: RunSpec, folder: Path, name: str) -> dict[str, Any]:
    """Write ``DATASETS.TRAIN`` with the sure labels, the doubtful ones, and a catalog that declares
    the first as ``name``.

    Returns:
        the summary of :func:`pseudo_labels`, and how many images were ``left_out``.
    """
    every = [
        record
        for train in cfg.DATASETS.TRAIN
        for record in in_model_classes(cfg, spec.classes, train, DatasetCatalog.get(train))
    ]
    # as in training: images that nobody annotated may show novel objects, too
    whole = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    records = [r for r in every if whole or not all(a.get("iscrowd", 0) for a in r["annotations"])]
    labels, summary = pseudo_labels(cfg, spec, records)
    classes, root = list(spec.classes), common_folder(r["file_name"] for r in records)
    sure = [[*r["annotations"], *added.sure] for r, added in zip(records, labels, strict=True)]
    doubtful, first = [added.doubtful for added in labels], 1 + sum(map(len, sure))
    write_json(folder / "annotations.json", label_document(records, sure, classes, root))
    write_json(folder / "doubtful.json", label_document(records, doubtful, classes, root, first))
    own = {"annotations": "annotations.json", "image_root": root, "classes": classes}
    # the sets to test on as well, so that one catalog is enough
    tests = (*cfg.DATASETS.TEST, *cfg.DATASETS.TEST_BASE) if cfg.DATASETS.CATALOG else ()
    entries = {test: entry for test in tests if (entry := catalog_entry(test))}
    write_yaml(folder / "catalog.yaml", {name: {"format": "coco", **own}, **entries})
    return {**summary, "left_out": len(every) - len(records)}
