"""RPNs that only propose, because nothing of what they could learn would be kept."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from torch import nn


def spare_frozen_rpns(model: nn.Module) -> None:
    """Frozen RPNs only propose; those that train are as detectron2 made them."""
    for module in model.modules():
        if isinstance(module, RPN):
            if any(p.requires_grad for p in module.parameters()):
                module.__dict__.pop("forward", None)
            else:
                module.forward = types.MethodType(only_propose, module)


def only_propose(rpn: Any, images: Any, features: Any, gt_instances: Any = None) -> Any:
    """``RPN.forward`` without labels, losses and a graph: the training number of proposals, ``{}``.

    Its losses could move only what lies under it. Where no gradient is wanted, as for validation,
    they are measured all the same: a sum of losses stays comparable from phase to phase.
    """
    forward = type(rpn).forward
    if not (rpn.training and torch.is_grad_enabled()):
        return forward(rpn, images, features, gt_instances)
    with torch.no_grad(), _without_losses(rpn):
        return forward(rpn, images, features, gt_instances)


@contextmanager
def _without_losses(rpn: Any) -> Iterator[None]:
    before = dict(rpn.__dict__)  # engine.ignored may have replaced a method, too
    rpn.label_and_sample_anchors = lambda anchors, gt_instances: (None, None)
    rpn.losses = lambda *predictions_and_labels: {}
    try:
        yield
    finally:
        rpn.__dict__.clear()
        rpn.__dict__.update(before)
