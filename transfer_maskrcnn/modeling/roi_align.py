"""RoIAlign on the CPU by C code of our own: many times torchvision's speed backwards, and in bf16.

Results are torchvision's up to the rounding of sums. Where the extension was not built, or for
tensors it does not know (CUDA, fp16, fp64), torchvision does the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pieces of work. They depend on nothing but the sizes, so that results depend on no thread count.
_ROIS_A_TASK = 32
_CHANNELS_A_TASK = 128


@cache
def _extension() -> ModuleType | None:
    try:
        return import_module("transfer_maskrcnn.modeling._roi_align")
    except ImportError:
        return None


def _compiled() -> ModuleType:
    module = _extension()
    assert module is not None, "callers ask supports() first"
    return module


def available() -> bool:
    """Whether the C extension was built and loads; where it was not, torchvision's is used."""
    return _extension() is not None


def supports(tensors: Sequence[Tensor]) -> bool:
    """Whether the C code is there and knows these: on the CPU, float32 or bfloat16."""
    known = (torch.float32, torch.bfloat16)
    return available() and all(t.device.type == "cpu" and t.dtype in known for t in tensors)


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

    def job(self, level: int, source: Tensor, result: Tensor, shape: torch.Size) -> tuple[Any, ...]:
        """What the C code wants to know of one map; ``shape`` is the map's, (N, C, H, W)."""
        _, channels, height, width = shape
        return (
            *(t.data_ptr() for t in (source, result, self.rois, self.rows[level])),
            *(len(self.rows[level]), height, width, channels, *self.output_size),
            *(self.scales[level], self.sampling_ratio, self.aligned),
            source.dtype == torch.bfloat16,
        )


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """What ``torchvision.ops.roi_align`` does, with a gradient for the features alone.

    Args:
        features: (N, C, H, W), contiguous or channels_last.
        rois: (K, 5) in any float type: index of the image, then x0, y0, x1, y1 in image pixels.
        output_size: bins down, bins across.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin and axis; 0 or less is one per pixel, rounded up.
        aligned: pixel centres lie at .5 (detectron2's ROIAlignV2); False is the original RoIAlign.

    Returns:
        (K, C, *output_size) in the type of the features and, as their gradient, in their layout.

    Raises:
        ValueError: features or rois of another shape, or the index of an image that is not there.
    """
    _check(features, rois)
    if not supports([features]):
        wide = features.float() if features.dtype == torch.bfloat16 else features
        options = (output_size, spatial_scale, sampling_ratio, aligned)
        return torchvision.ops.roi_align(wide, rois.to(wide), *options).to(features.dtype)
    rows = torch.arange(len(rois))
    own_rois = rois.detach().to(features.device, torch.float32, copy=True).contiguous()
    pooling = Pooling(own_rois, [rows], [spatial_scale], output_size, sampling_ratio, aligned)
    pooled = pool_maps(pooling, [features])
    return pooled if _is_channels_last(features) else pooled.contiguous()


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


def _check(features: Tensor, rois: Tensor) -> None:
    if features.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and rois {tuple(rois.shape)}; expected "
            "(N, C, H, W) and (K, 5): index of the image, then x0, y0, x1, y1"
        )
    images, index = len(features), rois[:, 0]
    for i in (~((index > -1) & (index < images))).nonzero().flatten().tolist()[:1]:
        raise ValueError(
            f"rois[{i}] is of image {index[i].item():g}, but features hold {images} images; "
            f"expected an index from 0 to {images - 1} in column 0"
        )


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


class _PoolMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooling: Pooling, compute: Callable[[], Tensor], *maps: Tensor) -> Tensor:
        ctx.pooling = pooling
        ctx.shapes = [m.shape for m in maps]
        ctx.channels_last = [_is_channels_last(m) for m in maps]
        return compute()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        found = _spread(ctx.pooling, gradient, ctx.shapes, wanted)
        gradients = (
            g if g is None or channels_last else g.contiguous()
            for g, channels_last in zip(found, ctx.channels_last, strict=True)
        )
        return None, None, *gradients


def _pool(pooling: Pooling, maps: Sequence[Tensor]) -> Tensor:
    channels = maps[0].shape[1]
    pooled = maps[0].new_zeros(len(pooling.rois), *pooling.output_size, channels)
    tasks: list[Callable[[], None]] = []
    for level, features in enumerate(maps):
        source = features.contiguous(memory_format=torch.channels_last)
        count = len(pooling.rows[level]) if pooled.numel() else 0
        for first in range(0, count, _ROIS_A_TASK):
            last = min(first + _ROIS_A_TASK, count)
            tasks.append(partial(_pool_some, pooling, level, source, pooled, first, last))
    _run(tasks)
    return pooled.permute(0, 3, 1, 2)


def _pool_some(
    pooling: Pooling, level: int, source: Tensor, pooled: Tensor, first: int, last: int
) -> None:
    _compiled().forward(pooling.job(level, source, pooled, source.shape), first, last)


def _spread(
    pooling: Pooling, gradient: Tensor, shapes: Sequence[torch.Size], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradient of each wanted map, channels_last."""
    source = gradient.contiguous(memory_format=torch.channels_last)
    results: list[Tensor | None] = [None] * len(shapes)
    tasks: list[Callable[[], None]] = []
    for level, (images, channels, height, width) in enumerate(shapes):
        if not wanted[level]:
            continue
        used = len(pooling.rows[level]) > 0 and source.numel() > 0
        make = gradient.new_empty if used else gradient.new_zeros
        result = make(images, height, width, channels).permute(0, 3, 1, 2)
        results[level] = result
        for image in range(images if used else 0):
            for first in range(0, channels, _CHANNELS_A_TASK):
                last = min(first + _CHANNELS_A_TASK, channels)
                tasks.append(
                    partial(_spread_some, pooling, level, source, result, image, first, last)
                )
    _run(tasks)
    return results


def _spread_some(
    pooling: Pooling, level: int, source: Tensor, result: Tensor, image: int, first: int, last: int
) -> None:
    _compiled().backward(pooling.job(level, source, result, result.shape), image, first, last)


def _run(tasks: Sequence[Callable[[], None]]) -> None:
    """Each task holds its tensors: after Ctrl-C those under way go on in memory that is theirs."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads < 2:
        for task in tasks:
            task()
    else:
        list(_executor(torch.get_num_threads()).map(lambda task: task(), tasks))


@lru_cache(maxsize=1)
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="roi_align")


# A fork copies the executor, but not its threads: the child would wait for them for ever.
os.register_at_fork(after_in_child=_executor.cache_clear)
