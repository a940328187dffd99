"""How well an extended model knows its base and novel classes, and what it has forgotten."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.evaluation.bootstrap import (
    LEAST_IMAGES,
    REPLICATES,
    bootstrap_class_ap,
    interval,
    mean_of_classes,
    resample,
)
from transfer_maskrcnn.evaluation.coco import detection_limit, matched_tasks
from transfer_maskrcnn.evaluation.explain import RESULTS_FILE, truth_file
from transfer_maskrcnn.evaluation.matches import Matches, match_detections
from transfer_maskrcnn.incremental.classes import class_places
from transfer_maskrcnn.incremental.source import SourceFacts, source_facts, source_matches
from transfer_maskrcnn.text import number, plural

logger = logging.getLogger(__name__)

_KINDS = {"segm": "mask", "bbox": "box"}


@dataclass(frozen=True, eq=False)
class MatchedSet:
    """The detections of the extended model on one set and, where known, those of its source.

    Attributes:
        classes: the model's name of each row of ``matches.objects``.
        before: the source model's, on the same ground truth.
    """

    classes: tuple[str, ...]
    matches: Matches
    before: Matches | None = None


def extension_figures(
    base_sets: Sequence[MatchedSet],
    novel_sets: Sequence[MatchedSet],
    base_classes: Collection[str],
    novel_classes: Collection[str],
) -> dict[str, Any]:
    """AP of base, novel and all classes, and how much AP of the base ones was lost.

    Every AP is COCO's mean over classes that have objects, each class once: where several sets
    annotate it, in the first that does. The harmonic mean of base and novel is few-shot papers'
    (https://arxiv.org/abs/1707.00600 has it of seen and unseen classes). The interval of the
    forgetting is the paired bootstrap's over images: each of 1,000 resamples draws the same images
    for both models.

    Args:
        base_sets, novel_sets: where base and novel classes are scored, all of one IoU type.
        base_classes, novel_classes: the model's names of the source's classes, and of the others.

    Returns:
        ``base``, ``novel``, ``all``, ``harmonic_mean``, ``before`` (the source model on the base
        classes), all AP from 0 to 100; ``forgetting`` with ``ap`` (before less base) and its 95 %
        interval ``low`` to ``high``; ``images`` that show a base class; ``scored``, how many
        ``base`` and ``novel`` classes have objects; ``classes``, each base one's ``before`` and
        ``after``. None for what these sets, or a missing ``before``, cannot tell.
    """
    base, novel = _scored(base_sets, base_classes), _scored(novel_sets, novel_classes)
    before, after, added = _ap(base, "before"), _ap(base, "matches"), _ap(novel, "matches")
    known, kept, gained = _mean(before), _mean(after), _mean(added)
    told = (kept is not None or not base_classes) and (gained is not None or not novel_classes)
    every = [ap for ap in (after, added) if ap is not None]
    names = [one.classes[k] for one, rows in base for k in rows]
    return {
        "base": kept,
        "novel": gained,
        "all": _mean(np.vstack(every)) if told and every else None,
        "harmonic_mean": None
        if kept is None or gained is None
        else 2 * kept * gained / (kept + gained or 1.0),
        "before": known,
        "forgetting": None if known is None or kept is None else _forgetting(base, known - kept),
        "images": _images(base),
        "scored": {"base": len(names), "novel": sum(len(rows) for _, rows in novel)},
        "classes": {
            name: {
                when: None if ap is None else float(ap[k, 0])
                for when, ap in (("before", before), ("after", after))
            }
            for k, name in enumerate(names)
        },
    }


# Rows of sets that count: a class that several sets annotate counts in the first.
_Scored = Sequence[tuple[MatchedSet, list[int]]]


def _scored(sets: Sequence[MatchedSet], classes: Collection[str]) -> _Scored:
    left, found = set(classes), []
    for one in sets:
        objects = one.matches.objects.sum(axis=1)
        rows = [k for k, name in enumerate(one.classes) if objects[k] and name in left]
        left -= {one.classes[k] for k in rows}
        if rows:
            found.append((one, rows))
    return found


def _ap(
    scored: _Scored, which: str, weights: Sequence[np.ndarray] | None = None
) -> np.ndarray | None:
    """(classes, B) of all sets; None where there is none, or one is not known.

    Args:
        which: "matches", or "before" for those of the source model.
        weights: of each set, (B, N); None: the images as they are.
    """
    found = []
    for place, (one, rows) in enumerate(scored):
        matches = getattr(one, which)
        if matches is None:
            return None
        found.append(bootstrap_class_ap(matches, weights[place] if weights else None, rows))
    return np.vstack(found) if found else None


def _mean(ap: np.ndarray | None) -> float | None:
    return None if ap is None else float(mean_of_classes(ap)[0])


def _images(scored: _Scored) -> int:
    """Images that tell: with objects of these classes."""
    return sum(int(one.matches.objects[rows].any(axis=0).sum()) for one, rows in scored)


def _forgetting(base: _Scored, ap: float) -> dict[str, float | None]:
    """With its 95 % interval; the images of each set are drawn on their own."""
    if _images(base) < LEAST_IMAGES:
        return {"ap": ap, "low": None, "high": None}
    weights = [
        resample(len(one.matches.image_ids), REPLICATES, place)
        for place, (one, _) in enumerate(base)
    ]
    before, after = _ap(base, "before", weights), _ap(base, "matches", weights)
    assert before is not None and after is not None
    low, high = interval(mean_of_classes(before) - mean_of_classes(after))
    return {"ap": ap, "low": low, "high": high}


def extension_lines(extension: Mapping[str, Any]) -> list[str]:
    """What is told of an extended model, of masks or, of a model without, of boxes.

    Args:
        extension: as it stands in ``evaluation.json``, which keeps these lines, too.
    """
    task = next((task for task in _KINDS if task in extension), None)
    if task is None:
        return []
    figures, base, novel = extension[task], extension["base_classes"], extension["novel_classes"]
    scored, kind, ap = figures["scored"], _KINDS[task], figures["novel"]
    known = "in no set of DATASETS.TEST" if ap is None else f"{kind} AP {number(ap)}"
    lines = (
        (True, f"base classes ({_share(scored['base'], base)}): {_base_words(figures, kind)}"),
        (novel, f"novel classes ({_share(scored['novel'], novel)}): {known}"),
        (
            None not in (figures["all"], figures["harmonic_mean"]),
            f"all ({_share(scored['base'] + scored['novel'], base + novel)}): {kind} AP "
            f"{number(figures['all'])}; harmonic mean of base and novel "
            f"{number(figures['harmonic_mean'])}",
        ),
    )
    return [line for holds, line in lines if holds]


def _share(scored: int, known: int) -> str:
    """Of the classes that the model knows, those that the test sets have objects of."""
    return str(known) if scored in (0, known) else f"{scored} of {known}"


def _base_words(figures: Mapping[str, Any], kind: str) -> str:
    if figures["base"] is None:
        return "in no test set; DATASETS.TEST_BASE names sets that annotate them"
    now, lost = f"{kind} AP {number(figures['base'])}", figures["forgetting"]
    if lost is None:
        return f"{now}; what was forgotten is not known without the source model"
    return f"{now}, before {number(figures['before'])}: {_lost_words(lost, figures['images'])}"


def _lost_words(lost: Mapping[str, Any], images: int) -> str:
    ap, low, high = lost["ap"], lost["low"], lost["high"]
    of = plural(images, "image")
    if low is None or high is None:
        return f"forgot {number(ap)}; {of} cannot tell how surely"
    if low == high == 0:
        return "nothing is forgotten"
    more = round(ap, 1) < 0
    size, bounds = number(abs(ap)), (-high, -low) if more else (low, high)
    between = f"({number(bounds[0])} to {number(bounds[1])})"
    if low > 0 or high < 0:
        return f"{'gained' if more else 'forgot'} {size} {between}"
    return f"{size} {'more' if more else 'less'} {between}, which {of} cannot tell from nothing"


def extension_of(cfg: CfgNode, model: list[str]) -> dict[str, Any]:
    """What ``evaluation.json`` says of base and novel classes, in the main process; the others help
    to compute it."""
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
    files = truth_file(folder), folder / RESULTS_FILE
    matches = match_detections(*files, task, detection_limit(cfg))
    names = _model_classes(cfg, model, dataset)
    numbers = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id") or {}
    classes = tuple(names[numbers.get(int(i), int(i))] for i in matches.category_ids)
    return MatchedSet(classes, matches, before.get(task))
