"""The C code of FastROIPooler on a single map, with the arguments of torchvision's roi_align."""

from __future__ import annotations

import torch
from torch import Tensor

from transfer_maskrcnn.modeling.roi_align import Pooling, pool_maps


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(K, C, *output_size) in the type and in the layout of ``features`` (N, C, H, W)."""
    own = rois.detach().to(torch.float32, copy=True).contiguous()
    rows = [torch.arange(len(own))]
    pooling = Pooling(own, rows, [scale], output_size, sampling_ratio, aligned)
    pooled = pool_maps(pooling, [features])
    rows_last = features.is_contiguous(memory_format=torch.channels_last)
    return pooled if rows_last and not features.is_contiguous() else pooled.contiguous()
