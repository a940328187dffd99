"""The training data loader: detectron2's samplers and mapper, resumable at any batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

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
from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.data.datasets import Records
from transfer_maskrcnn.data.registry import dataset_facts
from transfer_maskrcnn.data.sampling import choose_sampler, nested_subset
from transfer_maskrcnn.engine.rng import derive_seed, seeded
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.incremental.classes import in_model_classes
from transfer_maskrcnn.incremental.decide import without_labels
from transfer_maskrcnn.incremental.pseudo_labels import with_pseudo_labels

logger = logging.getLogger(__name__)

Draw = tuple[int, int]  # how many images this process drew before, and the image's index
Shape = tuple[int, int]  # width, height of an image in pixels


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
    """How many images :func:`training_dicts` gives, without detectron2's tables in the log."""
    if cfg.DATASETS.TRAIN_FRACTION == 1:
        facts = [dataset_facts(name) for name in cfg.DATASETS.TRAIN]
        filtered = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        return sum(f.annotated if filtered else f.images for f in facts)
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    return len(nested_subset(records, cfg.DATASETS.TRAIN_FRACTION, max(cfg.SEED, 0)))


def training_dicts(cfg: CfgNode, spec: RunSpec) -> list[dict[str, Any]]:
    """The images a run trains on: ``DATASETS.TRAIN``, or ``DATASETS.TRAIN_FRACTION`` of them.

    Their ``category_id`` are the model's; ``MODEL.TRANSFER.PSEUDO_LABELS`` adds annotations.

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
    records = in_model_classes(cfg, spec.classes, cfg.DATASETS.TRAIN[0], subset)
    labelled = cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED
    return with_pseudo_labels(cfg, spec, records) if labelled else records


def _check_proposals_stay(names: Sequence[str]) -> None:
    for name in names:
        if isinstance(DatasetCatalog.get(name), Records):
            raise ConfigError(
                f"MODEL.LOAD_PROPOSALS writes into the dicts of {name!r}, but the dataset cache "
                "makes them anew at each access; switch it off with the environment variable "
                'TRANSFER_CACHE=""'
            )


def build_train_loader(
    cfg: CfgNode, spec: RunSpec, mapper: Callable[[dict[str, Any]], Any]
) -> DataLoader[Any]:
    """The loader of a resolved ``cfg``; its ``batch_sampler`` is a :class:`Batches`."""
    seed = spec.seed
    dicts = training_dicts(cfg, spec)
    # The rarest pseudo-label is the likeliest to be wrong: how often an image is drawn is decided
    # by what people annotated.
    own = [without_labels(record) for record in dicts]
    sampler, why = choose_sampler(
        own,
        spec.classes,
        cfg.DATALOADER.SAMPLER_TRAIN,
        cfg.DATALOADER.REPEAT_IMBALANCE,
        seed,
    )
    if why:
        logger.info(why)
    with seeded(seed):  # detectron2's samplers draw their seed from numpy
        parts = train_loader_parts(cfg, mapper=mapper, dataset=own, sampler=sampler)
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
