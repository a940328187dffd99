"""detectron2's ROIPooler with the C code of :mod:`roi_align`: all levels at once, bf16 as it is."""

from __future__ import annotations

from functools import partial, reduce
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

from transfer_maskrcnn.modeling.roi_align import Pooling, pool_maps, supports


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
        return numbers and alike and supports([*x, *(boxes.tensor for boxes in box_lists)])

    def _pooling(self, box_lists: list[Boxes]) -> Pooling:
        rois = convert_boxes_to_pooler_format(box_lists).detach().float().contiguous()
        levels = torch.zeros(len(rois), dtype=torch.int64)
        if len(self.level_poolers) > 1:
            size, level = self.canonical_box_size, self.canonical_level
            levels = assign_boxes_to_levels(box_lists, self.min_level, self.max_level, size, level)
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
