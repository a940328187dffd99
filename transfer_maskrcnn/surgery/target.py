"""What a plan needs to know about the model that receives weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """A model or its state dict, as a plan sees it.

    Attributes:
        tensors: name -> tensor, in the model's order.
        frozen: parameters that will not be trained (``requires_grad`` False).
        frozen_norms: names of FrozenBatchNorm modules.
        settings: configuration key -> value, as far as the built model shows them.
    """

    tensors: Mapping[str, Tensor]
    frozen: frozenset[str] = frozenset()
    frozen_norms: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel or DistributedDataParallel."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def describe_target(target: nn.Module | Mapping[str, Tensor]) -> Target:
    """A module tells what is frozen and how it was configured; a state dict only its tensors."""
    if not isinstance(target, nn.Module):
        return Target({k: v for k, v in target.items() if isinstance(v, Tensor)})
    model = unwrapped(target)
    norms = {n for n, m in model.named_modules() if type(m).__name__ == "FrozenBatchNorm2d"}
    return Target(
        {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)},
        frozenset(name for name, p in model.named_parameters() if not p.requires_grad),
        frozenset(norms),
        _settings(model),
    )


def _settings(model: nn.Module) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if isinstance(getattr(model, "input_format", None), str):
        settings["INPUT.FORMAT"] = model.input_format
    for key, name in (("MODEL.PIXEL_MEAN", "pixel_mean"), ("MODEL.PIXEL_STD", "pixel_std")):
        value = getattr(model, name, None)
        if isinstance(value, Tensor):
            settings[key] = [float(v) for v in value.flatten().tolist()]
    for name, module in model.named_modules():
        if name.endswith("res3.0") and isinstance(getattr(module, "conv3", None), nn.Conv2d):
            settings["MODEL.RESNETS.STRIDE_IN_1X1"] = module.conv1.stride != (1, 1)
    return settings
