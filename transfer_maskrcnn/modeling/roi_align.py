"""detectron2's ROIPooler on the CPU by C code of our own: many times torchvision's speed backwards,
all levels at once, and in bf16.

Results are torchvision's up to the rounding of sums. Where the extension was not built, or for
tensors it does not know (CUDA, fp16, fp64), torchvision does the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache, partial, reduce
from importlib import import_module
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.structures import Boxes
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pieces of work. They depend on nothing but the sizes, so that results depend on no thread count.
_ROIS_A_TASK = 32
_CHANNELS_A_TASK = 128


@cache
def _extension() -> Any:
    try:
        return import_module("transfer_maskrcnn.modeling._roi_align")
    except ImportError:
        return None


def available() -> bool:
    """Whether the C extension was built and loads; where it was not, torchvision's is used."""
    return _extension() is not None


@dataclass(frozen=True)
class Pooling:
    """Which RoIs are pooled from which feature maps, and how.

    Attributes:
        rois: (K, 5) float32, contiguous: index of the image, then x0, y0, x1, y1 in image pixels.
        rows: for each map the RoIs pooled from it, (K_map,) int64. RoIs in none of them give zeros.
        scales: for each map its pixels per image pixel.
        output_size: bins down, bins across.
        sampling_ratio: samples per bin and axis; 0 or less is one per pixel, rounded up.
        aligned: pixel centres lie at .5 (detectron2's ROIAlignV2); False is the original RoIAlign.
    """

    rois: Tensor
    rows: Sequence[Tensor]
    scales: Sequence[float]
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool

    def run(
        self,
        work: Callable[..., None],
        level: int,
        source: Tensor,
        result: Tensor,
        shape: Sequence[int],
        *span: int,
    ) -> None:
        """Have the C code do a piece of one map, whose shape is (N, C, H, W)."""
        _, channels, height, width = shape
        job = (
            *(t.data_ptr() for t in (source, result, self.rois, self.rows[level])),
            *(len(self.rows[level]), height, width, channels, *self.output_size),
            *(self.scales[level], self.sampling_ratio, self.aligned),
            source.dtype == torch.bfloat16,
        )
        work(job, *span)


class FastROIPooler(ROIPooler):
    """A ROIPooler of type ROIAlign or ROIAlignV2; what it cannot do faster, ROIPooler does.

    Maps that are all float32: the pooled values are ROIPooler's own to the last bit, and only the
    way back is faster. With bf16 among them: the output is channels_last in the widest of their
    types, and boxes stay float32 (ROIPooler rounds them to bf16, that is to 4 pixels from 512 on).
    """

    @classmethod
    def of(cls, stock: ROIPooler) -> ROIPooler:
        """What pools as ``stock`` does: a FastROIPooler, or, of another type, ``stock`` itself."""
        levels: list[Any] = list(stock.level_poolers)
        if not isinstance(levels[0], ROIAlign):
            return stock
        return cls(
            stock.output_size,
            [level.spatial_scale for level in levels],
            levels[0].sampling_ratio,
            "ROIAlignV2" if levels[0].aligned else "ROIAlign",
            stock.canonical_box_size,
            stock.canonical_level,
        )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: one map per level, (N, C, H_level, W_level).
            box_lists: the boxes of each of the N images, in pixels of the image.

        Returns:
            (K, C, *output_size): the boxes of all images, one image after the other.
        """
        if torch.jit.is_tracing() or not self._fits(x, box_lists):
            return super().forward(x, box_lists)
        pooling = self._pooling(box_lists)
        if all(m.dtype == torch.float32 for m in x):
            return pool_maps(pooling, x, partial(super().forward, x, box_lists))
        widest = reduce(torch.promote_types, (m.dtype for m in x))
        return pool_maps(pooling, [m.to(widest) for m in x])

    def _fits(self, x: list[Tensor], box_lists: list[Boxes]) -> bool:
        """Whether the C code can do it. (Maps that do not match are an error of ROIPooler's.)"""
        numbers = len(x) == len(self.level_poolers) and len(box_lists) == len(x[0]) > 0
        alike = all(m.dim() == 4 and m.shape[:2] == x[0].shape[:2] for m in x)
        known = all(
            t.device.type == "cpu" and t.dtype in (torch.float32, torch.bfloat16)
            for t in [*x, *(boxes.tensor for boxes in box_lists)]
        )
        return available() and numbers and alike and known

    def _pooling(self, box_lists: list[Boxes]) -> Pooling:
        rois = convert_boxes_to_pooler_format(box_lists).detach().float().contiguous()
        levels = assign_boxes_to_levels(
            *(box_lists, self.min_level, self.max_level),
            *(self.canonical_box_size, self.canonical_level),
        )
        first = self.level_poolers[0]
        return Pooling(
            rois=rois,
            rows=[(levels == i).nonzero().flatten() for i in range(len(self.level_poolers))],
            scales=[pooler.spatial_scale for pooler in self.level_poolers],
            output_size=tuple(self.output_size),
            sampling_ratio=first.sampling_ratio,
            aligned=first.aligned,
        )

    def __prepare_scriptable__(self) -> ROIPooler:
        """What torch.jit.script compiles instead."""
        plain = ROIPooler.__new__(ROIPooler)
        plain.__dict__ = self.__dict__
        return plain


def pool_maps(
    pooling: Pooling, maps: Sequence[Tensor], forward: Callable[[], Tensor] | None = None
) -> Tensor:
    """RoIs of several feature maps, pooled into one tensor, with a gradient for every map.

    Args:
        pooling: its rois must name images that are there.
        maps: each (N, C, H_map, W_map), all of one type: float32 or bfloat16.
        forward: computes the pooled tensor; the C code then does the way back only.

    Returns:
        (K, C, *output_size) in the type of the maps, channels_last, or what ``forward`` returned.
    """
    return _PoolMaps.apply(pooling, forward or partial(_pool, pooling, maps), *maps)


class _PoolMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooling: Pooling, compute: Callable[[], Tensor], *maps: Tensor) -> Tensor:
        ctx.pooling = pooling
        ctx.shapes = [m.shape for m in maps]
        ctx.channels_last = [
            m.is_contiguous(memory_format=torch.channels_last) and not m.is_contiguous()
            for m in maps
        ]
        return compute()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = _spread(ctx.pooling, gradient, ctx.shapes, ctx.needs_input_grad[2:])
        gradients = (
            g if g is None or channels_last else g.contiguous()
            for g, channels_last in zip(found, ctx.channels_last, strict=True)
        )
        return None, None, *gradients


