"""The single mistakes and the images they are in: examples of each kind, and the worst images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_maskrcnn.evaluation.bootstrap import average_precision, bootstrap_ap
from transfer_maskrcnn.evaluation.explain.tide import (
    KINDS,
    NOBODY,
    Cause,
    Mistakes,
    Record,
    Scene,
)

#: of each kind of mistake
EXAMPLES = 4
WORST_IMAGES = 12
#: score of a detection that counts among the mistakes of an image
SURE = 0.5
_CANDIDATES = 100  # images that are left out one after the other


def examples(scene: Scene, mistakes: Mistakes, files: Mapping[Any, str]) -> dict[Cause, Any]:
    """Kind of mistake -> :data:`EXAMPLES` of it, of as many images as can be."""
    rows, kinds, _ = _listed(scene, mistakes)
    ids, found = scene.coco.image_ids.tolist(), {}
    for place in np.unique(kinds).tolist():
        of_kind = rows[:, kinds == place]
        first = np.sort(np.unique(of_kind[0], return_index=True)[1])
        others = np.setdiff1d(np.arange(of_kind.shape[1]), first)
        found[KINDS[place]] = [
            {
                "image_id": ids[image],
                "file_name": files[ids[image]],
                "detection": None if detection == NOBODY else detection,
                "object": None if object_ == NOBODY else object_,
            }
            for image, detection, object_ in of_kind.T[np.append(first, others)[:EXAMPLES]].tolist()
        ]
    return found


def worst_images(scene: Scene, mistakes: Mistakes, files: Mapping[Any, str]) -> Sequence[Record]:
    """The images without which AP would be highest, by what it would gain.

    Of many images those are tried that have most mistakes, a detection's by its score.

    Returns:
        of each ``image_id``, ``file_name``, ``gain`` in points of AP, the number of its
        ``objects``, and ``mistakes``: kind -> how many objects are missed, and how many detections
        of a score of :data:`SURE` or more are wrong.
    """
    rows, kinds, score = _listed(scene, mistakes)
    objects = scene.matches.objects.sum(axis=0)
    weight = np.bincount(rows[0], score, len(objects))
    tried = np.argsort(-weight, kind="stable")[: min(_CANDIDATES, np.count_nonzero(weight))]
    without = np.ones((len(tried), len(objects)), dtype=np.int64)
    without[np.arange(len(tried)), tried] = 0
    gain = bootstrap_ap(scene.coco, without) - average_precision(scene.coco)
    ids = scene.coco.image_ids.tolist()
    return [
        {
            "image_id": ids[image],
            "file_name": files[ids[image]],
            "gain": float(gain[k]),
            "objects": int(objects[image]),
            "mistakes": dict(
                Counter(KINDS[kind].value for kind in kinds[(rows[0] == image) & (score >= SURE)])
            ),
        }
        for k in np.argsort(-gain, kind="stable")[:WORST_IMAGES].tolist()
        for image in [tried[k]]
        if gain[k] > 0
    ]


def _listed(scene: Scene, mistakes: Mistakes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All M mistakes: (3, M) image, detection and object; (M,) kind; (M,) score, 1 of what is
    missed, whose largest come first."""
    missed = np.argsort(-scene.object_area, kind="stable")
    missed = missed[mistakes.missed[missed]]
    wrong = np.flatnonzero(mistakes.kind != NOBODY)
    of_detections = np.stack([scene.matches.image, scene.place, mistakes.about])[:, wrong]
    of_objects = np.stack([scene.object_image[missed], np.full_like(missed, NOBODY), missed])
    kinds = np.append(mistakes.kind[wrong], np.full_like(missed, KINDS.index(Cause.MISSED)))
    score = np.append(scene.matches.score[wrong], np.ones(len(missed)))
    return np.concatenate([of_detections, of_objects], axis=1), kinds, score
