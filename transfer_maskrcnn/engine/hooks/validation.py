"""The training losses on images that are not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.incremental.classes import in_model_classes
from transfer_maskrcnn.surgery.names import unwrapped


def losses_on_test_sets(cfg: CfgNode, spec: RunSpec, model: nn.Module) -> dict[str, float]:
    """:func:`validation_losses` on all of ``DATASETS.TEST`` together."""
    loaders = (build_validation_loader(cfg, spec, name) for name in cfg.DATASETS.TEST)
    return validation_losses(model, chain.from_iterable(loaders))


def build_validation_loader(cfg: CfgNode, spec: RunSpec, dataset: str) -> DataLoader[Any]:
    """The images of a test set at test size, with annotations; empty ones as in training."""
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = CheckedDatasetMapper(cfg, is_train=True, augmentations=augmentations)
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    dicts = get_detection_dataset_dicts(dataset, filter_empty=filter_empty)
    dicts = in_model_classes(cfg, spec.classes, dataset, dicts)
    workers = cfg.DATALOADER.NUM_WORKERS
    loader: DataLoader[Any] = build_detection_test_loader(dicts, mapper=mapper, num_workers=workers)
    return loader


@contextmanager
def giving_losses(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` gives losses, but updates no norm statistics and drops nothing out."""
    before = {module: module.training for module in model.modules()}
    model.train()
    for module in before:
        module.training &= not isinstance(module, (BatchNorm, Dropout))
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
    model = unwrapped(model)
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices=cuda),
        seeded(seed),
        torch.no_grad(),
        giving_losses(model),
        EventStorage(),  # detectron2's heads log their accuracy into the current one
    ):
        if cuda:
            torch.cuda.manual_seed(seed)
        own = [{f"val_{k}": float(v) for k, v in model(batch).items()} for batch in batches]
    rows = list(chain.from_iterable(comm.all_gather(own)))
    names = sorted({name for row in rows for name in row})
    means = {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}
    return {"val_loss": sum(means.values()), **means} if rows else {}
