"""Why AP is low: one sentence, then the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from transfer_maskrcnn.evaluation.explain.cause import Cause
from transfer_maskrcnn.evaluation.explain.causes import rank_causes
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures, measure
from transfer_maskrcnn.evaluation.explain.mistakes import KINDS, NOBODY, Mistakes
from transfer_maskrcnn.evaluation.explain.notes import notes
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps, Record, find_overlaps
from transfer_maskrcnn.evaluation.explain.words import sentence

#: of each kind of mistake
EXAMPLES = 4
_LOOKED_AT = 400  # for examples of different images


@dataclass(frozen=True)
class Example:
    """One mistake: the place of its detection in the results, and of its object among the
    annotations of the ground truth; None where it has none."""

    image_id: Any
    detection: int | None
    object: int | None


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found.

    Attributes:
        sentence: the first of ``causes`` in words, and what to try.
        causes: by what to mend first; empty where nothing is to repair.
        notes: sentences about what the figures do not say by themselves.
        examples: kind of mistake -> some of them, those of the highest score (missed: the largest).
    """

    sentence: str
    causes: tuple[Cause, ...]
    notes: tuple[str, ...]
    figures: Figures
    examples: dict[str, tuple[Example, ...]]

    def as_json(self) -> dict[str, Any]:
        """Plain values, with what each kind of mistake is."""
        return {**asdict(self), "kinds": KINDS}


def explain(
    truth: Record, results: Sequence[Record], *, task: str, facts: Facts | None = None
) -> Explanation:
    """Separate what keeps AP from 100.

    AP gained is that of AP50, as in TIDE (https://arxiv.org/abs/2008.08115); for "segm" matching is
    that of masks, kinds of mistakes that of boxes, so that a bad mask is told from a bad box; see
    :mod:`mistakes <transfer_maskrcnn.evaluation.explain.mistakes>` for what else differs from TIDE.

    Args:
        truth: COCO ground truth.
        results: COCO results: "bbox" as XYWH in pixels, for "segm" also masks. May be empty.
        task: "bbox" or "segm".
        facts: settings of the evaluation; None where nothing is known.

    Raises:
        DatasetError: a result is of an image or a category that the ground truth lacks.
    """
    facts = facts or Facts()
    overlaps = find_overlaps(truth, results, task)
    figures, mistakes = measure(overlaps, task, facts)
    causes = rank_causes(figures, facts)
    return Explanation(
        sentence=sentence(figures, facts, causes),
        causes=tuple(causes),
        notes=tuple(notes(figures, facts)),
        figures=figures,
        examples=_examples(truth, results, overlaps, mistakes),
    )


def _examples(
    truth: Record, results: Sequence[Record], overlaps: Overlaps, mistakes: Mistakes
) -> dict[str, tuple[Example, ...]]:
    annotations = truth.get("annotations", [])
    found = {}
    for place, kind in enumerate(KINDS):
        if kind == "missed":
            missed = np.flatnonzero(mistakes.missed)
            largest = missed[np.argsort(-overlaps.object_area[missed], kind="stable")][
                :_LOOKED_AT
            ].tolist()
            every = [Example(annotations[o]["image_id"], None, o) for o in largest]
        else:
            every = [
                Example(
                    results[overlaps.detection_place[d]]["image_id"],
                    int(overlaps.detection_place[d]),
                    None if mistakes.about[d] == NOBODY else int(mistakes.about[d]),
                )
                for d in np.flatnonzero(mistakes.kind == place)[:_LOOKED_AT].tolist()
            ]
        if every:
            found[kind] = tuple(_of_many_images(every))
    return found


def _of_many_images(examples: Sequence[Example]) -> list[Example]:
    """The first of each image, then the others."""
    first = {example.image_id: example for example in reversed(examples)}
    chosen = [e for e in examples if first[e.image_id] is e][:EXAMPLES]
    return chosen + [e for e in examples if first[e.image_id] is not e][: EXAMPLES - len(chosen)]
