"""The training data loader: which images are drawn, how often, and in which batches.

Samplers and mapper are detectron2's; the stream of batches can begin at any of them.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from transfer_maskrcnn.compat import train_loader_parts
from transfer_maskrcnn.data.datasets import Labels, Record, Records, labels_of
from transfer_maskrcnn.data.registry import dataset_facts
from transfer_maskrcnn.errors import ConfigError

logger = logging.getLogger(__name__)

Draw = tuple[int, int]  # how many images this process drew before, and the image's index
Shape = tuple[int, int]  # width, height of an image in pixels
_IMBALANCE_KEY = "DATALOADER.REPEAT_IMBALANCE"


def derive_seed(*numbers: int) -> int:
    """One 32-bit seed from several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed ``random``, numpy and torch on the CPU inside the block; outside, they go on as before.

    The generators of CUDA devices are left alone: data loaders use none.
    """
    # detectron2's samplers and augmentations draw from numpy's global generator
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


class Batches(Sampler[list[Draw]]):
    """An endless stream of batches of this process, which can begin at any of them.

    Detectron2's loader groups by aspect ratio what has been loaded, so to find out what the 1,000th
    batch holds it must load the 999 before it. Grouping the indices needs no image.

    Attributes:
        start: how many batches to pass over; set it before the first is drawn.
    """

    def __init__(
        self, indices: Sampler[int], batch_size: int, shapes: Sequence[Shape] | None = None
    ):
        """
        Args:
            indices: an endless stream of image indices, one of detectron2's training samplers.
            batch_size: images a batch of this process.
            shapes: of all images; with them, a batch holds only upright or only wide images.
        """
        self.start = 0
        self._indices = indices
        self._batch_size = batch_size
        self._shapes = shapes

    def __iter__(self) -> Iterator[list[Draw]]:
        return islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[Draw]]:
        groups: tuple[list[Draw], list[Draw]] = ([], [])
        for draw in enumerate(self._indices):
            wide = self._shapes is not None and self._shapes[draw[1]][0] > self._shapes[draw[1]][1]
            group = groups[wide]
            group.append(draw)
            if len(group) == self._batch_size:
                yield group[:]
                group.clear()


class SeededImages(Dataset[Any]):
    """Maps each draw with random numbers of its own: the same in any worker, and after --resume."""

    def __init__(
        self, dicts: list[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any], seed: int
    ):
        self.dicts = DatasetFromList(dicts, copy=False)  # serialised: workers share the memory
        self.mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, draw: Draw) -> Any:
        number, index = draw
        with seeded(derive_seed(self._seed, comm.get_rank(), number)):
            return self.mapper(self.dicts[index])


def training_images(cfg: CfgNode) -> int:
    """How many images :func:`training_records` gives, without detectron2's tables in the log."""
    labels = [image for name in cfg.DATASETS.TRAIN for image in dataset_facts(name).labels]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        labels = [image for image in labels if image]
    return len(nested_subset(labels, cfg.DATASETS.TRAIN_FRACTION, max(cfg.SEED, 0)))


def training_records(cfg: CfgNode) -> list[Record]:
    """The images a run trains on: ``DATASETS.TRAIN``, or ``DATASETS.TRAIN_FRACTION`` of them.

    Raises:
        ConfigError: ``MODEL.LOAD_PROPOSALS`` with a dataset that comes from the cache.
    """
    cached = [n for n in cfg.DATASETS.TRAIN if isinstance(DatasetCatalog.get(n), Records)]
    if cfg.MODEL.LOAD_PROPOSALS and cached:
        raise ConfigError(
            f"MODEL.LOAD_PROPOSALS writes into the dicts of {cached[0]!r}, but the dataset cache "
            "makes them anew at each access; switch it off with the environment variable "
            'TRANSFER_CACHE=""'
        )
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    fraction = cfg.DATASETS.TRAIN_FRACTION
    labels = labels_of(dicts) if fraction != 1 else [()] * len(dicts)
    subset = [dicts[i] for i in nested_subset(labels, fraction, max(cfg.SEED, 0))]
    if len(subset) < len(dicts):
        logger.info(
            "DATASETS.TRAIN_FRACTION %g: training on %d of %d images",
            *(fraction, len(subset), len(dicts)),
        )
    return subset


