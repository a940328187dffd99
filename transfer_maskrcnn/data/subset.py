"""A part of a dataset that keeps the proportions of its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_maskrcnn.errors import ConfigError


def nested_subset(
    dataset_dicts: Sequence[dict[str, Any]], fraction: float, seed: int
) -> list[dict[str, Any]]:
    """About ``fraction`` of the images, in their order; classes keep their proportions.

    Every image is ranked once: images whose rarest class is the same share the ranks evenly, and
    the first image of each class comes before all others, so that no class is missing. A subset is
    the images of the lowest ranks: of one seed, a smaller subset lies within a larger one.

    Raises:
        ConfigError: ``fraction`` is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(
            f"DATASETS.TRAIN_FRACTION is {fraction}; expected a number above 0 and at most 1"
        )
    if fraction == 1:
        return list(dataset_dicts)
    ranks = _ranks(dataset_dicts, np.random.default_rng(seed))
    first = sum(rank < 0 for rank in ranks)
    wanted = max(first, round(fraction * len(dataset_dicts)), 1)
    chosen = sorted(np.argsort(ranks, kind="stable")[:wanted])
    return [dataset_dicts[i] for i in chosen]


def _ranks(dataset_dicts: Sequence[dict[str, Any]], rng: np.random.Generator) -> list[float]:
    """A number per image in [0, 1), evenly spread within a stratum; -1 for each class's first."""
    classes = [
        {a["category_id"] for a in d.get("annotations", ()) if not a.get("iscrowd", 0)}
        for d in dataset_dicts
    ]
    images_of = Counter(c for present in classes for c in present)
    strata: dict[int, list[int]] = {}
    for i in rng.permutation(len(dataset_dicts)):
        rarest = min(classes[i], key=lambda c: (images_of[c], c), default=-1)
        strata.setdefault(rarest, []).append(int(i))
    ranks = [0.0] * len(dataset_dicts)
    for stratum in sorted(strata):
        members = strata[stratum]
        offset = rng.uniform()
        for place, i in enumerate(members):
            ranks[i] = (place + offset) / len(members)
    seen: set[int] = set()
    for i in sorted(range(len(ranks)), key=ranks.__getitem__):
        if classes[i] - seen:
            seen |= classes[i]
            ranks[i] = -1.0
    return ranks
