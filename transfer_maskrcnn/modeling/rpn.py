"""An RPN that learns nothing from doubtful objects, and only proposes where it is frozen."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor

#: ``gt_classes`` of a doubtful object: what training would say of it is left out of every loss.
#: Detectron2's ROI heads do that by themselves: they sample no proposal whose best object is of
#: class -1.
IGNORED_CLASS = -1

_BACKGROUND, _LEFT_OUT = 0, -1


@PROPOSAL_GENERATOR_REGISTRY.register()
class TransferRPN(RPN):
    """detectron2's RPN, whose names of tensors and whose numbers it has, but for two things.

    Where all its weights are frozen, a training step gets the training number of proposals, ``{}``
    for losses, and no graph: they could move only what lies under it. (Where no gradient is wanted,
    as for validation, losses are measured all the same: they stay comparable from phase to phase.)

    An anchor is left out of the losses if its label would depend on whether an object of
    ``IGNORED_CLASS`` is there. All others have the label that they have either way.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.anchor_matcher: CertainMatcher = CertainMatcher(self.anchor_matcher)

    def forward(self, images: Any, features: Any, gt_instances: Any = None) -> Any:
        learns = any(parameter.requires_grad for parameter in self.parameters())
        if learns or not (self.training and torch.is_grad_enabled()):
            return super().forward(images, features, gt_instances)
        with torch.no_grad():
            return super().forward(images, features, [])  # without objects, nothing is to be lost

    def label_and_sample_anchors(self, anchors: Any, gt_instances: Any) -> Any:
        labels: list[Tensor] = []
        boxes: list[Tensor] = []
        for instances in gt_instances:  # one by one: the matcher is not told which image it is at
            self.anchor_matcher.doubtful = instances.gt_classes == IGNORED_CLASS
            found = super().label_and_sample_anchors(anchors, [instances])
            labels, boxes = [*labels, *found[0]], [*boxes, *found[1]]
        return labels, boxes

    def losses(self, anchors: Any, logits: Any, gt_labels: Any, deltas: Any, gt_boxes: Any) -> Any:
        return super().losses(anchors, logits, gt_labels, deltas, gt_boxes) if gt_labels else {}


class CertainMatcher:
    """Matches anchors to the certain objects, and leaves out what a doubtful one could change.

    Attributes:
        doubtful: (M,) bool, of the objects that are matched next.
    """

    def __init__(self, matcher: Any):
        """
        Args:
            matcher: detectron2's Matcher.
        """
        self.matcher = matcher
        self.doubtful = torch.zeros(0, dtype=torch.bool)

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            quality: (M, N) IoU of M objects and N anchors.

        Returns:
            the object of each anchor, and its label: 1 object, 0 background, -1 left out; both (N,)
        """
        if not self.doubtful.any():
            matched: tuple[Tensor, Tensor] = self.matcher(quality)
            return matched
        certain = torch.nonzero(~self.doubtful).flatten().to(quality.device)
        own, labels = self.matcher(quality[certain])
        _, with_doubtful = self.matcher(quality)
        depends = (labels == _BACKGROUND) & (with_doubtful.to(labels.device) != _BACKGROUND)
        labels[depends] = _LEFT_OUT
        # Without a certain object, no anchor has label 1, and nobody reads which object it has.
        return (certain[own] if len(certain) else own), labels
