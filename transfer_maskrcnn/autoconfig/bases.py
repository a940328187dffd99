"""The base config that fits weights, and what has to change in it where there is no GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from transfer_maskrcnn.autoconfig.lines import Line
from transfer_maskrcnn.config import flat_config, load_config
from transfer_maskrcnn.errors import ConfigError, WeightFileError, nearest
from transfer_maskrcnn.files import shipped
from transfer_maskrcnn.modeling.precision import cpu_has_bf16
from transfer_maskrcnn.surgery.checks import backbone_convs
from transfer_maskrcnn.surgery.known import DEFAULT, KNOWN
from transfer_maskrcnn.surgery.load import SourceWeights, load_weights
from transfer_maskrcnn.surgery.names import part_of
from transfer_maskrcnn.text import listed

BASES = tuple(
    dict.fromkeys(
        [
            *(one.base for one in KNOWN.values()),
            *("Base-thin-R50-FPN-cpu.yaml", "shapes/Base-shapes.yaml"),
        ]
    )
)
_FULL_WIDTH = 256  # channels of res2 in a ResNet as it was published
_CPU_SIDE, _CPU_LONG = 480, 800
_FPN = "backbone.fpn_output2.weight"


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        weights: as MODEL.WEIGHTS takes it.
        base: the config that has its architecture.
        is_detector: it has an RPN, not a backbone alone.
        expects: configuration key -> value that the weights need.
    """

    weights: str
    base: str
    is_detector: bool = True
    expects: Mapping[str, Any] = field(default_factory=dict)


def address_of(weights: str) -> str:
    """What MODEL.WEIGHTS says for a known name, a file, a run's folder or an address.

    Raises:
        WeightFileError: it is none of them.
    """
    if weights in KNOWN:
        return KNOWN[weights].address
    if "://" in weights or weights.endswith(".yaml"):  # of the model zoo
        return weights
    path = os.path.abspath(shipped(weights))
    if not os.path.exists(path):
        raise WeightFileError(
            f"--weights {weights}: there is no such file{nearest(weights, KNOWN)}; known by name "
            f"are {listed(KNOWN)}"
        )
    return path


def start_of(weights: str | None) -> Start:
    """
    Args:
        weights: as for :func:`address_of`; None: COCO's R50-FPN.

    Raises:
        WeightFileError: they cannot be read.
        ConfigError: no base has their architecture.
    """
    name = weights or DEFAULT
    if name in KNOWN:
        return Start(KNOWN[name].address, KNOWN[name].base, KNOWN[name].box_ap is not None)
    address = address_of(name)
    source = load_weights(address)
    detector = any(part_of(tensor) == "RPN" for tensor in source.tensors)
    return Start(address, _base_of(source), detector, source.expects)


def _base_of(source: SourceWeights) -> str:
    own = _outline(source.tensors)
    for base in BASES:
        with torch.device("meta"):  # shapes alone
            state = build_backbone(load_config(base)).state_dict()
        has = _outline({f"backbone.{name}": tensor for name, tensor in state.items()})
        if own and own == {name: has[name] for name in has if name in own or name != _FPN}:
            return base
    raise ConfigError(
        f"{source.path}: no base config has its backbone; there are {listed(BASES)}. Write one for "
        "it, with _BASE_: Base-Transfer-RCNN-FPN.yaml, and give it to the command config as --base"
    )


def _outline(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of a backbone's convolutions, and of one of the FPN's if it has one."""
    fpn = {_FPN: tuple(tensors[_FPN].shape)} if _FPN in tensors else {}
    return backbone_convs(tensors) | fpn


def start_lines(start: Start, cfg: CfgNode) -> list[Line]:
    """Where the base ``cfg`` has to change for the weights, and for a device without a GPU."""
    has = dict(flat_config(cfg))
    lines = [
        Line(key, value, "What these weights were trained with.")
        for key, value in start.expects.items()
        if has[key] != value
    ]
    full = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS >= _FULL_WIDTH
    return lines + (_cpu_lines(start, cfg) if full and cfg.MODEL.DEVICE == "cpu" else [])


def _cpu_lines(start: Start, cfg: CfgNode) -> list[Line]:
    """A model that two cores can train: heads on features that are computed once an image."""
    frozen, batch = "backbone_fpn_rpn" if start.is_detector else "backbone", 2
    rate = cfg.SOLVER.BASE_LR * batch / cfg.SOLVER.IMS_PER_BATCH
    small = "There is no GPU here: smaller images"
    return [
        Line(
            "MODEL.TRANSFER.FREEZE",
            frozen,
            "There is no GPU here: this part stays, what it makes of an image is computed once, "
            'and the rest learns in seconds a step. "" trains all.',
        ),
        Line("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 128, "A quarter of detectron2's, for a CPU."),
        Line("INPUT.MIN_SIZE_TRAIN", [_CPU_SIDE], f"{small}, and one size, so that this works."),
        Line("INPUT.MAX_SIZE_TRAIN", _CPU_LONG, f"{small}."),
        Line("INPUT.MIN_SIZE_TEST", _CPU_SIDE, f"{small}."),
        Line("INPUT.MAX_SIZE_TEST", _CPU_LONG, f"{small}."),
        Line("SOLVER.IMS_PER_BATCH", batch, "For a CPU."),
        Line("SOLVER.BASE_LR", rate, "For that batch."),
        Line("SOLVER.AMP.ENABLED", cpu_has_bf16(), "bf16, if this CPU has it."),
    ]
