"""Names in weight files -> detectron2's names. Shapes are what they are, but for class rows.

torchvision and Caffe2 put the background first and give it box and mask rows; detectron2 puts it
last and gives it none, so those tensors are re-ordered here and nowhere else.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

#: what ImageNet-trained weights of torchvision need; channels are not flipped, so that every kept
#: tensor stays bit-identical to the file
TORCHVISION_EXPECTS: Mapping[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
_TORCHVISION_DETECTOR_EXPECTS: Mapping[str, Any] = {
    **TORCHVISION_EXPECTS,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
}

_BACKBONE_RULES = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm."),
    (r"^layer(\d)\.(\d+)\.conv(\d)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
]
# ``.0`` after a block's name came with torchvision 0.14 (Conv2dNormActivation)
_DETECTOR_RULES = [
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
]


@dataclass(frozen=True)
class Translation:
    """``tensors`` under detectron2's names; the rest as in :class:`SourceWeights`."""

    tensors: dict[str, Tensor]
    naming: str = "detectron2"
    renamed: dict[str, str] = field(default_factory=dict)
    expects: Mapping[str, Any] = field(default_factory=dict)


def translate(raw: Mapping[str, Tensor], author: str = "") -> Translation:
    """Recognises whose names ``raw`` uses and returns its tensors under detectron2's.

    Args:
        raw: name in the file -> tensor.
        author: the ``__author__`` of a zoo-format file, which says where a backbone is from.

    Raises:
        AssertionError, ValueError, KeyError: malformed or repeated names.
    """
    prefix = "module." if all(k.startswith("module.") for k in raw) else ""  # DataParallel's
    bare = {k.removeprefix(prefix): v for k, v in raw.items()}
    result = _translate_bare(bare, author)
    originals = {new: prefix + result.renamed.get(new, new) for new in result.tensors}
    renamed = {new: old for new, old in originals.items() if new != old}
    return replace(result, renamed=renamed)


def _translate_bare(raw: dict[str, Tensor], author: str) -> Translation:
    if any(k.startswith(("backbone.body.", "backbone.fpn.inner_blocks.")) for k in raw):
        result = _rename(raw, _torchvision_detector_name)
        tensors = {k: _background_last(k, v) for k, v in result.tensors.items()}
        return Translation(tensors, "torchvision", result.renamed, _TORCHVISION_DETECTOR_EXPECTS)
    if any(re.match(r"layer[1-4]\.\d+\.conv\d\.weight$", k) for k in raw):
        result = _rename(raw, _backbone_name)
        return replace(result, naming="torchvision backbone", expects=TORCHVISION_EXPECTS)
    if any(re.search(r"^conv1_w$|_branch\d[abc]?_w$|^fc6_w$|^conv_rpn_\w*w$", k) for k in raw):
        return _from_caffe2(raw)
    return Translation(raw, expects=TORCHVISION_EXPECTS if author == "torchvision" else {})


def _rename(raw: Mapping[str, Tensor], rename: Callable[[str], str]) -> Translation:
    tensors: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    for old, tensor in raw.items():
        new = rename(old)
        if new in tensors:
            raise ValueError(f"{renamed.get(new, new)} and {old} both mean {new}")
        tensors[new] = tensor
        renamed[new] = old
    return Translation(tensors, renamed=renamed)


def _apply(rules: list[tuple[str, Any]], name: str) -> str:
    for pattern, replacement in rules:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name


def _backbone_name(name: str) -> str:
    return _apply(_BACKBONE_RULES, name)


def _torchvision_detector_name(name: str) -> str:
    if name.startswith("backbone.body."):
        return "backbone.bottom_up." + _backbone_name(name.removeprefix("backbone.body."))
    return _apply(_DETECTOR_RULES, name)


def _background_last(name: str, tensor: Tensor) -> Tensor:
    """Background row first -> last (classifier) or gone (boxes, masks); (K+1)-row layouts."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return torch.cat([tensor[1:], tensor[:1]])
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return tensor[4:]
    if name.startswith("roi_heads.mask_head.predictor."):
        return tensor[1:]
    return tensor


def _from_caffe2(raw: Mapping[str, Tensor]) -> Translation:
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    logger = logging.getLogger("detectron2.checkpoint.c2_model_loading")
    was_disabled, logger.disabled = logger.disabled, True  # it announces every renamed row
    try:
        tensors, renamed = convert_c2_detectron_names(dict(raw))
    finally:
        logger.disabled = was_disabled
    return Translation(tensors, "caffe2", renamed)
