"""What a tensor's name says: in whose words it is, which part of a detector it names, and,
with its shape, where its classes lie.

Shapes are what they are, but for class rows: torchvision and Caffe2 put the background first and
give it box and mask rows; detectron2 puts it last and gives it none, so those tensors are
re-ordered here and nowhere else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from transfer_maskrcnn.errors import ConfigError

Shape = tuple[int, ...]
T = TypeVar("T")
K = TypeVar("K")

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
_PARTS = (
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
)

#: what ImageNet-trained weights of torchvision need; channels are not flipped, so that every kept
#: tensor stays bit-identical to the file
TORCHVISION_EXPECTS: Mapping[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
_DETECTOR_EXPECTS: Mapping[str, Any] = {
    **TORCHVISION_EXPECTS,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
}
# whose names they are, a name that nobody else has, and what such weights expect
_NAMINGS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("torchvision", r"^backbone\.(body|fpn\.inner_blocks)\.", _DETECTOR_EXPECTS),
    ("torchvision backbone", r"^layer[1-4]\.\d+\.conv\d\.weight$", TORCHVISION_EXPECTS),
    ("caffe2", r"^conv1_w$|_branch\d[abc]?_w$|^fc6_w$|^conv_rpn_\w*w$", {}),
)

_BACKBONE = re.compile(r"(?:^|\.)((?:stem|res[2-5])\..+)$")
_AT = r"^(backbone\.bottom_up\.)?"  # of a detector's backbone, or of a backbone alone
_LAYER = rf"{_AT}layer(\d)\.(\d+)\."
# ``.0`` after a block's name came with torchvision 0.14 (Conv2dNormActivation)
_FROM_TORCHVISION: tuple[tuple[str, Any], ...] = (
    (r"^backbone\.body\.", "backbone.bottom_up."),
    (rf"{_AT}conv1\.", r"\1stem.conv1."),
    (rf"{_AT}bn1\.", r"\1stem.conv1.norm."),
    (_LAYER, lambda m: f"{m[1] or ''}res{int(m[2]) + 1}.{m[3]}."),
    (r"(res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"(res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
    (r"(res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (
        r"^backbone\.fpn\.inner_blocks\.(\d)(\.0)?\.",
        lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}.",
    ),
    (
        r"^backbone\.fpn\.layer_blocks\.(\d)(\.0)?\.",
        lambda m: f"backbone.fpn_output{int(m[1]) + 2}.",
    ),
    (r"^rpn\.head\.conv(\.0\.0)?\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
    (
        r"^roi_heads\.mask_head\.(\d)\.0\.",
        lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.",
    ),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The items of each key, in their order, wherever they stand."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


@lru_cache(maxsize=2**14)
def part_of(name: str) -> str:
    """The part of a detector that a tensor belongs to: ``backbone``, ``FPN``, ``RPN``,
    ``box head``, ``mask head``, ``keypoint head``, ``predictors``, ``settings`` (of the
    configuration) or ``rest``.

    Predictors are the last layers that depend on class names. ``keypoint_head.score_lowres``
    depends on the keypoints and not on the classes, so it belongs to its head.
    """
    return next((part for part, pattern in _PARTS if re.search(pattern, name)), "rest")


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
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def parse_keep(keep: str | Sequence[str]) -> str | tuple[str, ...]:
    """A name of :data:`PRESETS` as it is; anything else as module prefixes ("a.b,c", a list)."""
    if not isinstance(keep, (str, list, tuple)):
        raise ConfigError(
            f"keep is {keep!r}; expected one of {', '.join(PRESETS)}, or module prefixes as a list"
        )
    pieces = keep.split(",") if isinstance(keep, str) else keep
    prefixes = tuple(p.strip().rstrip(".") for p in pieces if p.strip())
    return prefixes[0] if len(prefixes) == 1 and prefixes[0] in PRESETS else prefixes


def under(name: str, prefix: str) -> bool:
    """Whether a tensor lies in the module ``prefix`` (``fpn_`` ends in the middle of names)."""
    return name.startswith(prefix if prefix.endswith("_") else prefix + ".") or name == prefix


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel or DistributedDataParallel."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


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
    rest = (name for name in target if name not in found)
    candidates = grouped(rest, lambda name: _suffix(name, free))
    candidates.pop("", None)
    ambiguous = {name for name, places in candidates.items() if len(places) > 1}
    found.update({places[0]: n for n, places in candidates.items() if len(places) == 1})
    nested = _backbone_places(free - set(candidates))
    homes = _backbone_places(name for name in target if name not in found)
    found.update({homes[place]: nested[place] for place in homes if place in nested})
    return found, ambiguous


def _suffix(name: str, known: Collection[str]) -> str:
    """The longest of ``known`` that ends ``name`` at a dot; "" where none does."""
    pieces = name.split(".")
    endings = (".".join(pieces[i:]) for i in range(1, len(pieces)))
    return next((ending for ending in endings if ending in known), "")


def _backbone_places(names: Iterable[str]) -> dict[str, str]:
    """Place in a backbone (``res2.0.conv1.weight``) -> name, for places that one name only has."""
    found = (name for name in names if part_of(name) == "backbone" and _BACKBONE.search(name))
    places = grouped(found, lambda name: _BACKBONE.findall(name)[0])
    return {place: own[0] for place, own in places.items() if len(own) == 1}


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
    if len(target) > 1 and (
        name.endswith("point_head.fc1.weight")
        or (".point_head." in name and fc_out is not None and target[1] > fc_out)
    ):
        axes.append(ClassAxis(1, source[1] - counts[0], 1, 0))
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


def translate(
    raw: Mapping[str, Tensor], author: str = ""
) -> tuple[Mapping[str, Tensor], str, Mapping[str, str], Mapping[str, Any]]:
    """Recognises whose names ``raw`` uses and returns its tensors under detectron2's.

    Args:
        raw: name in the file -> tensor.
        author: the ``__author__`` of a zoo-format file, which says where a backbone is from.

    Returns:
        ``tensors``, ``naming``, ``renamed`` and ``expects`` of a :class:`SourceWeights`.

    Raises:
        AssertionError, ValueError, KeyError: malformed or repeated names.
    """
    prefix = "module." if all(k.startswith("module.") for k in raw) else ""  # DataParallel's
    bare = {k.removeprefix(prefix): v for k, v in raw.items()}
    ours = ("detectron2", "", TORCHVISION_EXPECTS if author == "torchvision" else {})
    naming, _, expects = next(
        (n for n in _NAMINGS if any(re.search(n[1], name) for name in bare)), ours
    )
    tensors, originals = _renamed(bare, naming)
    found = {new: prefix + originals.get(new, new) for new in tensors}
    return tensors, naming, {k: v for k, v in found.items() if k != v}, expects


def _renamed(raw: dict[str, Tensor], naming: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under detectron2's names, and detectron2's name -> the file's."""
    if naming == "detectron2":
        return raw, {}
    if naming == "caffe2":
        return _from_caffe2(raw)
    tensors: dict[str, Tensor] = {}
    originals: dict[str, str] = {}
    for old, tensor in raw.items():
        new = old
        for pattern, replacement in _FROM_TORCHVISION:
            new = re.sub(pattern, replacement, new)
        if new in tensors:
            raise ValueError(f"{originals[new]} and {old} both mean {new}")
        tensors[new] = _background_last(new, tensor) if naming == "torchvision" else tensor
        originals[new] = old
    return tensors, originals


def _background_last(name: str, tensor: Tensor) -> Tensor:
    """Background row first -> last (classifier) or gone (boxes, masks); (K+1)-row layouts."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return torch.cat([tensor[1:], tensor[:1]])
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return tensor[4:]
    return tensor[1:] if name.startswith("roi_heads.mask_head.predictor.") else tensor


def _from_caffe2(raw: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    logger = logging.getLogger("detectron2.checkpoint.c2_model_loading")
    logger.disabled = True  # it announces every renamed row
    try:
        tensors, originals = convert_c2_detectron_names(raw)
    finally:
        logger.disabled = False
    return tensors, originals
