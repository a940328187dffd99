"""Whole training runs of a Mask R-CNN so small that twenty iterations take half a second."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.feature_cache.cache import FeatureCache

REPOSITORY = Path(__file__).resolve().parents[1]
Size = tuple[int, int]  # height, width in pixels
SQUARES: Sequence[Size] = [(64, 64)] * 4

TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TRANSFER.ENABLED", False, "SEED", 3),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 20, "SOLVER.STEPS", ()),
    *("SOLVER.WARMUP_ITERS", 1, "SOLVER.BASE_LR", 0.01, "DATASETS.TEST", ()),
]
_numbers = itertools.count()  # detectron2's catalogs outlive a test


def _write_images(folder: Path, sizes: Sequence[Size]) -> Path:
    """Noise with a bright rectangle on each image, and its annotation; the path of the json."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    annotations = []
    for i, (height, width) in enumerate(sizes):
        pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
        x0, y0, x1, y1 = 6 + i, 8, width // 2 + 9, height // 2 + i
        pixels[y0:y1, x0:x1] = (200, 180 - 20 * i, 40)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        outline = [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
        box = [x0, y0, x1 - x0, y1 - y0]
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": box}
            | {"area": box[2] * box[3], "segmentation": [outline]}
        )
    images = [
        {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
        for i, (height, width) in enumerate(sizes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def toy_configs(tmp_path: Path) -> Callable[..., CfgNode]:
    """toy(*opts, sizes=four squares of 64) -> the fitted config of a tiny run on images of its own.

    Its images lie in ``tmp_path/images<n>``, its OUTPUT_DIR is ``tmp_path/output<n>``; configs of
    the same sizes share their images.
    """
    names: dict[tuple[Size, ...], str] = {}

    def make(*opts: Any, sizes: Sequence[Size] = SQUARES) -> CfgNode:
        number = next(_numbers)
        if tuple(sizes) not in names:
            path = _write_images(tmp_path / f"images{number}", sizes)
            names[tuple(sizes)] = f"toy_{number}"
            register_dataset(
                f"toy_{number}", format="coco", annotations=path, image_root=path.parent
            )
        places = [
            *("DATASETS.TRAIN", (names[tuple(sizes)],)),
            *("OUTPUT_DIR", str(tmp_path / f"output{number}")),
        ]
        cfg = load_config(str(REPOSITORY / "configs/shapes/Base-shapes.yaml"))
        cfg.merge_from_list([*TINY, *places, *opts])
        cfg = fit_config(cfg).resolve(cfg)
        cfg.defrost()  # a test may change what it is about
        return cfg

    return make


@dataclass
class Run:
    """A training that has ended.

    Attributes:
        losses: of each iteration, by name.
    """

    trainer: TransferTrainer
    losses: list[dict[str, float]] = field(default_factory=list)

    def difference(self, other: Run) -> float:
        """The largest one between two losses of the same name and iteration."""
        pairs = list(zip(self.losses, other.losses, strict=True))
        assert pairs and all(mine.keys() == theirs.keys() for mine, theirs in pairs)
        return max(abs(mine[name] - theirs[name]) for mine, theirs in pairs for name in mine)


class _Losses(HookBase):
    def __init__(self, losses: list[dict[str, float]]):
        self._losses = losses

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        now = {k: v for k, (v, at) in latest.items() if "loss" in k and at == self.trainer.iter}
        self._losses.append(now)


def run_training(cfg: CfgNode, *hooks: HookBase, resume: bool = False) -> Run:
    """Train to the end; random weights are the same each time."""
    torch.manual_seed(0)
    done = Run(TransferTrainer(cfg))
    done.trainer.register_hooks([_Losses(done.losses), *hooks])
    done.trainer.resume_or_load(resume)
    done.trainer.train()
    return done


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each entry of a feature cache that is computed."""
    calls: list[int] = []
    compute = FeatureCache.compute

    def counting(cache: FeatureCache, image: torch.Tensor) -> Any:
        calls.append(1)
        return compute(cache, image)

    monkeypatch.setattr(FeatureCache, "compute", counting)
    return calls
