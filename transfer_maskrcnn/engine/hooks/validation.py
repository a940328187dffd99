"""The training losses on images that are not trained on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.data import DataLoader

from transfer_maskrcnn.compat import BatchNorm, Dropout
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.incremental.classes import in_model_classes

logger = logging.getLogger(__name__)


def losses_on_test_sets(cfg: CfgNode, classes: Sequence[str], model: nn.Module) -> dict[str, float]:
    """:func:`validation_losses` on all of ``DATASETS.TEST`` together."""
    loaders = (build_validation_loader(cfg, classes, name) for name in cfg.DATASETS.TEST)
    return validation_losses(model, chain.from_iterable(loaders))


def build_validation_loader(
    cfg: CfgNode, classes: Sequence[str], dataset_name: str
) -> DataLoader[Any]:
    """The images of a test set at test size, with annotations; empty ones as in training."""
    mapper = CheckedDatasetMapper(
        cfg, is_train=True, augmentations=build_augmentation(cfg, is_train=False)
    )
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    dicts = get_detection_dataset_dicts(dataset_name, filter_empty=filter_empty)
    dicts = in_model_classes(cfg, classes, dataset_name, dicts)
    workers = cfg.DATALOADER.NUM_WORKERS
    loader: DataLoader[Any] = build_detection_test_loader(dicts, mapper=mapper, num_workers=workers)
    return loader


@contextmanager
def giving_losses(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` gives losses, but updates no norm statistics and drops nothing out."""
    before = {module: module.training for module in model.modules()}
    model.train()
    for module in model.modules():
        if isinstance(module, (BatchNorm, Dropout)):
            module.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def validation_losses(
    model: nn.Module, batches: Iterable[list[dict[str, Any]]], seed: int = 0
) -> dict[str, float]:
    """Mean losses per batch: ``val_loss`` and its parts, ``val_loss_mask`` and so on.

    The model's random choices (which anchors and proposals are scored) come from ``seed``, the same
    at every call, so that two calls differ by the weights alone; training's generators, norm
    statistics and modes stay as they are.

    Args:
        model: a detectron2 model; a DistributedDataParallel one is called without its wrapper.
        batches: images with ``instances``; every process may have its own share.
        seed: see above.
    """
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    sums: dict[str, float] = defaultdict(float)
    count = 0
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices=cuda),
        seeded(seed),
        torch.no_grad(),
        giving_losses(inner),
        EventStorage(),  # detectron2's heads log their accuracy into the current one
    ):
        if cuda:
            torch.cuda.manual_seed(seed)
        for batch in batches:
            for name, value in inner(batch).items():
                sums[name] += float(value)
            count += 1
    return _mean_over_processes(sums, count)


def _mean_over_processes(sums: dict[str, float], count: int) -> dict[str, float]:
    shares = comm.all_gather((dict(sums), count))
    images = sum(share[1] for share in shares)
    if not images:
        return {}
    names = sorted({name for share in shares for name in share[0]})
    means = {
        f"val_{name}": sum(share[0].get(name, 0.0) for share in shares) / images for name in names
    }
    return {"val_loss": sum(means.values()), **means}
