"""Doubtful objects: what training would say of them is left out of every loss.

An anchor or a proposal is left out if its label would depend on whether the doubtful object is
there. All others have the label that they have either way, so nothing is lost beside.

Detectron2's ROI heads do that by themselves: a proposal whose best object is of class -1 is not
sampled. Its RPN asks no class; :func:`leave_out_doubtful` makes it do so.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from transfer_maskrcnn.errors import ConfigError

#: ``gt_classes`` of a doubtful object. Detectron2's ROI heads sample no proposal of this class.
IGNORED_CLASS = -1
_BACKGROUND, _LEFT_OUT = 0, -1


def leave_out_doubtful(model: nn.Module) -> None:
    """Make ``model`` learn nothing from objects whose ``gt_classes`` is ``IGNORED_CLASS``, in place.

    Raises:
        ConfigError: ROI heads that would take them for objects: cascades, keypoints.
    """
    heads: Any = getattr(model, "roi_heads", None)
    cascade = isinstance(getattr(heads, "box_predictor", None), nn.ModuleList)
    if cascade or getattr(heads, "keypoint_on", False):
        raise ConfigError(
            f"MODEL.TRANSFER.PSEUDO_LABELS with {type(heads).__name__}"
            f"{'' if cascade else ' and keypoints'}: doubtful objects cannot be left out of its "
            "losses; use StandardROIHeads without keypoints, or train on what "
            "tools/pseudo_label.py writes"
        )
    for module in model.modules():
        if isinstance(module, RPN):
            module.label_and_sample_anchors = types.MethodType(_label_and_sample, module)


def _label_and_sample(
    rpn: Any, anchors: list[Boxes], gt_instances: list[Instances]
) -> tuple[list[Tensor], list[Tensor]]:
    """``RPN.label_and_sample_anchors``, image by image, with the matcher of that image."""
    labels: list[Tensor] = []
    boxes: list[Tensor] = []
    for instances in gt_instances:
        with _matcher(rpn, instances.gt_classes == IGNORED_CLASS):
            found = type(rpn).label_and_sample_anchors(rpn, anchors, [instances])
        labels += found[0]
        boxes += found[1]
    return labels, boxes


@contextmanager
def _matcher(rpn: Any, doubtful: Tensor) -> Iterator[None]:
    stock = rpn.anchor_matcher
    rpn.anchor_matcher = lambda quality: match_anchors(stock, quality, doubtful)
    try:
        yield
    finally:
        rpn.anchor_matcher = stock


def match_anchors(matcher: Any, quality: Tensor, doubtful: Tensor) -> tuple[Tensor, Tensor]:
    """Match anchors to the certain objects, and leave out what a doubtful one could change.

    Args:
        matcher: detectron2's Matcher.
        quality: (M, N) IoU of M objects and N anchors.
        doubtful: (M,) bool.

    Returns:
        the object of each anchor, and its label: 1 object, 0 background, -1 left out. Both (N,).
    """
    certain = torch.nonzero(~doubtful).flatten().to(quality.device)
    if len(certain) == len(quality):
        matched: tuple[Tensor, Tensor] = matcher(quality)
        return matched
    own, labels = matcher(quality[certain])
    _, with_doubtful = matcher(quality)
    depends = (labels == _BACKGROUND) & (with_doubtful.to(labels.device) != _BACKGROUND)
    labels[depends] = _LEFT_OUT
    # Without a certain object, no anchor has label 1, and nobody reads which object it has.
    return (certain[own] if len(certain) else own), labels
