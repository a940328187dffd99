"""``MODEL.TRANSFER.CACHE_FEATURES``: when frozen layers are cached, where, and what is said."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.engine import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from transfer_maskrcnn.config import flat_config
from transfer_maskrcnn.engine.hooks.progress import on_terminal
from transfer_maskrcnn.engine.loader import SeededImages
from transfer_maskrcnn.engine.rng import seeded
from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.feature_cache.frozen import FeatureCache, FrozenPart, find_frozen_part
from transfer_maskrcnn.feature_cache.store import (
    DiskStore,
    MemoryStore,
    TieredStore,
    available_memory,
    entry_bytes,
)
from transfer_maskrcnn.feature_cache.views import (
    Canvases,
    ManyViewsError,
    canvases,
    enlargement,
    fixed_mappers,
)
from transfer_maskrcnn.modeling.freezing import FREEZE_KEY, parse_phases
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.surgery.target import unwrapped

KEY = "MODEL.TRANSFER.CACHE_FEATURES"
MODES = ("auto", "memory", "disk", "off")
FOLDER = "feature_cache"
_SHARE_OF_MEMORY = 0.5  # the rest is for the training itself
_MOST_PADDING = 2.0  # beyond it, what the heads see in training is mostly padding

# The keys that say what a frozen part makes of an image, and those among them that do not.
_SEEN = ("MODEL.", "INPUT.")
_UNSEEN = ("MODEL.ROI_", "MODEL.TRANSFER.", "MODEL.WEIGHTS")

logger = logging.getLogger(__name__)


class NotCachedError(Exception):
    """Why the frozen part goes on being computed in every iteration.

    Attributes:
        fix: what to change; "" where nothing helps.
    """

    def __init__(self, reason: str, fix: str = ""):
        super().__init__(reason)
        self.fix = fix


class NothingFrozenError(NotCachedError):
    """The ordinary case, of which nothing need be said."""


class CacheFeatures(HookBase):
    """Fills a :class:`FeatureCache` before training, and anew where a phase of it begins.

    Goes behind ``WeightSurgeryHook`` and ``FreezeSchedule``: it caches what they leave.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: fitted, with ``MODEL.TRANSFER.CACHE_FEATURES`` other than "off".
        """
        self._cfg = cfg
        self._mode = cfg.MODEL.TRANSFER.CACHE_FEATURES
        self._folder = Path(cfg.OUTPUT_DIR, FOLDER)
        self._cache: FeatureCache | None = None
        phases = parse_phases(cfg.SOLVER.FREEZE_SCHEDULE, cfg.SOLVER.MAX_ITER)
        self._phase_ends = list(accumulate(iterations for iterations, _ in phases))

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> CacheFeatures | None:
        """None where it is off. Raises ConfigError for an unknown mode."""
        mode = cfg.MODEL.TRANSFER.CACHE_FEATURES
        if mode not in MODES:
            raise ConfigError(
                f"{KEY} is {mode!r}; expected one of {', '.join(MODES)}{nearest(str(mode), MODES)}"
            )
        return None if mode == "off" else cls(cfg)

    def before_train(self) -> None:
        """
        Raises:
            ConfigError: "memory" or "disk" is asked for, and nothing can be cached. (Where only
                some of ``SOLVER.FREEZE_SCHEDULE`` freeze anything, the others go without.)
            DatasetError: an image cannot be read.
        """
        try:
            self._enter(self.trainer.start_iter)
        except NotCachedError as reason:
            waits = isinstance(reason, NothingFrozenError) and self._phase_ends
            if self._mode != "auto" and not waits:
                fix = f"{reason.fix}, or " if reason.fix else ""
                raise ConfigError(f"{KEY} {self._mode}: {reason}; {fix}set {KEY} off") from None
            if not isinstance(reason, NothingFrozenError):
                logger.info("%s %s: not used, since %s", KEY, self._mode, reason)

    def before_step(self) -> None:
        iteration = self.trainer.iter
        if iteration in self._phase_ends and iteration > self.trainer.start_iter:
            used = self._cache is not None
            self._leave()
            try:
                self._enter(iteration)
            except NotCachedError as reason:
                if used or not isinstance(reason, NothingFrozenError):
                    logger.info("%s: not used from iteration %d on: %s", KEY, iteration, reason)

    def after_train(self) -> None:
        self._leave()
        # early stopping ends a run within its last iteration
        if self._mode == "auto" and self.trainer.iter >= self.trainer.max_iter - 1:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _leave(self) -> None:
        if self._cache is not None:
            self._cache.detach()
            self._cache = None

    def _enter(self, iteration: int) -> None:
        left = next((e for e in self._phase_ends if e > iteration), self.trainer.max_iter)
        if left <= iteration:
            return  # a complete run that is resumed for its evaluation
        model: Any = unwrapped(self.trainer.model)
        part = _frozen_part(model)
        dataset = self.trainer.data_loader.dataset
        if not isinstance(dataset, SeededImages):
            raise NotCachedError("the data loader is not that of build_train_loader")
        # Of the whole phase, not of what is left: a resumed run decides as the first one did.
        begin = max((e for e in self._phase_ends if e <= iteration), default=0)
        passes = (left - begin) * self._cfg.SOLVER.IMS_PER_BATCH / len(dataset)
        views = _views(dataset.mapper, part, passes)
        if comm.get_world_size() > 1:
            raise NotCachedError("training runs in several processes", "use --num-gpus 1")
        if self._mode == "auto" and passes <= len(views):
            raise NotCachedError(
                f"each image is seen {passes:.1f} times, in {len(views)} view(s): nothing to save"
            )
        grouped = self._cfg.DATALOADER.ASPECT_RATIO_GROUPING
        divisibility = model.backbone.size_divisibility
        canvas = canvases(dataset.dicts, views[0], divisibility, grouped)
        larger = enlargement(dataset.dicts, views[0], canvas)
        if self._mode == "auto" and larger > _MOST_PADDING:
            raise NotCachedError(
                "images differ so much in size that, padded to one, they are "
                f"{larger:.1f} times as large"
            )
        self._cache = FeatureCache(model, part, self._store(part, canvas), canvas)
        self._cache.attach()
        self._fill(self._cache, part, dataset.dicts, views)

    def _store(self, part: FrozenPart, canvas: Canvases) -> TieredStore:
        budget = int(available_memory() * _SHARE_OF_MEMORY)
        memory = MemoryStore(budget, pinned=self._cfg.MODEL.DEVICE.startswith("cuda"))
        own = self._folder / fingerprint(self._cfg, part, canvas)
        for other in self._folder.glob("*"):
            if other != own:
                shutil.rmtree(other, ignore_errors=True)
        tiers: dict[str, list[MemoryStore | DiskStore]] = {
            "memory": [memory],
            "disk": [DiskStore(own)],
            "auto": [memory, DiskStore(own)],
        }
        return TieredStore(*tiers[self._mode])

    def _fill(
        self,
        cache: FeatureCache,
        part: FrozenPart,
        records: Sequence[dict[str, Any]],
        views: Sequence[DatasetMapper],
    ) -> None:
        dtype = autocast_dtype(self._cfg)
        device = torch.device(self._cfg.MODEL.DEVICE).type
        total = len(records) * len(views)
        autocast = torch.autocast(device, dtype) if dtype else nullcontext()
        sizes: list[int] = []
        with seeded(0), autocast, _bar(total, f"caching {_named(part)}") as bar:
            images = (view(record)["image"] for record in records for view in views)
            for image in images:
                entry = cache.add(image)
                if cache.full:
                    break
                sizes.append(entry_bytes(entry))
                bar.update()
        logger.info(
            "%s %s: %s computed once for %d views of %d images (%.2f GB)%s",
            *(KEY, self._mode, _named(part), len(sizes), len(records), sum(sizes) / 1e9),
            f"; no room for {total - len(sizes)} more" if len(sizes) < total else "",
        )


def _frozen_part(model: nn.Module) -> FrozenPart:
    part = find_frozen_part(model)
    if part is None and type(model).forward is not GeneralizedRCNN.forward:
        name = type(model).__name__
        raise NothingFrozenError(f"{name} does not run as GeneralizedRCNN does")
    if part is None:
        raise NothingFrozenError("the backbone trains", f"freeze it with {FREEZE_KEY} backbone")
    return part


def _views(mapper: Any, part: FrozenPart, passes: float) -> list[DatasetMapper]:
    try:
        return fixed_mappers(mapper)
    except ManyViewsError as reason:
        raise NotCachedError(
            f"{reason}, so that no two passes over an image are the same (with one size and flips "
            f"alone, {_named(part)} would see it at most twice instead of {passes:.0f} times)",
            reason.fix,
        ) from None


def _named(part: FrozenPart) -> str:
    return f"{part.name} and RPN" if part.rpn is not None else part.name


def _bar(total: int, what: str) -> tqdm:
    return tqdm(
        total=total,
        desc=what,
        unit="view",
        file=sys.stdout,
        dynamic_ncols=True,
        disable=not (on_terminal() and comm.is_main_process()),
    )


def fingerprint(cfg: CfgNode, part: FrozenPart, canvas: Canvases) -> str:
    """A digest of all that an entry depends on beside its image: weights, config, precision."""
    config = {
        k: v for k, v in flat_config(cfg) if k.startswith(_SEEN) and not k.startswith(_UNSEEN)
    }
    canvas_sizes = (canvas.upright, canvas.wide)
    content = (config, part.name, canvas_sizes, autocast_dtype(cfg), torch.__version__)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    for module in part.modules():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
