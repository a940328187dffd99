"""A tensor as detectron2 would have initialised it, from a generator of its own.

The rules are those of ``FPN``, ``ResNet``, ``StandardRPNHead``, ``FastRCNNConvFCHead``,
``FastRCNNOutputLayers``, ``MaskRCNNConvUpsampleHead``, ``KRCNNConvDeconvUpsampleHead`` and
PointRend; the tests compare them with freshly built models.
"""

import math
import re
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from transfer_maskrcnn.surgery.parts import part_of

_SEED = 20170320  # any constant: every process must draw the same numbers
_FROZEN_BN_EPS = 1e-5


def fresh_tensor(name: str, state: Mapping[str, Tensor]) -> Tensor | None:
    """A new initial value for ``state[name]``, the same in every process and every run.

    Args:
        name: a tensor's name in the model's state.
        state: the model's state, whose names tell the kinds of layers.

    Returns:
        a float32 CPU tensor of the same shape; None for a layer that no rule covers.
    """
    shape = state[name].shape
    module, _, leaf = name.rpartition(".")
    if leaf in ("bias", "running_mean", "num_batches_tracked") or "conv2_offset" in module:
        return torch.zeros(shape)
    if leaf == "running_var":
        frozen = f"{module}.num_batches_tracked" not in state
        return torch.ones(shape) - (_FROZEN_BN_EPS if frozen else 0)
    if leaf != "weight":
        return None
    if len(shape) == 1:  # a norm's scale
        return torch.ones(shape)
    return _weight(name, shape)


def _weight(name: str, shape: torch.Size) -> Tensor | None:
    generator = torch.Generator().manual_seed(_SEED ^ zlib.crc32(name.encode()))
    area = math.prod(shape[2:])
    part = part_of(name)
    if part in ("predictors", "RPN"):
        std = 0.01 if part == "RPN" or "cls_score" in name else 0.001
        return torch.empty(shape).normal_(0, std, generator=generator)
    if part == "FPN" or (len(shape) == 2 and re.search(r"\.fc\d+\.weight$", name)):
        bound = math.sqrt(3 / (shape[1] * area))  # c2_xavier_fill
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)
    if part in ("backbone", "box head", "mask head", "keypoint head") and len(shape) > 2:
        std = math.sqrt(2 / (shape[0] * area))  # c2_msra_fill
        return torch.empty(shape).normal_(0, std, generator=generator)
    return None
