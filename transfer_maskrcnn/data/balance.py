"""Classes of very different frequency: how different, and a sampler that repeats the rare ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

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
