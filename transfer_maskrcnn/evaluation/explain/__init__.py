"""Why AP is low: one sentence, then the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from termcolor import colored

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.errors import DatasetError, TransferError
from transfer_maskrcnn.evaluation.explain.causes import (
    Blame,
    Facts,
    Figures,
    measure,
    rank_causes,
    read_facts,
)
from transfer_maskrcnn.evaluation.explain.tide import (
    KINDS,
    NOBODY,
    Cause,
    Mistakes,
    Record,
    Scene,
    find_mistakes,
    read_scene,
)
from transfer_maskrcnn.evaluation.explain.words import KIND_WORDS, notes, sentence, task_table
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.text import wrapped

EXPLANATION_FILE = "explanation.json"
RESULTS_FILE = "coco_instances_results.json"
#: of each kind of mistake
EXAMPLES = 4


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found.

    Attributes:
        sentence: the first of ``causes`` in words, and what to try.
        causes: by what to mend first; empty where nothing is to repair.
        notes: sentences about what the figures do not say by themselves.
        examples: kind of mistake -> some of them, those of the highest score (missed: the largest):
            ``image_id``, the place of the ``detection`` in the results, and of the ``object`` among
            the annotations of the ground truth; None where there is none.
    """

    sentence: str
    causes: Sequence[Blame]
    notes: Sequence[str]
    figures: Figures
    examples: Mapping[Cause, Sequence[Record]]


def explain(
    truth: Record, results: Sequence[Record], *, task: str, facts: Facts | None = None
) -> Explanation:
    """Separate what keeps AP from 100.

    AP gained is that of AP50, as in TIDE (https://arxiv.org/abs/2008.08115); for "segm" matching is
    that of masks, kinds of mistakes that of boxes, so that a bad mask is told from a bad box; see
    :mod:`tide <transfer_maskrcnn.evaluation.explain.tide>` for what else differs from TIDE.

    Args:
        truth: COCO ground truth.
        results: COCO results: "bbox" as XYWH in pixels, for "segm" also masks. May be empty.
        task: "bbox" or "segm".
        facts: settings of the evaluation; None where nothing is known.

    Raises:
        DatasetError: a result is of an image or a category that the ground truth lacks.
    """
    facts = facts or Facts()
    scene = read_scene(truth, results, task)
    mistakes = find_mistakes(scene)
    boxes = scene if task == "bbox" else read_scene(truth, results, "bbox")
    names = [str(c.get("name", c["id"])) for c in sorted(truth["categories"], key=itemgetter("id"))]
    figures = measure(scene, mistakes, boxes, names, facts)
    causes = rank_causes(figures, facts)
    return Explanation(
        sentence=sentence(figures, facts, causes),
        causes=causes,
        notes=list(notes(figures, facts)),
        figures=figures,
        examples=_examples(scene, mistakes),
    )


def _examples(scene: Scene, mistakes: Mistakes) -> dict[Cause, list[Record]]:
    """Of as many images as can be."""
    missed = np.argsort(-scene.object_area, kind="stable")
    missed = missed[mistakes.missed[missed]]
    of_detections = [scene.matches.image, scene.place, mistakes.about]
    of_objects = [scene.object_image[missed], np.full_like(missed, NOBODY), missed]
    rows = np.concatenate([of_detections, of_objects], axis=1)
    kinds = np.append(mistakes.kind, np.full_like(missed, KINDS.index(Cause.MISSED)))
    ids, found = scene.coco.image_ids.tolist(), {}
    for place in np.unique(kinds[kinds != NOBODY]).tolist():
        of_kind = rows[:, kinds == place].T
        first = np.sort(np.unique(of_kind[:, 0], return_index=True)[1])
        others = np.setdiff1d(np.arange(len(of_kind)), first)
        found[KINDS[place]] = [
            {
                "image_id": ids[image],
                "detection": None if detection == NOBODY else detection,
                "object": None if object_ == NOBODY else object_,
            }
            for image, detection, object_ in of_kind[np.append(first, others)[:EXAMPLES]].tolist()
        ]
    return found


def evaluated_folders(output_dir: Path) -> list[Path]:
    """The folders of ``output_dir/inference`` that hold a ground truth and results, by name.

    Raises:
        TransferError: there is none.
    """
    folders = sorted(
        folder
        for folder in (output_dir / "inference").glob("*")
        if truth_file(folder).is_file() and (folder / RESULTS_FILE).is_file()
    )
    if not folders:
        raise TransferError(
            f"{output_dir}: there is no evaluation, that is no inference/<dataset>/{RESULTS_FILE} "
            "with its ground truth; give the OUTPUT_DIR of a run, or evaluate with "
            f"{typed('train')} --eval-only"
        )
    return folders


def explain_folder(folder: Path) -> dict[str, Explanation]:
    """Explain what is in ``OUTPUT_DIR/inference/<dataset>``, and write ``explanation.json`` there.

    Returns:
        by task: "segm", first, where all detections and objects have masks, and "bbox".

    Raises:
        TransferError: a file is missing, damaged, or of another evaluation than the others.
    """
    truth, results = read_json(truth_file(folder), dict), read_json(folder / RESULTS_FILE, list)
    facts = read_facts(folder)
    try:
        masked = all("segmentation" in one for one in (*truth.get("annotations", []), *results))
        tasks = ["segm", "bbox"] if masked else ["bbox"]
        explained = {task: explain(truth, results, task=task, facts=facts) for task in tasks}
    except TransferError:
        raise
    except Exception as error:  # what is no box or mask makes COCO's code raise anything
        raise DatasetError(
            f"{folder}: the ground truth, the results or what stands beside them is damaged "
            f"({type(error).__name__}: {error}); evaluate again"
        ) from error
    content = {task: {**asdict(one), "kinds": KIND_WORDS} for task, one in explained.items()}
    write_json(folder / EXPLANATION_FILE, content)
    return explained


def read_sentence(folder: Path) -> str:
    """The sentence of the ``explanation.json`` in ``folder``; "" without one that is whole."""
    try:
        content = read_json(folder / EXPLANATION_FILE, dict, {})
        return str(next(iter(content.values()))["sentence"])
    except (TransferError, LookupError, StopIteration, TypeError):
        return ""


def truth_file(folder: Path) -> Path:
    """The ground truth in ``OUTPUT_DIR/inference/<dataset>``."""
    return folder / f"{folder.name}_ground_truth.json"


def explanation_text(dataset: str, explanations: Mapping[str, Explanation]) -> str:
    """For a terminal of 80 columns: the sentence, and the tables of each task."""
    first = next(iter(explanations.values()))
    lines = [colored(wrapped(f"{dataset}: {first.sentence}", indent=""), attrs=["bold"])]
    for explanation in explanations.values():
        title, *table = task_table(explanation.figures)
        own = [] if explanation is first else [wrapped(explanation.sentence, indent="")]
        lines += ["", colored(title, attrs=["bold"]), *own, *table]
    lines += [""] * bool(first.notes) + [wrapped(note, indent="") for note in first.notes]
    return "\n".join(lines)