def _pool(pooling: Pooling, maps: Sequence[Tensor]) -> Tensor:
    pooled = maps[0].new_zeros(len(pooling.rois), *pooling.output_size, maps[0].shape[1])
    sources = [features.contiguous(memory_format=torch.channels_last) for features in maps]
    do = partial(pooling.run, _extension().forward)
    _run(
        partial(do, level, source, pooled, source.shape, *span)
        for level, source in enumerate(sources)
        for span in _pieces(len(pooling.rows[level]) if pooled.numel() else 0, _ROIS_A_TASK)
    )
    return pooled.permute(0, 3, 1, 2)


def _spread(
    pooling: Pooling, gradient: Tensor, shapes: Sequence[torch.Size], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradient of each wanted map, channels_last."""
    source = gradient.contiguous(memory_format=torch.channels_last)
    results: list[Tensor | None] = [None] * len(shapes)
    tasks: list[Callable[[], None]] = []
    for level, (images, channels, height, width) in enumerate(shapes):
        if wanted[level]:
            used = len(pooling.rows[level]) > 0 and source.numel() > 0
            make = gradient.new_empty if used else gradient.new_zeros
            results[level] = result = make(images, height, width, channels).permute(0, 3, 1, 2)
            do = partial(pooling.run, _extension().backward, level, source, result, result.shape)
            tasks += [
                partial(do, image, *span)
                for image in range(images if used else 0)
                for span in _pieces(channels, _CHANNELS_A_TASK)
            ]
    _run(tasks)
    return results


def _pieces(count: int, size: int) -> list[tuple[int, int]]:
    """Where each piece begins, and where it ends."""
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def _run(tasks: Iterable[Callable[[], None]]) -> None:
    """Each task holds its tensors: after Ctrl-C those under way go on in memory that is theirs."""
    tasks = list(tasks)
    several = min(torch.get_num_threads(), len(tasks)) > 1
    mapped = _executor(torch.get_num_threads()).map if several else map
    list(mapped(lambda task: task(), tasks))


@lru_cache(maxsize=1)
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="roi_align")


# A fork copies the executor, but not its threads: the child would wait for them for ever.
os.register_at_fork(after_in_child=_executor.cache_clear)
