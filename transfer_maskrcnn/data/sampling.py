"""Which images are drawn, and how often: a part of them, or those of rare classes more often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch import Tensor

from transfer_maskrcnn.errors import ConfigError

DatasetDicts = Sequence[dict[str, Any]]
DEFAULT_SAMPLER = "TrainingSampler"
IMBALANCE_KEY = "DATALOADER.REPEAT_IMBALANCE"


def class_counts(dataset_dicts: DatasetDicts, classes: int) -> list[int]:
    """Instances of each of so many classes; crowds, which training leaves out, do not count."""
    counts = Counter(
        annotation["category_id"] for record in dataset_dicts for annotation in _single(record)
    )
    return [counts[i] for i in range(classes)]


def _single(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def imbalance(counts: Sequence[int]) -> float:
    """The largest count divided by the smallest that is not 0; 1 where there is none."""
    present = [count for count in counts if count]
    return max(present) / min(present) if present else 1.0


def repeat_factors(dataset_dicts: DatasetDicts, threshold: float) -> Tensor:
    """How often each image is drawn in an epoch, from 1: as the rarest class in it demands.

    A class in a share ``f`` of the images demands ``max(1, sqrt(threshold / f))``
    (https://arxiv.org/abs/1908.03195, appendix B.2).

    Args:
        dataset_dicts: detectron2's.
        threshold: share of images below which a class is repeated; :func:`square_root_threshold`.

    Returns:
        float32, one number an image.
    """
    records = [{"annotations": _single(record)} for record in dataset_dicts]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)


def square_root_threshold(dataset_dicts: DatasetDicts) -> float:
    """The share of images that the most widespread class is in: the threshold for small datasets.

    Detectron2's default, 0, repeats nothing, and LVIS' 0.001 nothing in fewer than 1,000 images.
    With this one, the ratio between the images of any two classes becomes about its square root,
    whatever the number of images and classes (square-root sampling,
    https://arxiv.org/abs/1805.00932): 100 times fewer become 10 times fewer. Full balance would
    show the few images of a rare class so often that they are learnt by heart.
    """
    images = Counter(
        category
        for record in dataset_dicts
        for category in {a["category_id"] for a in _single(record)}
    )
    return max(images.values(), default=0) / max(len(dataset_dicts), 1)


def choose_sampler(
    dataset_dicts: DatasetDicts,
    class_names: Sequence[str],
    sampler_name: str,
    limit: float,
    seed: int,
) -> tuple[RepeatFactorTrainingSampler | None, str]:
    """A sampler that repeats the images of rare classes, where they are rare and none was chosen.

    Args:
        dataset_dicts: what is trained on.
        class_names: in the order of ``category_id``.
        sampler_name: ``DATALOADER.SAMPLER_TRAIN``; one that is not detectron2's default is chosen.
        limit: the imbalance of instances up to which all images are drawn alike; 0: any.
        seed: the same in all processes.

    Returns:
        the sampler and why, for the log; None and "" where ``sampler_name`` stays.

    Raises:
        ConfigError: a negative limit.
    """
    if not 0 <= limit < math.inf:
        raise ConfigError(f"{IMBALANCE_KEY} is {limit}; expected 0 (off) or a number, such as 10")
    counts = class_counts(dataset_dicts, len(class_names))
    if sampler_name != DEFAULT_SAMPLER or limit == 0 or imbalance(counts) <= limit:
        return None, ""
    factors = repeat_factors(dataset_dicts, square_root_threshold(dataset_dicts))
    if factors.max() == 1:  # every class is in as many images; drawing them oftener changes nothing
        return None, ""
    most = max(range(len(counts)), key=lambda i: counts[i])
    least = min((i for i, count in enumerate(counts) if count), key=lambda i: counts[i])
    message = (
        f"class {class_names[most]!r} has {counts[most]} instances, {class_names[least]!r} "
        f"{counts[least]}, more than {limit:g} times fewer: images of rare classes are drawn up to "
        f"{factors.max():.1f} times as often (RepeatFactorTrainingSampler). {IMBALANCE_KEY} 0 "
        "switches this off"
    )
    return RepeatFactorTrainingSampler(factors, seed=seed), message


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
