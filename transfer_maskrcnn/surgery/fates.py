"""The fate of every tensor: what moves, what stays, and why, decided from names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from transfer_maskrcnn.surgery.parts import (
    PRESETS,
    ClassAxis,
    Shape,
    class_axes,
    is_statistic,
    part_of,
    under,
    unwrapped,
)
from transfer_maskrcnn.surgery.words import Data, Reason

FATES = ("kept", "rows", "initialised", "dropped")
_BACKBONE = re.compile(r"(?:^|\.)((?:stem|res[2-5])\..+)$")
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
    model = unwrapped(target)
    modules = dict(model.named_modules())
    settings: dict[str, Any] = {}
    if isinstance(getattr(model, "input_format", None), str):
        settings["INPUT.FORMAT"] = model.input_format
    for key, name in (("MODEL.PIXEL_MEAN", "pixel_mean"), ("MODEL.PIXEL_STD", "pixel_std")):
        value = getattr(model, name, None)
        if isinstance(value, Tensor):
            settings[key] = [float(v) for v in value.flatten().tolist()]
    for name, module in modules.items():
        if name.endswith("res3.0") and isinstance(getattr(module, "conv3", None), nn.Conv2d):
            settings["MODEL.RESNETS.STRIDE_IN_1X1"] = module.conv1.stride != (1, 1)
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
    def reason(self) -> str:
        """Why, in words."""
        return self.code.sentence(self.data)


@dataclass(frozen=True)
class Matching:
    """Everything about the pair of source and target that single decisions look up."""

    source: Mapping[str, Tensor]
    target: Target
    keep: str | tuple[str, ...]
    partner: Mapping[str, str]
    ambiguous: frozenset[str]
    norms: Mapping[str, _Why]
    counts: tuple[int, int]
    source_parts: frozenset[str] = field(default_factory=frozenset)

    def keeps(self, name: str) -> bool:
        """Whether KEEP asks for a target tensor."""
        if isinstance(self.keep, str):
            return part_of(name) in PRESETS[self.keep]
        return any(under(name, prefix) for prefix in self.keep)


def match(
    source: Mapping[str, Tensor],
    renamed: Mapping[str, str],
    target: Target,
    keep: str | tuple[str, ...],
) -> Matching:
    """Pairs the names of both sides and counts their classes."""
    partner, ambiguous = align(source, target.tensors)
    scores = [
        t for t in target.tensors if re.search(r"box_predictor\.(\d\.)?cls_score\.weight$", t)
    ]
    here = _class_count(target.tensors, scores)
    there = _class_count(source, [partner[t] for t in scores if t in partner])
    norms = _norm_conflicts(source, renamed, target.tensors, partner)
    parts = frozenset(part_of(name) for name in source)
    return Matching(
        source, target, keep, partner, frozenset(ambiguous), norms, (there, here), parts
    )


def align(source: Iterable[str], target: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """Which source tensor each target tensor corresponds to, by name alone.

    The same name; else the longest source name that ends the target's name at a dot (zoo backbones
    leave ``backbone.bottom_up.`` away); else the same place in a ResNet backbone that is nested
    elsewhere (an FPN detector's backbone in a C4 detector).

    Returns:
        target name -> source name, each source name at most once; and the source names that were
        left out because they end the names of several target tensors.
    """
    free = set(source)
    target = list(target)
    found = {name: name for name in target if name in free}
    free -= set(found)
    candidates: dict[str, list[str]] = {}
    for name in (n for n in target if n not in found):
        pieces = name.split(".")
        endings = (".".join(pieces[i:]) for i in range(1, len(pieces)))
        suffix = next((ending for ending in endings if ending in free), None)
        if suffix is not None:
            candidates.setdefault(suffix, []).append(name)
    ambiguous = {name for name, places in candidates.items() if len(places) > 1}
    found.update({places[0]: n for n, places in candidates.items() if len(places) == 1})
    free -= set(candidates)
    nested = _backbone_places(free)
    homes = _backbone_places(name for name in target if name not in found)
    found.update({homes[place]: nested[place] for place in homes if place in nested})
    return found, ambiguous


def _backbone_places(names: Iterable[str]) -> dict[str, str]:
    """Place in a backbone (``res2.0.conv1.weight``) -> name, for places that one name only has."""
    places: dict[str, list[str]] = {}
    for name in names:
        if part_of(name) == "backbone" and (found := _BACKBONE.search(name)):
            places.setdefault(found[1], []).append(name)
    return {place: names[0] for place, names in places.items() if len(names) == 1}


def _class_count(tensors: Mapping[str, Tensor], names: Sequence[str]) -> int:
    """Foreground classes, from the first classifier's K + 1 rows; 0 where there is none."""
    rows = (tensors[name].shape[0] for name in names if tensors[name].dim())
    return max(next(rows, 1) - 1, 0)


def _norm_kinds(names: Iterable[str]) -> dict[str, str]:
    """Norm module -> kind, from the tensors it has (SyncBN and BatchNorm have the same)."""
    leaves: dict[str, set[str]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        leaves.setdefault(module, set()).add(leaf)
    return {
        module: _BATCH
        if "num_batches_tracked" in found
        else _FROZEN
        if "running_mean" in found
        else _GROUP
        for module, found in leaves.items()
        if "running_mean" in found or (module.endswith("norm") and "weight" in found)
    }


def _norm_conflicts(
    source: Mapping[str, Any],
    renamed: Mapping[str, str],
    target: Mapping[str, Any],
    partner: Mapping[str, str],
) -> dict[str, _Why]:
    """Target norm modules whose source counterpart must not be copied, and why.

    Scale and shift without statistics are either GroupNorm's or a BatchNorm fused into an affine
    layer (Caffe2's). Fused ones are right in a FrozenBN, whose own statistics are the identity.
    Caffe2's names say which they are; of whole detectors, only GroupNorm stands outside the
    backbone.
    """
    there = _norm_kinds(source)
    conflicts: dict[str, _Why] = {}
    outside = [k for m, k in there.items() if "fpn_" in m or ".mask_fcn" in m or ".box_head." in m]
    group_norm = _GROUP in outside or any("_gn_" in old for old in renamed.values())
    for module, kind in _norm_kinds(target).items():
        name = partner.get(f"{module}.weight")
        old = there.get(name.rpartition(".")[0]) if name else None
        if old is None or (old == _GROUP) == (kind == _GROUP):
            continue
        if old != _GROUP or group_norm:
            conflicts[module] = (Reason.NORMS, {"there": old, "here": kind})
        elif kind == _BATCH:
            conflicts[module] = (Reason.FUSED, {})
    return conflicts


def decide(matching: Matching, classes: int) -> tuple[TensorFate, ...]:
    """The fates of all tensors: the target's in its order, then the source's that have no place.

    Args:
        matching: both sides.
        classes: how many target classes get the rows of a source class.
    """
    fates: list[TensorFate] = []
    reasons: dict[str, _Why] = {}
    for name in matching.target.tensors:
        fate = _decide_target(matching, name, classes)
        fates.append(fate)
        if fate.source is None and name in matching.partner:
            reasons[matching.partner[name]] = (fate.code, fate.data)
    used = {f.source for f in fates}
    for name, tensor in matching.source.items():
        if name not in used:
            why = reasons.get(name) or _why_homeless(matching, name)
            shape = tuple(tensor.shape)
            fates.append(
                TensorFate("dropped", None, name, None, shape, _count(name, shape), 0, *why)
            )
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
    there = tuple(m.source[partner].shape)
    moves = replace(stays, fate="kept", source=partner, source_shape=there, moved=count)
    axes: tuple[ClassAxis, ...] | None = ()
    if _asks_for_classes(m, name):
        fc1 = name.rpartition("point_head.")[0] + "point_head.fc1.bias"
        fc_out = m.target.tensors[fc1].shape[0] if fc1 in m.target.tensors else None
        axes = class_axes(name, there, shape, m.counts, fc_out) if all(m.counts) else None
    if axes:
        moved = moved_count(shape, axes, classes)
        data = {"axes": [a.axis for a in axes], "background": any(a.after for a in axes)}
        code, data = (Reason.ROWS, data) if m.keep == "class_rows" else (Reason.COLUMNS, {})
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


def moved_count(shape: Shape, axes: Sequence[ClassAxis], classes: int) -> int:
    """Numbers that ``rows`` copies into a tensor of ``shape`` for ``classes`` matched classes."""
    sizes = list(shape)
    for axis in axes:
        sizes[axis.axis] = axis.size(classes)
    return math.prod(sizes)


def _why_initialised(m: Matching, name: str, partner: str | None) -> _Why | None:
    """Why a target tensor stays as built whatever its shape; None where only that matters."""
    part, module = part_of(name), name.rpartition(".")[0]
    if part == "settings":
        return Reason.SETTINGS, {}
    if not m.keeps(name):
        if part == "predictors" and m.keep == "all_but_predictors":
            return Reason.CLASS_NAMES, {}
        return Reason.NOT_ASKED, {"keep": m.keep if isinstance(m.keep, str) else list(m.keep)}
    if partner is not None:
        return m.norms.get(module)
    if not m.source:
        return Reason.NO_WEIGHTS, {}
    if part not in m.source_parts:
        return Reason.NO_PART, {"part": part}
    if _score_weight(name) in m.partner:
        return Reason.COSINE, {"side": "source"}
    if is_statistic(name) and f"{module}.weight" in m.partner:
        return Reason.NO_STATISTICS, {}
    return Reason.NO_TENSOR, {}


def _score_weight(name: str) -> str | None:
    """The weight beside a classifier's bias; None for any other tensor."""
    bias = "box_predictor." in name and name.endswith("cls_score.bias")
    return name.removesuffix("bias") + "weight" if bias else None


def _why_homeless(m: Matching, name: str) -> _Why:
    if name in m.ambiguous:
        return Reason.AMBIGUOUS, {}
    if part_of(name) == "settings":
        return Reason.SETTINGS, {}
    if name.endswith(".num_batches_tracked"):
        return Reason.NO_COUNTER, {}
    if _score_weight(name) in m.partner.values():
        return Reason.COSINE, {"side": "model"}
    return Reason.NO_PLACE, {}
