"""Evaluation during training, at chosen iterations, kept whatever interrupts the run; and the
training losses on images that are not trained on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.data import DataLoader

from transfer_maskrcnn.compat import BatchNorm, Dropout
from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.data.loader import seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.incremental.classes import in_model_classes
from transfer_maskrcnn.surgery.names import unwrapped

CURVE_FILE = "eval_history.json"
Row = dict[str, Any]


class EvalHistory(HookBase):
    """Evaluates after chosen iterations and after the last, and writes ``eval_history.json``.

    Takes the place of detectron2's EvalHook, which evaluates at multiples of a period only and
    leaves its results among the losses. A row: ``{"iteration": 50, "segm/AP": 12.3, ...}``.

    Attributes:
        rows: all evaluations up to now, those before an interruption, too.
        listeners: called with every row, in order, before it is written.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, float]],
        output_dir: str,
        *,
        period: int = 0,
        iterations: Collection[int] = (),
    ):
        """
        Args:
            evaluate: gives a flat dict of figures; called in every process.
            output_dir: where ``eval_history.json`` goes.
            period: evaluate at its multiples; 0: not periodically.
            iterations: evaluate after these; 0 is the starting point.
        """
        self.rows: list[Row] = []
        self.listeners: list[Callable[[Row], None]] = []
        self._evaluate = evaluate
        self._path = os.path.join(output_dir, CURVE_FILE)
        self._period = period
        self._iterations = iterations

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self.rows = [row for row in read_curve(self._path) if 0 < start >= row["iteration"]]
        for row in self.rows:  # the checkpoint may be older than its own evaluation
            self._tell(row)
        if self._due(start) and not _has(self.rows, start):
            self._add(start)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._due(done):
            self._add(done)

    def after_train(self) -> None:
        last = self.trainer.max_iter
        # after an error in the last iteration, trainer.iter is still one less
        if self.trainer.iter >= last and not _has(self.rows, last):
            self._add(last)

    def is_written(self, iteration: int) -> bool:
        """Whether ``eval_history.json``, perhaps of an earlier process, has that evaluation."""
        return _has(read_curve(self._path), iteration)

    def _due(self, iteration: int) -> bool:
        periodic = self._period > 0 and iteration > 0 and iteration % self._period == 0
        return periodic or iteration in self._iterations

    def _add(self, iteration: int) -> None:
        figures = self._evaluate()
        self.trainer.storage.put_scalars(**figures, smoothing_hint=False)
        # Detectron2's results hold numpy scalars, and nan for what could not be measured.
        finite = {k: float(v) if math.isfinite(v) else None for k, v in figures.items()}
        row: Row = {"iteration": iteration, **finite}
        self._tell(row)
        self.rows.append(row)
        if comm.is_main_process():
            write_json(self._path, self.rows)
        comm.synchronize()  # processes that were faster wait: the next iteration starts together

    def _tell(self, row: Row) -> None:
        for listener in self.listeners:
            listener(row)


class StopTraining(Exception):
    """Ends training before ``SOLVER.MAX_ITER``; no error. Its text says when and why."""


def _has(rows: list[Row], iteration: int) -> bool:
    return any(row["iteration"] == iteration for row in rows)


def read_curve(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a ``eval_history.json``; none where there is no such file."""
    return read_json(path, list, [])


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
