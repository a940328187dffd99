"""The fate of every tensor: what moves, what stays, and why, decided from names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import (
    PRESETS,
    ClassAxis,
    Shape,
    align,
    class_axes,
    grouped,
    is_statistic,
    part_of,
    under,
    unwrapped,
)
from transfer_maskrcnn.surgery.words import Data, Reason
from transfer_maskrcnn.text import first_of

FATES = ("kept", "rows", "initialised", "dropped")
_SCORE = re.compile(r"box_predictor\.(\d\.)?cls_score\.weight$")
_GROUP, _FROZEN, _BATCH = "GroupNorm", "FrozenBN", "BatchNorm"
_Why = tuple[Reason, Data]


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


def describe_target(target: nn.Module | Mapping[str, Tensor]) -> Target:
    """A module tells what is frozen and how it was configured; a state dict only its tensors."""
    if not isinstance(target, nn.Module):
        return Target({k: v for k, v in target.items() if isinstance(v, Tensor)})
    model: Any = unwrapped(target)
    modules = dict(model.named_modules())
    shown = {
        "INPUT.FORMAT": getattr(model, "input_format", None),
        "MODEL.PIXEL_MEAN": getattr(model, "pixel_mean", None),
        "MODEL.PIXEL_STD": getattr(model, "pixel_std", None),
    }
    for name, module in modules.items():
        if name.endswith("res3.0") and isinstance(getattr(module, "conv3", None), nn.Conv2d):
            shown["MODEL.RESNETS.STRIDE_IN_1X1"] = module.conv1.stride != (1, 1)
    settings = {
        key: value.flatten().tolist() if isinstance(value, Tensor) else value
        for key, value in shown.items()
        if value is not None
    }
    return Target(
        {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)},
        frozenset(name for name, p in model.named_parameters() if not p.requires_grad),
        frozenset(n for n, m in modules.items() if type(m).__name__ == "FrozenBatchNorm2d"),
        settings,
    )


@dataclass(frozen=True)
class TensorFate:
    """What happens to one tensor, or to one pair of a source and a target tensor.

    Attributes:
        fate: ``kept`` (copied whole), ``rows`` (class rows copied by name, the rest initialised),
            ``initialised`` (a target tensor that stays as built) or ``dropped`` (a source tensor
            without a place).
        target, target_shape: None for ``dropped``.
        source, source_shape: None for ``initialised``.
        parameters: numbers in the target's tensor (in the source's, for ``dropped``); running
            statistics of norms count as none.
        moved: how many of them come from the source.
        code: why; ``data``: what its sentence tells.
        axes: for ``rows``, where the classes lie.
    """

    fate: str
    target: str | None
    source: str | None
    target_shape: Shape | None
    source_shape: Shape | None
    parameters: int
    moved: int
    code: Reason
    data: Data = field(default_factory=dict)
    axes: tuple[ClassAxis, ...] = ()

    @property
    def name(self) -> str:
        """The target's, or, where it has no place there, the source's."""
        return self.target or self.source or ""

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.code.sentence(self.data)


@dataclass(frozen=True)
class Matching:
    """The pair of source and target, and what is asked for: all that decisions look up.

    Attributes:
        partner: target name -> source name; ``ambiguous``: see :func:`align`.
        norms: target norm module -> why its source must not be copied.
        counts: numbers of classes in the classifiers of source and target, 0 without one.
    """

    source: SourceWeights
    target: Target
    keep: str | tuple[str, ...]
    target_classes: tuple[str, ...] | None
    partner: Mapping[str, str]
    ambiguous: set[str]
    norms: Mapping[str, _Why]
    counts: tuple[int, int]
    source_parts: frozenset[str]

    def keeps(self, name: str) -> bool:
        """Whether KEEP asks for a target tensor."""
        if isinstance(self.keep, str):
            return part_of(name) in PRESETS[self.keep]
        return any(under(name, prefix) for prefix in self.keep)


def match(
    source: SourceWeights,
    target: Target,
    keep: str | tuple[str, ...],
    target_classes: tuple[str, ...] | None,
) -> Matching:
    """Pairs the names of both sides and counts their classes."""
    tensors = source.tensors
    partner, ambiguous = align(tensors, target.tensors)
    scores = [name for name in target.tensors if _SCORE.search(name)]
    theirs = [tensors[partner[name]] for name in scores if name in partner]
    return Matching(
        *(source, target, keep, target_classes, partner, ambiguous),
        _norm_conflicts(source, target.tensors, partner),
        (_class_count(theirs), _class_count([target.tensors[name] for name in scores])),
        frozenset(map(part_of, tensors)),
    )


def _class_count(scores: Sequence[Tensor]) -> int:
    """Foreground classes, from the first classifier's K + 1 rows; 0 where there is none."""
    return max(next((len(score) for score in scores if score.dim()), 1) - 1, 0)


def _norm_kinds(names: Iterable[str]) -> dict[str, str]:
    """Norm module -> kind, from the tensors it has (SyncBN and BatchNorm have the same)."""
    kinds = {"num_batches_tracked": _BATCH, "running_mean": _FROZEN, "weight": _GROUP}
    found = grouped((name.rpartition(".")[::2] for name in names), lambda pair: pair[0])
    leaves = {module: {leaf for _, leaf in pairs} for module, pairs in found.items()}
    return {
        module: next(kind for leaf, kind in kinds.items() if leaf in own)
        for module, own in leaves.items()
        if "running_mean" in own or (module.endswith("norm") and "weight" in own)
    }


