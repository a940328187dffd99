"""``MODEL.TRANSFER.CACHE_FEATURES``: when frozen layers are cached, where, and what is said."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils import comm

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.config import RunSpec, flat_config
from transfer_maskrcnn.data.cache import Cache, digest_of, entry_bytes
from transfer_maskrcnn.data.loader import SeededImages, seeded
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.feature_cache.cache import Canvases, FeatureCache, MemoryStore, Size
from transfer_maskrcnn.modeling.freezing import FREEZE_KEY, PhaseHook
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.modeling.rcnn import FrozenPart, TransferRCNN
from transfer_maskrcnn.surgery.names import unwrapped

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
        ordinary: nothing is frozen, of which nothing need be said.
    """

    def __init__(self, reason: str, fix: str = "", ordinary: bool = False):
        super().__init__(reason)
        self.fix = fix
        self.ordinary = ordinary


class CacheFeatures(PhaseHook):
    """Fills a :class:`FeatureCache` before training, and anew where a phase of it begins.

    Goes behind ``WeightSurgeryHook`` and ``FreezeSchedule``: it caches what they leave.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: fitted, with ``MODEL.TRANSFER.CACHE_FEATURES`` other than "off".
        """
        super().__init__(cfg.SOLVER.FREEZE_SCHEDULE)
        self._cfg = cfg
        self._mode = cfg.MODEL.TRANSFER.CACHE_FEATURES
        self._folder = Path(cfg.OUTPUT_DIR, FOLDER)
        self._model: Any = None

    @staticmethod
    def check(cfg: CfgNode, spec: RunSpec | None = None) -> None:
        """Raise ConfigError for an unknown mode."""
        mode = cfg.MODEL.TRANSFER.CACHE_FEATURES
        if mode not in MODES:
            raise ConfigError(
                f"{KEY} is {mode!r}; expected one of {', '.join(MODES)}{nearest(str(mode), MODES)}"
            )

    def before_train(self) -> None:
        """
        Raises:
            ConfigError: "memory" or "disk" is asked for, and nothing can be cached. (Where only
                some of ``SOLVER.FREEZE_SCHEDULE`` freeze anything, the others go without.)
            DatasetError: an image cannot be read.
        """
        self._model = unwrapped(self.trainer.model)
        self._enter(self.trainer.start_iter)

    def _enter(self, iteration: int) -> None:
        """Cache what is frozen from ``iteration`` on, or say why not."""
        used = getattr(self._model, "recall", None) is not None
        self._model.recall = None
        try:
            self._cache(iteration)
        except NotCachedError as reason:
            asked = self._mode != "auto" and iteration == self.trainer.start_iter
            if asked and not (reason.ordinary and self._ends):
                fix = f"{reason.fix}, or " if reason.fix else ""
                raise ConfigError(f"{KEY} {self._mode}: {reason}; {fix}set {KEY} off") from None
            if used or not reason.ordinary:
                logger.info(
                    "%s %s: not used from iteration %d on, since %s",
                    *(KEY, self._mode, iteration, reason),
                )

    def after_train(self) -> None:
        if self._model is not None:
            self._model.recall = None
        # early stopping ends a run within its last iteration
        if self._mode == "auto" and self.trainer.iter >= self.trainer.max_iter - 1:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _cache(self, iteration: int) -> None:
        left = next((e for e in self._ends if e > iteration), self.trainer.max_iter)
        if left <= iteration:
            return  # a complete run that is resumed for its evaluation
        model, dataset = self._model, self.trainer.data_loader.dataset
        part = _frozen_part(model)
        if not isinstance(dataset, SeededImages):
            raise NotCachedError("the data loader is not that of build_train_loader")
        # Of the whole phase, not of what is left: a resumed run decides as the first one did.
        begin = max((e for e in self._ends if e <= iteration), default=0)
        passes = (left - begin) * self._cfg.SOLVER.IMS_PER_BATCH / len(dataset)
        views = fixed_mappers(dataset.mapper)
        if comm.get_world_size() > 1:
            raise NotCachedError("training runs in several processes", "use --num-gpus 1")
        if self._mode == "auto" and passes <= len(views):
            raise NotCachedError(
                f"each image is seen {passes:.1f} times, in {len(views)} view(s): nothing to save"
            )
        grouped = self._cfg.DATALOADER.ASPECT_RATIO_GROUPING
        sizes = [_resized(record, views[0]) for record in dataset.dicts]
        canvas = canvases(dataset.dicts, sizes, model.backbone.size_divisibility, grouped)
        larger = enlargement(sizes, canvas)
        if self._mode == "auto" and larger > _MOST_PADDING:
            raise NotCachedError(
                "images differ so much in size that, padded to one, they are "
                f"{larger:.1f} times as large"
            )
        model.recall = self._fill(model, part, canvas, dataset.dicts, views).recall

    def _fill(
        self,
        model: TransferRCNN,
        part: FrozenPart,
        canvas: Canvases,
        records: Sequence[dict[str, Any]],
        views: Sequence[DatasetMapper],
    ) -> FeatureCache:
        """A cache that holds all views of the images, or as many as there is room for."""
        total, own = len(records) * len(views), self._own_folder(part, canvas)
        named = f"{part.name} and RPN" if part.rpn is not None else part.name
        budget, done, size = int(free_memory() * _SHARE_OF_MEMORY), 0, 0
        memory = MemoryStore(budget, pinned=self._cfg.MODEL.DEVICE.startswith("cuda"))
        cache = FeatureCache(model, part, Cache(own) if self._mode == "disk" else memory, canvas)
        dtype, device = autocast_dtype(self._cfg), torch.device(self._cfg.MODEL.DEVICE).type
        images = (view(record)["image"] for record in records for view in views)
        with seeded(0), torch.autocast(device, dtype, enabled=dtype is not None):
            for image in progress(images, f"caching {named}", total):
                entry = entry_bytes(cache.add(image))
                if self._mode == "auto" and not done and total * entry > budget:
                    cache.store = Cache(own)
                    cache.add(image)
                if cache.store.full:
                    break
                done, size = done + 1, size + entry
        logger.info(
            "%s %s: %s computed once for %d views of %d images (%.2f GB)%s",
            *(KEY, self._mode, named, done, len(records), size / 1e9),
            f"; no room for {total - done} more" if done < total else "",
        )
        return cache

    def _own_folder(self, part: FrozenPart, canvas: Canvases) -> Path:
        """Where entries of this part lie; those of others are removed."""
        own = self._folder / fingerprint(self._cfg, part, canvas)
        for other in self._folder.glob("*"):
            if other != own:
                shutil.rmtree(other, ignore_errors=True)
        return own


