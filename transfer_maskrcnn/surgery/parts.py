"""What a tensor is, by its name: its part of the model, and where class names show in its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

#: the presets of MODEL.TRANSFER.KEEP: which parts each keeps
PRESETS: Mapping[str, tuple[str, ...]] = {
    "random_init": (),
    "backbone": ("backbone",),
    "backbone_fpn": ("backbone", "FPN"),
    "backbone_fpn_rpn": ("backbone", "FPN", "RPN"),
    "all_but_predictors": (
        *("backbone", "FPN", "RPN", "box head", "mask head", "keypoint head", "rest"),
    ),
    "class_rows": (
        *("backbone", "FPN", "RPN", "box head", "mask head", "keypoint head", "rest"),
        "predictors",
    ),
}

# Order matters. C4's roi_heads.res5 counts as backbone: it is the backbone's last stage, ImageNet
# weights carry it, and with frozen norms it cannot be trained from nothing.
_PARTS = [
    ("settings", r"(^|\.)(pixel_mean|pixel_std|fed_loss_cls_weights)$|anchor_generator\."),
    ("predictors", r"(^|\.)(cls_score|bbox_pred)(\.|$)|(^|\.)mask_head\.predictor\."),
    ("predictors", r"(^|\.)point_head\.predictor\.|(^|\.)coarse_head\.prediction\."),
    ("predictors", r"(^|\.)sem_seg_head\.predictor\."),
    ("FPN", r"^(backbone\.)?(fpn_|simfp_|top_block)"),
    ("backbone", r"^backbone\.|(^|\.)(stem|res[2-5])\."),
    ("RPN", r"^(proposal_generator|rpn_head)\."),
    ("box head", r"(^|\.)box_(head|predictor)\."),
    ("mask head", r"(^|\.)mask_(head|pooler)\."),
    ("keypoint head", r"(^|\.)keypoint_head\."),
]
_PARTS_COMPILED = [(part, re.compile(pattern)) for part, pattern in _PARTS]
_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


@lru_cache(maxsize=2**14)
def part_of(name: str) -> str:
    """The part of a detector that a tensor belongs to: ``backbone``, ``FPN``, ``RPN``,
    ``box head``, ``mask head``, ``keypoint head``, ``predictors``, ``settings`` (of the
    configuration) or ``rest``.

    Predictors are the last layers that depend on class names. ``keypoint_head.score_lowres``
    depends on the keypoints and not on the classes, so it belongs to its head.
    """
    return next((part for part, found in _PARTS_COMPILED if found.search(name)), "rest")


@lru_cache(maxsize=2**14)
def group_of(name: str) -> str:
    """The line of the table that a tensor is counted in: ``backbone.bottom_up.res4``."""
    backbone = re.match(r"(.*?(?:^|\.)(?:stem|res[2-5]))\.", name)
    if backbone:
        return backbone[1]
    if part_of(name) == "FPN":
        return name.rpartition("fpn_")[0] + "fpn" if "fpn_" in name else name.rpartition(".")[0]
    module = name.split(".")[:-1]
    if part_of(name) != "predictors":
        module = module[: 3 if len(module) > 2 and module[2].isdigit() else 2]
    return ".".join(module) or name


def is_statistic(name: str) -> bool:
    """Whether a tensor is a norm's running statistic, which nobody calls a parameter."""
    return name.endswith(_STATISTICS)


def parse_keep(keep: str | Sequence[str]) -> str | tuple[str, ...]:
    """A name of :data:`PRESETS` as it is; anything else as module prefixes ("a.b,c", a list)."""
    if isinstance(keep, str) and keep in PRESETS:
        return keep
    prefixes = keep.split(",") if isinstance(keep, str) else keep
    prefixes = tuple(p.strip().rstrip(".") for p in prefixes if p.strip())
    return prefixes[0] if len(prefixes) == 1 and prefixes[0] in PRESETS else prefixes


def under(name: str, prefix: str) -> bool:
    """Whether a tensor lies in the module ``prefix`` (``fpn_`` ends in the middle of names)."""
    return name.startswith(prefix if prefix.endswith("_") else prefix + ".") or name == prefix


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel or DistributedDataParallel."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


@dataclass(frozen=True)
class ClassAxis:
    """Where classes lie along one axis of a tensor: ``[shared ..., K blocks ..., shared ...]``.

    Attributes:
        axis: 0 for rows (outputs), 1 for input columns (PointRend reads coarse class masks).
        before: indices before the first class.
        per_class: indices of one class: 1 for scores and masks, 4 for boxes.
        after: indices after the last class: 1 for the background of ``cls_score``.
    """

    axis: int
    before: int
    per_class: int
    after: int

    def size(self, classes: int) -> int:
        return self.before + self.per_class * classes + self.after


Shape = tuple[int, ...]


def class_axes(
    name: str, source: Shape, target: Shape, counts: tuple[int, int], fc_out: int | None
) -> tuple[ClassAxis, ...] | None:
    """How the classes of two tensors of the same name correspond.

    Args:
        name: the target tensor.
        source: its shape in the source; ``target``: in the target.
        counts: number of classes of source and target.
        fc_out: output channels of PointRend's ``point_head.fc1``, where there is one.

    Returns:
        one axis each that depends on classes; () if none does (class-agnostic on both sides);
        None if the two layouts have nothing to do with each other.
    """
    if len(source) != len(target) or not source:
        return None
    axes = []
    if part_of(name) == "predictors":
        row = _row_axis(name, source[0], target[0], counts)
        if row is None:
            return None
        axes += [row] if row.per_class else []
    if len(target) > 1 and ".point_head." in name and _reads_classes(name, target, fc_out):
        shared = source[1] - counts[0]
        axes.append(ClassAxis(1, shared, 1, 0))
    sizes = {a.axis: (a.size(counts[0]), a.size(counts[1])) for a in axes}
    pairs = [sizes.get(i, (s, s)) for i, s in enumerate(source)]
    fit = [p[0] for p in pairs] == list(source) and [p[1] for p in pairs] == list(target)
    return tuple(axes) if fit else None


def _row_axis(name: str, source: int, target: int, counts: tuple[int, int]) -> ClassAxis | None:
    """``per_class`` is 0 where the rows do not depend on classes."""
    if "cls_score." in name:
        return ClassAxis(0, 0, 1, 1)
    if source == target and any(
        rows < count or (rows == 4 and count > 1 and "bbox_pred." in name)
        for rows, count in zip((source, target), counts, strict=True)
    ):
        return ClassAxis(0, source, 0, 0)
    if source % counts[0] or target % counts[1] or source // counts[0] != target // counts[1]:
        return None
    return ClassAxis(0, 0, source // counts[0], 0)


def _reads_classes(name: str, shape: Shape, fc_out: int | None) -> bool:
    return name.endswith("point_head.fc1.weight") or (fc_out is not None and shape[1] > fc_out)
