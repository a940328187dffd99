"""What of a config decides how a dataset fits it, and the lines of a new config."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from transfer_maskrcnn.doctor.anchors import Settings
from transfer_maskrcnn.errors import ConfigError

WIDTH = 100
Tree = dict[str, Any]  # a part of a key -> what is below it, or the Line that ends there


@dataclass(frozen=True)
class Line:
    """One key of a config.

    Attributes:
        key: dotted, as in ``SOLVER.MAX_ITER``.
        value: what YAML can hold.
        reason: in plain words; becomes the comment above it.
    """

    key: str
    value: Any
    reason: str


def yaml_text(lines: Iterable[Line]) -> str:
    """The lines as nested YAML, each under its reason, in order of their first appearance."""
    tree: Tree = {}
    for line in lines:
        *groups, last = line.key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = line
    return "".join(f"{row}\n" for row in _rows(tree, ""))


def _rows(tree: Tree, indent: str) -> Iterable[str]:
    for key, below in tree.items():
        if isinstance(below, Line):
            yield from comment(below.reason, indent)
            yield f"{indent}{key}: {scalar(below.value)}"
        else:
            yield f"{indent}{key}:"
            yield from _rows(below, indent + "  ")


def comment(text: str, indent: str = "") -> list[str]:
    """``text`` as comment lines of at most 100 columns."""
    wrapper = textwrap.TextWrapper(WIDTH, f"{indent}# ", f"{indent}# ", break_on_hyphens=False)
    return wrapper.wrap(text)


def scalar(value: Any) -> str:
    """``value`` on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def settings_of(cfg: CfgNode) -> Settings:
    """What of ``cfg`` decides how a dataset fits it. Reads no dataset and no weights.

    Raises:
        ConfigError: RPN.IN_FEATURES that the backbone lacks; anchors for another number of levels.
    """
    strides = _strides(cfg)
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    return Settings(
        min_size_train=tuple(cfg.INPUT.MIN_SIZE_TRAIN),
        size_sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        max_size_train=cfg.INPUT.MAX_SIZE_TRAIN,
        min_size_test=cfg.INPUT.MIN_SIZE_TEST,
        max_size_test=cfg.INPUT.MAX_SIZE_TEST,
        anchor_sizes=_levels(anchors.SIZES, len(strides), "SIZES"),
        aspect_ratios=_levels(anchors.ASPECT_RATIOS, len(strides), "ASPECT_RATIOS"),
        strides=strides,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )


def _strides(cfg: CfgNode) -> tuple[int, ...]:
    with torch.device("meta"):  # shapes alone: no memory, no time, no random number
        shapes = build_backbone(cfg).output_shape()
    for name in cfg.MODEL.RPN.IN_FEATURES:
        if name not in shapes:
            raise ConfigError(
                f"MODEL.RPN.IN_FEATURES names {name!r}; the backbone has {', '.join(shapes)}"
            )
    return tuple(shapes[name].stride for name in cfg.MODEL.RPN.IN_FEATURES)


def _levels(
    values: Sequence[Sequence[float]], levels: int, key: str
) -> tuple[tuple[float, ...], ...]:
    """One row a level, as detectron2 broadcasts them."""
    rows = values if isinstance(values[0], Sequence) else [values]
    if len(rows) not in (1, levels):
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.{key} has {len(rows)} rows; expected 1, or {levels}: one for "
            "each of MODEL.RPN.IN_FEATURES"
        )
    rows = list(rows) * levels if len(rows) == 1 else rows
    return tuple(tuple(float(value) for value in row) for row in rows)
