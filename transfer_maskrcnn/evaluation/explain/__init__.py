"""Why AP is low: one sentence, then the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

from termcolor import colored

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.errors import DatasetError, TransferError
from transfer_maskrcnn.evaluation.bootstrap import Interval
from transfer_maskrcnn.evaluation.explain.causes import (
    Blame,
    Facts,
    Figures,
    measure,
    rank_causes,
    read_facts,
)
from transfer_maskrcnn.evaluation.explain.images import examples, worst_images
from transfer_maskrcnn.evaluation.explain.tide import Cause, Record, find_mistakes, read_scene
from transfer_maskrcnn.evaluation.explain.words import (
    KIND_WORDS,
    SURE_WORDS,
    image_words,
    notes,
    sentence,
    task_table,
    worst_table,
)
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.text import wrapped

EXPLANATION_FILE = "explanation.json"
RESULTS_FILE = "coco_instances_results.json"


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found.

    Attributes:
        sentence: the first of ``causes`` in words, and what to try.
        causes: by what to mend first; empty where nothing is to repair.
        notes: sentences about what the figures do not say by themselves.
        examples: kind of mistake -> some of them, those of the highest score (missed: the largest):
            ``image_id``, ``file_name`` as in the ground truth, the place of the ``detection`` in
            the results, and of the ``object`` among the annotations of the ground truth; None
            where there is none.
        worst_images: those that cost most AP; see :func:`worst_images`, and "words".
    """

    sentence: str
    causes: Sequence[Blame]
    notes: Sequence[str]
    figures: Figures
    examples: Mapping[Cause, Sequence[Record]]
    worst_images: Sequence[Record]


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
    files = {image["id"]: str(image.get("file_name", "")) for image in truth["images"]}
    return Explanation(
        sentence=sentence(figures, facts, causes),
        causes=causes,
        notes=list(notes(figures, facts)),
        figures=figures,
        examples=examples(scene, mistakes, files),
        worst_images=[
            {**image, "words": image_words(image)} for image in worst_images(scene, mistakes, files)
        ],
    )


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
    words = {"kinds": KIND_WORDS, "worst_images_are": SURE_WORDS}
    content = {task: {**asdict(one), **words} for task, one in explained.items()}
    write_json(folder / EXPLANATION_FILE, content)
    return explained


def read_told(folder: Path) -> tuple[str, dict[str, Interval]]:
    """Of the ``explanation.json`` in ``folder`` the sentence, and task -> interval of AP, where
    there is one; "" and {} without a file that is whole."""
    try:
        content = read_json(folder / EXPLANATION_FILE, dict, {})
        known = {task: one["figures"]["ap_interval"] for task, one in content.items()}
        told = str(next(iter(content.values()))["sentence"])
        return told, {task: Interval(*ends) for task, ends in known.items() if None not in ends}
    except (TransferError, LookupError, StopIteration, TypeError):
        return "", {}


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
    lines += worst_table(first.worst_images)
    lines += [""] * bool(first.notes) + [wrapped(note, indent="") for note in first.notes]
    return "\n".join(lines)