def _norm_conflicts(
    source: SourceWeights, target: Iterable[str], partner: Mapping[str, str]
) -> dict[str, _Why]:
    """Target norm modules whose source counterpart must not be copied, and why.

    Scale and shift without statistics are either GroupNorm's or a BatchNorm fused into an affine
    layer (Caffe2's). Fused ones are right in a FrozenBN, whose own statistics are the identity.
    Caffe2's names say which they are; of whole detectors, only GroupNorm stands outside the
    backbone.
    """
    there = _norm_kinds(source.tensors)
    conflicts: dict[str, _Why] = {}
    outside = [k for m, k in there.items() if re.search(r"fpn_|\.mask_fcn|\.box_head\.", m)]
    group_norm = _GROUP in outside or any("_gn_" in old for old in source.renamed.values())
    for module, kind in _norm_kinds(target).items():
        old = there.get(partner.get(f"{module}.weight", "").rpartition(".")[0])
        if old is None or (old == _GROUP) == (kind == _GROUP):
            continue
        if old != _GROUP or group_norm:
            conflicts[module] = (Reason.NORMS, {"there": old, "here": kind})
        elif kind == _BATCH:
            conflicts[module] = (Reason.FUSED, {})
    return conflicts


def decide(m: Matching, classes: int) -> tuple[TensorFate, ...]:
    """The fates of all tensors: the target's in its order, then the source's that have no place.

    Args:
        m: both sides.
        classes: how many target classes get the rows of a source class.
    """
    fates = [_decide_target(m, name, classes) for name in m.target.tensors]
    used = {fate.source for fate in fates}
    refused = {m.partner.get(f.name): (f.code, f.data) for f in fates if f.source is None}
    for name, tensor in m.source.tensors.items():
        if name not in used:
            why = refused.get(name) or _why_homeless(m, name)
            shape = tuple(tensor.shape)
            count = _count(name, shape)
            fates.append(TensorFate("dropped", None, name, None, shape, count, 0, *why))
    return tuple(fates)


def _count(name: str, shape: Shape) -> int:
    return 0 if is_statistic(name) else math.prod(shape)


def _decide_target(m: Matching, name: str, classes: int) -> TensorFate:
    shape = tuple(m.target.tensors[name].shape)
    count, partner = _count(name, shape), m.partner.get(name)
    why = _why_initialised(m, name, partner)
    stays = TensorFate("initialised", name, None, shape, None, count, 0, *(why or (Reason.SAME,)))
    if why or partner is None:
        return stays
    there = tuple(m.source.tensors[partner].shape)
    moves = replace(stays, fate="kept", source=partner, source_shape=there, moved=count)
    axes: tuple[ClassAxis, ...] | None = ()
    if _asks_for_classes(m, name):
        fc1 = name.rpartition("point_head.")[0] + "point_head.fc1.bias"
        fc_out = len(m.target.tensors[fc1]) if fc1 in m.target.tensors else None
        axes = class_axes(name, there, shape, m.counts, fc_out) if all(m.counts) else None
    if axes:
        sizes = {axis.axis: axis.size(classes) for axis in axes}
        moved = math.prod(sizes.get(i, size) for i, size in enumerate(shape))
        scores = Reason.SCORES if any(axis.after for axis in axes) else Reason.ROWS
        code = scores if m.keep == "class_rows" else Reason.COLUMNS
        data = {"what": ["input columns" if axis.axis else "rows" for axis in axes]}
        return replace(moves, fate="rows", moved=moved, code=code, data=data, axes=axes)
    if axes is None or there != shape:
        keypoints = "keypoint_head.score_lowres." in name
        code = Reason.KEYPOINTS if keypoints else Reason.SHAPES
        return replace(stays, code=code, data={"there": list(there), "here": list(shape)})
    return moves if partner == name else replace(moves, code=Reason.SAME_PLACE)


def _asks_for_classes(m: Matching, name: str) -> bool:
    if part_of(name) == "predictors":
        return m.keep == "class_rows" and not name.startswith("sem_seg_head")
    return ".point_head." in name and isinstance(m.keep, str)


def _why_initialised(m: Matching, name: str, partner: str | None) -> _Why | None:
    """Why a target tensor stays as built whatever its shape; None where only that matters."""
    part, module = part_of(name), name.rpartition(".")[0]
    fused = is_statistic(name) and f"{module}.weight" in m.partner
    return first_of(
        (part == "settings", (Reason.SETTINGS, {})),
        (part == "predictors" and m.keep == "all_but_predictors", (Reason.CLASS_NAMES, {})),
        (not m.keeps(name), (Reason.NOT_ASKED, {"keep": m.keep})),
        (partner is not None, m.norms.get(module)),
        (not m.source.tensors, (Reason.NO_WEIGHTS, {})),
        (part not in m.source_parts, (Reason.NO_PART, {"part": part})),
        (_score_weight(name) in m.partner, (Reason.COSINE, {"side": "source"})),
        (fused, (Reason.NO_STATISTICS, {})),
        (True, (Reason.NO_TENSOR, {})),
    )


def _score_weight(name: str) -> str | None:
    """The weight beside a classifier's bias; None for any other tensor."""
    bias = "box_predictor." in name and name.endswith("cls_score.bias")
    return name.removesuffix("bias") + "weight" if bias else None


def _why_homeless(m: Matching, name: str) -> _Why:
    return first_of(
        (name in m.ambiguous, (Reason.AMBIGUOUS, {})),
        (part_of(name) == "settings", (Reason.SETTINGS, {})),
        (_score_weight(name) in m.partner.values(), (Reason.COSINE, {"side": "model"})),
        (True, (Reason.NO_PLACE, {})),
    )
