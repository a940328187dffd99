"""The fate of every tensor: what moves, what stays, and why, decided from names and shapes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from transfer_maskrcnn.surgery.norms import norm_conflicts
from transfer_maskrcnn.surgery.parts import (
    PRESETS,
    ClassAxis,
    Shape,
    align,
    class_axes,
    is_statistic,
    part_of,
    under,
)
from transfer_maskrcnn.surgery.target import Target

FATES = ("kept", "rows", "initialised", "dropped")


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
        reason: why, in words.
        axes: for ``rows``, where the classes lie.
    """

    fate: str
    target: str | None
    source: str | None
    target_shape: Shape | None
    source_shape: Shape | None
    parameters: int
    moved: int
    reason: str
    axes: tuple[ClassAxis, ...] = ()


@dataclass(frozen=True)
class Matching:
    """Everything about the pair of source and target that single decisions look up."""

    source: Mapping[str, Tensor]
    target: Target
    keep: str | tuple[str, ...]
    partner: Mapping[str, str]
    ambiguous: frozenset[str]
    norms: Mapping[str, str]
    counts: tuple[int, int]
    source_parts: frozenset[str] = field(default_factory=frozenset)

    def keeps(self, name: str) -> bool:
        """Whether KEEP asks for a target tensor."""
        if isinstance(self.keep, str):
            return part_of(name) in PRESETS[self.keep]
        return any(under(name, prefix) for prefix in self.keep)


def match(
    source: Mapping[str, Tensor], target: Target, keep: str | tuple[str, ...], group_norm: bool
) -> Matching:
    """Pairs the names of both sides and counts their classes."""
    partner, ambiguous = align(source, target.tensors)
    scores = [
        t for t in target.tensors if re.search(r"box_predictor\.(\d\.)?cls_score\.weight$", t)
    ]
    here = _class_count(target.tensors, scores)
    there = _class_count(source, [partner[t] for t in scores if t in partner])
    conflicts = norm_conflicts(source, target.tensors, partner, group_norm)
    parts = frozenset(part_of(name) for name in source)
    return Matching(
        source, target, keep, partner, frozenset(ambiguous), conflicts, (there, here), parts
    )


def _class_count(tensors: Mapping[str, Tensor], names: Sequence[str]) -> int:
    """Foreground classes, from the first classifier's K + 1 rows; 0 where there is none."""
    rows = (tensors[name].shape[0] for name in names if tensors[name].dim())
    return max(next(rows, 1) - 1, 0)


def decide(matching: Matching, classes: int) -> tuple[TensorFate, ...]:
    """The fates of all tensors: the target's in its order, then the source's that have no place.

    Args:
        matching: both sides.
        classes: how many target classes get the rows of a source class.
    """
    fates: list[TensorFate] = []
    reasons: dict[str, str] = {}
    for name in matching.target.tensors:
        fate = _decide_target(matching, name, classes)
        fates.append(fate)
        if fate.source is None and name in matching.partner:
            reasons[matching.partner[name]] = fate.reason
    used = {f.source for f in fates}
    for name, tensor in matching.source.items():
        if name not in used:
            reason = reasons.get(name) or _why_homeless(matching, name)
            shape = tuple(tensor.shape)
            count = _count(name, shape)
            fates.append(TensorFate("dropped", None, name, None, shape, count, 0, reason))
    return tuple(fates)


def _count(name: str, shape: Shape) -> int:
    return 0 if is_statistic(name) else math.prod(shape)


def _decide_target(m: Matching, name: str, classes: int) -> TensorFate:
    shape = tuple(m.target.tensors[name].shape)
    count = _count(name, shape)
    stays = TensorFate("initialised", name, None, shape, None, count, 0, "")
    part, partner = part_of(name), m.partner.get(name)
    if part == "settings":
        return replace(stays, reason="the configuration sets it")
    if not m.keeps(name):
        return replace(stays, reason=_why_not_kept(m, part))
    if partner is None:
        return replace(stays, reason=_why_missing(m, name, part))
    module = name.rpartition(".")[0]
    if module in m.norms:
        return replace(stays, reason=m.norms[module])
    there = tuple(m.source[partner].shape)
    moves = replace(stays, fate="kept", source=partner, source_shape=there, moved=count)
    axes: tuple[ClassAxis, ...] | None = ()
    if _asks_for_classes(m, name):
        fc1 = name.rpartition("point_head.")[0] + "point_head.fc1.bias"
        fc_out = m.target.tensors[fc1].shape[0] if fc1 in m.target.tensors else None
        axes = class_axes(name, there, shape, m.counts, fc_out) if all(m.counts) else None
    if axes:
        moved = moved_count(shape, axes, classes)
        reason = _why_rows(axes, m.keep)
        return replace(moves, fate="rows", moved=moved, reason=reason, axes=axes)
    if axes is None or there != shape:
        return replace(stays, reason=_why_unfit(name, there, shape))
    return replace(
        moves, reason="same name and shape" if partner == name else "same place, name and shape"
    )


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


def _why_rows(axes: Sequence[ClassAxis], keep: str | tuple[str, ...]) -> str:
    if keep != "class_rows":
        return "all but the columns that read coarse masks of classes"
    kinds = ["rows" if axis.axis == 0 else "input columns" for axis in axes]
    return f"{' and '.join(kinds)} of matched classes" + (
        ", background kept" if any(axis.after for axis in axes) else ""
    )


def _why_not_kept(m: Matching, part: str) -> str:
    if part == "predictors" and m.keep == "all_but_predictors":
        return "depends on the class names; KEEP all_but_predictors starts it anew"
    shown = m.keep if isinstance(m.keep, str) else ",".join(m.keep)
    return f"KEEP {shown} does not ask for it"


def _why_missing(m: Matching, name: str, part: str) -> str:
    if not m.source:
        return "there are no source weights"
    if part not in m.source_parts:
        return f"the source has no {part}"
    if _is_score_bias(name) and _beside(name) in m.partner:
        return _no_bias("source")
    if is_statistic(name) and name.rpartition(".")[0] + ".weight" in m.partner:
        return "the source's norms carry no statistics; identity is right for fused ones"
    return "the source has no such tensor"


def _is_score_bias(name: str) -> bool:
    return "box_predictor." in name and name.endswith("cls_score.bias")


def _no_bias(side: str) -> str:
    return (
        f"the {side} scores by cosine (COSINE_SCALE), which has no bias: what is kept scores "
        "differently until it is trained"
    )


def _beside(bias: str) -> str:
    return bias.removesuffix("bias") + "weight"


def _why_unfit(name: str, source: Shape, target: Shape) -> str:
    shapes = f"{list(source)} in the source, {list(target)} in the target"
    if "keypoint_head.score_lowres." in name:
        return f"other keypoints: {shapes}"
    return f"shapes differ: {shapes}"


def _why_homeless(m: Matching, name: str) -> str:
    if name in m.ambiguous:
        return "its name is the end of several target names"
    if part_of(name) == "settings":
        return "the configuration sets it"
    if name.endswith(".num_batches_tracked"):
        return "a frozen norm counts no batches"
    if _is_score_bias(name) and _beside(name) in m.partner.values():
        return _no_bias("model")
    return "the target has no such tensor"