def nested_subset(labels: Labels, fraction: float, seed: int) -> list[int]:
    """The places of about ``fraction`` of the images; classes keep their proportions.

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
        return list(range(len(labels)))
    ranks = _ranks([set(image) for image in labels], np.random.default_rng(seed))
    first = sum(rank < 0 for rank in ranks)
    wanted = max(first, round(fraction * len(labels)), 1)
    return np.sort(np.argsort(ranks, kind="stable")[:wanted]).tolist()


def _ranks(classes: Sequence[set[int]], rng: np.random.Generator) -> list[float]:
    """A number per image in [0, 1), evenly spread within a stratum; -1 for each class's first."""
    images_of = Counter(c for present in classes for c in present)
    strata: dict[int, list[int]] = {}
    for i in rng.permutation(len(classes)).tolist():
        rarest = min(classes[i], key=lambda c: (images_of[c], c), default=-1)
        strata.setdefault(rarest, []).append(i)
    ranks = [0.0] * len(classes)
    for _, members in sorted(strata.items()):
        offset = rng.uniform()
        for place, i in enumerate(members):
            ranks[i] = (place + offset) / len(members)
    seen: set[int] = set()
    for i in sorted(range(len(ranks)), key=ranks.__getitem__):
        if classes[i] - seen:
            seen |= classes[i]
            ranks[i] = -1.0
    return ranks


def imbalance(counts: Sequence[int]) -> float:
    """The largest count divided by the smallest that is not 0; 1 where there is none."""
    present = [count for count in counts if count]
    return max(present) / min(present) if present else 1.0


def repeat_factors(labels: Labels) -> Tensor:
    """How often each image is drawn in an epoch, from 1: as the rarest class in it demands.

    A class demands the square root of how many times fewer images it is in than the most widespread
    one, whatever the number of images and classes (square-root sampling,
    https://arxiv.org/abs/1805.00932): 100 times fewer become 10 times fewer. Full balance would
    show the few images of a rare class so often that they are learnt by heart. (In the terms of
    https://arxiv.org/abs/1908.03195, appendix B.2, the threshold is the share of images that the
    most widespread class is in; LVIS' 0.001 repeats nothing in fewer than 1,000 images.)

    Returns:
        float32, one number an image.
    """
    images_of = Counter(c for image in labels for c in set(image))
    most = max(images_of.values(), default=0)
    factors = [max((math.sqrt(most / images_of[c]) for c in i), default=1.0) for i in labels]
    return torch.tensor(factors, dtype=torch.float32)


def choose_sampler(
    labels: Labels, class_names: Sequence[str], sampler_name: str, limit: float, seed: int
) -> tuple[RepeatFactorTrainingSampler | None, str]:
    """A sampler that repeats the images of rare classes, where they are rare and none was chosen.

    Args:
        labels: of what is trained on.
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
        raise ConfigError(f"{_IMBALANCE_KEY} is {limit}; expected 0 (off) or a number, such as 10")
    counts = Counter(c for image in labels for c in image).most_common()
    ratio = imbalance([count for _, count in counts])
    if sampler_name != "TrainingSampler" or limit == 0 or ratio <= limit:
        return None, ""
    factors = repeat_factors(labels)
    if factors.max() == 1:  # every class is in as many images; drawing them oftener changes nothing
        return None, ""
    (most, largest), (least, smallest) = counts[0], counts[-1]
    message = (
        f"class {class_names[most]!r} has {largest} instances, {class_names[least]!r} "
        f"{smallest}, more than {limit:g} times fewer: images of rare classes are drawn up to "
        f"{factors.max():.1f} times as often (RepeatFactorTrainingSampler). {_IMBALANCE_KEY} 0 "
        "switches this off"
    )
    return RepeatFactorTrainingSampler(factors, seed=seed), message


def build_train_loader(
    cfg: CfgNode,
    dicts: list[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    classes: Sequence[str],
    drawn_by: list[dict[str, Any]] | None = None,
) -> DataLoader[Any]:
    """The loader of a resolved ``cfg``; its ``batch_sampler`` is a :class:`Batches`.

    Args:
        dicts: the images.
        mapper: makes model input of one of them.
        classes: the model's.
        drawn_by: the same images with the annotations that decide how often each is drawn; None:
            those of ``dicts``.
    """
    seed, drawn_by = int(cfg.SEED), dicts if drawn_by is None else drawn_by
    limit = cfg.DATALOADER.REPEAT_IMBALANCE
    labels = labels_of(drawn_by) if limit else ()
    sampler, why = choose_sampler(labels, classes, cfg.DATALOADER.SAMPLER_TRAIN, limit, seed)
    if why:
        logger.info(why)
    with seeded(seed):  # detectron2's samplers draw their seed from numpy
        parts = train_loader_parts(cfg, mapper=mapper, dataset=drawn_by, sampler=sampler)
    shapes = [(d["width"], d["height"]) for d in dicts] if parts["aspect_ratio_grouping"] else None
    batch_size = parts["total_batch_size"] // comm.get_world_size()
    batches = Batches(parts["sampler"], batch_size, shapes)
    return DataLoader(
        SeededImages(dicts, mapper, seed),
        batch_sampler=batches,
        num_workers=parts["num_workers"],
        # Starting it draws a number. Taken from the global generator, it would give the first step
        # after --resume other random numbers than the same step of an undisturbed run.
        generator=torch.Generator().manual_seed(seed),
        collate_fn=trivial_batch_collator,
    )
