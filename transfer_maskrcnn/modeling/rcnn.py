"""detectron2's detector and its RPN, with what this project adds to their training steps.

The detector's may begin behind its frozen part, and have more losses; the RPN learns nothing from
doubtful objects, and only proposes where it is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from transfer_maskrcnn.modeling.freezing import is_frozen

Batch = list[dict[str, Any]]  # as the mapper gives it
Features = dict[str, Tensor]  # feature maps by name

#: ``gt_classes`` of a doubtful object: what training would say of it is left out of every loss.
#: Detectron2's ROI heads do that by themselves: they sample no proposal whose best object is of
#: class -1.
IGNORED_CLASS = -1


@PROPOSAL_GENERATOR_REGISTRY.register()
class TransferRPN(RPN):
    """detectron2's RPN, whose names of tensors and whose numbers it has, but for two things.

    Where all its weights are frozen, a training step gets the training number of proposals, ``{}``
    for losses, and no graph: they could move only what lies under it. (Where no gradient is wanted,
    as for validation, losses are measured all the same: they stay comparable from phase to phase.)

    An anchor is left out of the losses if its label would depend on whether an object of
    ``IGNORED_CLASS`` is there. All others have the label that they have either way.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.anchor_matcher: CertainMatcher = CertainMatcher(self.anchor_matcher)

    def forward(self, images: Any, features: Any, gt_instances: Any = None) -> Any:
        learns = any(parameter.requires_grad for parameter in self.parameters())
        if learns or not (self.training and torch.is_grad_enabled()):
            return super().forward(images, features, gt_instances)
        with torch.no_grad():
            return super().forward(images, features, [])  # without objects, nothing is to be lost

    def label_and_sample_anchors(self, anchors: Any, gt_instances: Any) -> Any:
        found = []
        for instances in gt_instances:  # one by one: the matcher is not told which image it is at
            self.anchor_matcher.doubtful = instances.gt_classes == IGNORED_CLASS
            found.append(super().label_and_sample_anchors(anchors, [instances]))
        return [labels for (labels,), _ in found], [boxes for _, (boxes,) in found]

    def losses(self, anchors: Any, logits: Any, gt_labels: Any, deltas: Any, gt_boxes: Any) -> Any:
        return super().losses(anchors, logits, gt_labels, deltas, gt_boxes) if gt_labels else {}


class CertainMatcher:
    """Matches anchors to the certain objects, and leaves out what a doubtful one could change.

    Attributes:
        doubtful: (M,) bool, of the objects that are matched next.
    """

    def __init__(self, matcher: Any):
        """
        Args:
            matcher: detectron2's Matcher.
        """
        self.matcher = matcher
        self.doubtful = torch.zeros(0, dtype=torch.bool)

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            quality: (M, N) IoU of M objects and N anchors.

        Returns:
            the object of each anchor, and its label: 1 object, 0 background, -1 left out; both (N,)
        """
        if not self.doubtful.any():
            return self.matcher(quality)
        certain = torch.nonzero(~self.doubtful).flatten().to(quality.device)
        own, labels = self.matcher(quality[certain])
        _, with_doubtful = self.matcher(quality)
        labels[(labels == 0) & (with_doubtful.to(labels.device) != 0)] = -1
        # Without a certain object, no anchor has label 1, and nobody reads which object it has.
        return (certain[own] if len(certain) else own), labels


@dataclass(frozen=True)
class FrozenPart:
    """The longest stretch of a detector, from the image on, that training leaves as it is.

    Attributes:
        name: of ``module`` within the detector.
        module: from padded images to feature maps: the backbone, or its backbone below FPN.
        rpn: the RPN, if its proposals are frozen, too.
    """

    name: str
    module: nn.Module
    rpn: TransferRPN | None


@dataclass(frozen=True)
class Recalled:
    """What the frozen part makes of a batch, from a cache.

    Attributes:
        output: of ``FrozenPart.module``, all images on canvases of one size.
        proposals: of the RPN, image by image; None where it is not frozen.
    """

    output: Features
    proposals: list[Instances] | None


@dataclass(frozen=True)
class Step:
    """What a training step has computed by the time that it has its losses.

    Attributes:
        batch: its input.
        images: the padded batch.
        part: what of the model is frozen.
        frozen: the output of ``part.module``.
        features: of the whole backbone.
    """

    batch: Batch
    images: ImageList
    part: FrozenPart | None
    frozen: Features | None
    features: Features


@META_ARCH_REGISTRY.register()
class TransferRCNN(GeneralizedRCNN):
    """detectron2's GeneralizedRCNN, whose names of tensors and whose numbers it has.

    Evaluation, and losses measured without gradients, know nothing of these:

    Attributes:
        recall: gives what the frozen part makes of a batch; it is then not computed.
        more_losses: gives losses that join the model's own.
    """

    recall: Callable[[Batch], Recalled] | None = None
    more_losses: Callable[[Step], dict[str, Tensor]] | None = None

    def frozen_part(self) -> FrozenPart | None:
        """What of this model is frozen now; None where its backbone trains."""
        backbone: Any = self.backbone
        rpn: Any = self.proposal_generator
        if is_frozen(backbone):
            proposes = type(rpn) is TransferRPN and is_frozen(rpn)
            return FrozenPart("backbone", backbone, rpn if proposes else None)
        backbone = getattr(backbone, "bottom_up", None)
        if isinstance(backbone, nn.Module) and is_frozen(backbone):
            return FrozenPart("backbone.bottom_up", backbone, None)
        return None

    def features_from(self, images: Tensor, part: FrozenPart, output: Features) -> Features:
        """The backbone's features of a padded batch, of which its frozen part gave ``output``.

        Args:
            part: of this model, or of one of the same architecture.
        """
        backbone: Any = self.backbone
        if part.name == "backbone":
            return output
        own, backbone.bottom_up = backbone.bottom_up, _Given(output)
        try:
            return backbone(images)
        finally:
            backbone.bottom_up = own

    def forward(self, batched_inputs: Batch) -> Any:
        learns = self.training and torch.is_grad_enabled()
        if not learns or (self.recall is None and self.more_losses is None):
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        objects = [x["instances"].to(self.device) for x in batched_inputs]
        part, recalled = self.frozen_part(), self.recall and self.recall(batched_inputs)
        frozen: Features | None = None
        if part is None:
            features = self.backbone(images.tensor)
        else:
            frozen = recalled.output if recalled else part.module(images.tensor)
            features = self.features_from(images.tensor, part, frozen)
        if recalled and recalled.proposals is not None:
            proposals, losses = recalled.proposals, {}
        else:
            proposals, losses = self.proposal_generator(images, features, objects)
        _, own = self.roi_heads(images, features, proposals, objects)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        losses = {**own, **losses}  # their sum is GeneralizedRCNN's to the bit
        if self.more_losses is not None:
            losses |= self.more_losses(Step(batched_inputs, images, part, frozen, features))
        return losses


class _Given(nn.Module):
    """Stands for a module whose output is known."""

    def __init__(self, output: Features):
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Features:
        return self.output
