"""Sides that train: stock detectron2, this project, and torchvision's reference model."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.pairs import Side
from benchmarks.pictures import CLASSES
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.engine.run import keep_freed_memory
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer

ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
NAME = "benchmark_train"
HEADS_ONLY = "backbone_fpn_rpn"


class StockTrainer(DefaultTrainer):
    """detectron2's trainer as it is; ``frozen`` modules get no gradient, as users do it."""

    frozen: tuple[str, ...] = ()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        for name in cls.frozen:
            getattr(model, name).requires_grad_(False)
        return model


class StockHeadsTrainer(StockTrainer):
    frozen = ("backbone", "proposal_generator")


class TrainerSide(Side):
    """So many iterations of a trainer, with its hooks, from wherever it stands."""

    def __init__(self, trainer: DefaultTrainer, iterations: int):
        self._trainer = trainer
        self._iterations = iterations
        self._start: float | None = None  # seconds
        self._stack = ExitStack()

    def run(self) -> None:
        trainer = self._trainer
        if self._start is None:
            trainer.iter = trainer.start_iter = 0
            trainer.storage = self._stack.enter_context(EventStorage(0))
            started = time.perf_counter()
            trainer.before_train()  # fills the feature cache
            self._start = time.perf_counter() - started
        for _ in range(self._iterations):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            trainer.iter += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        latest = self._trainer.storage.history("roi_head/num_fg_samples").latest()
        with FlopCounterMode(display=False) as counter:
            self._trainer.run_step()
        memory = {}
        if torch.cuda.is_available():
            memory = {"peak_mb": torch.cuda.max_memory_allocated() / 2**20}
        return {
            **memory,
            "start, s": self._start,
            "foreground RoIs": latest * self._trainer.cfg.SOLVER.IMS_PER_BATCH,
            "flops": counter.get_total_flops() * self._iterations,
        }


def _common(cfg: CfgNode, size: int, batch: int, device: str, freeze_at: int) -> None:
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = device
    cfg.MODEL.PIXEL_STD = [58.0, 57.0, 57.0]  # else random weights overflow
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    cfg.INPUT.MIN_SIZE_TRAIN = (size,)
    cfg.INPUT.MAX_SIZE_TRAIN = size * 4 // 3
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    cfg.DATALOADER.NUM_WORKERS = 2
    cfg.SOLVER.IMS_PER_BATCH = batch
    cfg.SOLVER.BASE_LR = 1e-6  # random weights on random pictures: they only have to stay finite
    cfg.SOLVER.MAX_ITER = 10**6
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD = 10**6
    cfg.SEED = 0
    cfg.OUTPUT_DIR = tempfile.mkdtemp(prefix="benchmark_")


def _register(annotations: str) -> None:
    if NAME not in DatasetCatalog:
        register_dataset(
            NAME, format="coco", annotations=annotations, image_root=Path(annotations).parent
        )


def stock(
    annotations: str,
    size: int,
    batch: int,
    iterations: int,
    device: str,
    heads_only: bool = False,
    amp: bool = False,
) -> Side:
    """Stock detectron2: its config, model, loader and trainer."""
    _register(annotations)
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(ZOO))
    _common(cfg, size, batch, device, freeze_at=2)
    cfg.SOLVER.AMP.ENABLED = amp
    torch.manual_seed(0)
    trainer = (StockHeadsTrainer if heads_only else StockTrainer)(cfg)
    return TrainerSide(trainer, iterations)


def ours(
    annotations: str,
    size: int,
    batch: int,
    iterations: int,
    device: str,
    heads_only: bool = False,
    amp: bool = True,
    epochs: int = 0,
) -> Side:
    """This project's trainer.

    Args:
        epochs: how often an image will be seen; MODEL.TRANSFER.CACHE_FEATURES auto looks at it.
    """
    _register(annotations)
    if device == "cpu":
        keep_freed_memory()
    cfg = load_config(model_zoo.get_config_file(ZOO))
    _common(cfg, size, batch, device, freeze_at=2)
    cfg.SOLVER.AMP.ENABLED = amp
    cfg.MODEL.TRANSFER.ENABLED = False  # nothing to transfer: the weights are random
    cfg.MODEL.TRANSFER.FREEZE = HEADS_ONLY if heads_only else ""
    if epochs:
        cfg.SOLVER.MAX_ITER = epochs * len(DatasetCatalog.get(NAME)) // batch
    cfg = fit_config(cfg).resolve(cfg)
    torch.manual_seed(0)
    return TrainerSide(TransferTrainer(cfg), iterations)


class TorchvisionSide(Side):
    """A step of torchvision's maskrcnn_resnet50_fpn with SGD, on images that are in memory.

    Its norms are frozen, as in fine-tuning; built without weights they would learn.
    """

    def __init__(self, annotations: str, size: int, batch: int, iterations: int, device: str):
        _register(annotations)
        torch.manual_seed(0)
        self._iterations = iterations
        backbone = resnet_fpn_backbone(  # layers 2 to 4 learn, as with FREEZE_AT 2
            backbone_name="resnet50",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=3,
        )
        sizes = {"min_size": size, "max_size": size * 4 // 3}
        self._model = MaskRCNN(backbone, len(CLASSES) + 1, **sizes).to(device)
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)
        cfg = load_config(model_zoo.get_config_file(ZOO))
        _common(cfg, size, batch, device, freeze_at=2)
        cfg.INPUT.MASK_FORMAT = "bitmask"
        cfg.INPUT.FORMAT = "RGB"
        mapper = CheckedDatasetMapper(cfg, is_train=True)
        mapped = [mapper(record) for record in DatasetCatalog.get(NAME)[: 2 * batch]]
        self._images = [(m["image"] / 255).to(device) for m in mapped]
        self._targets = [
            {
                "boxes": m["instances"].gt_boxes.tensor.to(device),
                "labels": m["instances"].gt_classes.to(device) + 1,
                "masks": m["instances"].gt_masks.tensor.to(device).to(torch.uint8),
            }
            for m in mapped
        ]
        self._batch = batch
        self._next = 0

    def run(self) -> None:
        for _ in range(self._iterations):
            chosen = slice(self._next, self._next + self._batch)
            self._next = (self._next + self._batch) % len(self._images)
            losses = sum(self._model(self._images[chosen], self._targets[chosen]).values())
            self._optimizer.zero_grad()
            losses.backward()
            self._optimizer.step()


def torchvision(annotations: str, size: int, batch: int, iterations: int, device: str) -> Side:
    """torchvision's reference model; its box head samples as many RoIs as detectron2's."""
    return TorchvisionSide(annotations, size, batch, iterations, device)