def free_memory() -> int:
    """Bytes of main memory that are free or would be made so; half of all where no system says."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _frozen_part(model: Any) -> FrozenPart:
    if not isinstance(model, TransferRCNN):
        name = type(model).__name__
        raise NotCachedError(f"{name} does not run as GeneralizedRCNN does", ordinary=True)
    part = model.frozen_part()
    if part is None:
        raise NotCachedError("the backbone trains", f"freeze it with {FREEZE_KEY} backbone", True)
    return part


def fixed_mappers(mapper: Any) -> list[DatasetMapper]:
    """One mapper for each form that ``mapper`` can give an image: as it is, and flipped.

    They give the ``image`` alone, pixel for pixel as training sees it, and draw no random numbers.

    Raises:
        NotCachedError: there are more forms than that.
    """
    if type(mapper) not in (DatasetMapper, CheckedDatasetMapper):
        name = getattr(mapper, "__name__", type(mapper).__name__)
        raise NotCachedError(
            f"{name} may change images in ways of its own",
            f"map them with {CheckedDatasetMapper.__name__}",
        )
    views: list[list[T.Augmentation]] = [[]]
    for augmentation in mapper.augmentations.augs:
        forms = _forms(augmentation)
        views = [[*view, *form] for form in forms for view in views]
    return [
        type(mapper)(is_train=False, augmentations=view, image_format=mapper.image_format)
        for view in views
    ]


def _forms(augmentation: Any) -> list[list[T.Augmentation]]:
    """What an augmentation may do: each a list of augmentations without chance."""
    if isinstance(augmentation, T.RandomFlip):
        axes = augmentation.horizontal, augmentation.vertical
        return [[], [T.RandomFlip(1.0, horizontal=axes[0], vertical=axes[1])]]
    name = type(augmentation).__name__
    reason, fix = f"{name} may change images at random", f"leave out {name}"
    if isinstance(augmentation, T.ResizeShortestEdge):
        lengths = sorted(set(augmentation.short_edge_length))
        if len(lengths) == 1:
            return [[augmentation]]
        reason = f"INPUT.MIN_SIZE_TRAIN ({', '.join(map(str, lengths))}) resizes to a random size"
        fix = f"leave one size, for example INPUT.MIN_SIZE_TRAIN ({lengths[-1]},)"
    elif isinstance(augmentation, T.RandomCrop):
        reason = "INPUT.CROP.ENABLED cuts random parts out of images"
        fix = "set INPUT.CROP.ENABLED False"
    raise NotCachedError(f"{reason}, so that no two passes over an image are the same", fix)


def canvases(
    records: Sequence[dict[str, Any]], sizes: Sequence[Size], divisibility: int, grouped: bool
) -> Canvases:
    """The smallest canvases that hold every image.

    Args:
        records: dataset dicts, with ``height`` and ``width``.
        sizes: of their images after resizing.
        divisibility: what heights and widths must be multiples of.
        grouped: batches hold only wide or only upright images (by their size on disk).
    """
    wide_on_disk = [record["width"] > record["height"] for record in records]
    groups = {
        kind: [size for size, is_wide in zip(sizes, wide_on_disk, strict=True) if is_wide is kind]
        for kind in (False, True)
    }
    # rounding can make a wide image square; then its batch would have two canvases
    clear = [size[1] > size[0] for size in sizes] == wide_on_disk
    if not (grouped and clear and all(groups.values())):
        groups = {False: list(sizes), True: list(sizes)}
    return Canvases(_cover(groups[False], divisibility), _cover(groups[True], divisibility))


def enlargement(sizes: Sequence[Size], canvas: Canvases) -> float:
    """How many times larger than images of these sizes their canvases are, on average."""
    return sum(math.prod(canvas.of(size)) / math.prod(size) for size in sizes) / len(sizes)


def _resized(record: dict[str, Any], mapper: DatasetMapper) -> Size:
    size = record["height"], record["width"]
    for augmentation in mapper.augmentations.augs:
        if isinstance(augmentation, T.ResizeShortestEdge) and augmentation.short_edge_length[0]:
            size = T.ResizeShortestEdge.get_output_shape(
                *size, augmentation.short_edge_length[0], augmentation.max_size
            )  # 0 leaves images as they are
    return size


def _cover(sizes: Iterable[Size], divisibility: int) -> Size:
    step = max(divisibility, 1)
    height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
    return height, width


def fingerprint(cfg: CfgNode, part: FrozenPart, canvas: Canvases) -> str:
    """A digest of all that an entry depends on beside its image: weights, config, precision."""
    config = {
        k: v for k, v in flat_config(cfg) if k.startswith(_SEEN) and not k.startswith(_UNSEEN)
    }
    weights = hashlib.sha256()
    for module in (part.module, part.rpn):
        for name, tensor in sorted(module.state_dict().items() if module is not None else ()):
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    seen = [config, part.name, canvas.upright, canvas.wide, autocast_dtype(cfg), torch.__version__]
    return digest_of([*seen, weights.hexdigest()])
