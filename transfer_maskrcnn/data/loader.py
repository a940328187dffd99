"""The training data loader: detectron2's samplers and mapper, resumable at any batch."""

from __future__ import annotations

import logging
import random
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
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from transfer_maskrcnn.compat import train_loader_parts
from transfer_maskrcnn.data.datasets import Records
from transfer_maskrcnn.data.registry import dataset_facts
from transfer_maskrcnn.data.sampling import choose_sampler, nested_subset
from transfer_maskrcnn.errors import ConfigError

logger = logging.getLogger(__name__)

Draw = tuple[int, int]  # how many images this process drew before, and the image's index
Shape = tuple[int, int]  # width, height of an image in pixels


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
    if cfg.DATASETS.TRAIN_FRACTION == 1:
        facts = [dataset_facts(name) for name in cfg.DATASETS.TRAIN]
        filtered = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        return sum(f.annotated if filtered else f.images for f in facts)
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    return len(nested_subset(records, cfg.DATASETS.TRAIN_FRACTION, max(cfg.SEED, 0)))


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """The images a run trains on: ``DATASETS.TRAIN``, or ``DATASETS.TRAIN_FRACTION`` of them.

    Raises:
        ConfigError: ``MODEL.LOAD_PROPOSALS`` with a dataset that comes from the cache.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        _check_proposals_stay(cfg.DATASETS.TRAIN)
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        if cfg.MODEL.KEYPOINT_ON
        else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    subset = nested_subset(dicts, cfg.DATASETS.TRAIN_FRACTION, max(cfg.SEED, 0))
    if len(subset) < len(dicts):
        logger.info(
            "DATASETS.TRAIN_FRACTION %g: training on %d of %d images",
            *(cfg.DATASETS.TRAIN_FRACTION, len(subset), len(dicts)),
        )
    return subset


def _check_proposals_stay(names: Sequence[str]) -> None:
    for name in names:
        if isinstance(DatasetCatalog.get(name), Records):
            raise ConfigError(
                f"MODEL.LOAD_PROPOSALS writes into the dicts of {name!r}, but the dataset cache "
                "makes them anew at each access; switch it off with the environment variable "
                'TRANSFER_CACHE=""'
            )


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
    sampler, why = choose_sampler(
        drawn_by,
        classes,
        cfg.DATALOADER.SAMPLER_TRAIN,
        cfg.DATALOADER.REPEAT_IMBALANCE,
        seed,
    )
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
