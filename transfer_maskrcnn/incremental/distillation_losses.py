"""What student and teacher say of the same boxes, and how far the student has moved.

The teacher is asked once a batch, on its own proposals. Each loss is a mean, without a weight, and
0 where the two agree; there is a gradient for the student alone. Losses are computed in float32,
whatever comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.modeling.rcnn import Features

SURE = 0.1  # the probability from which on the teacher is taken to see something
PROPOSALS = 64  # an image, the best after NMS
MASKS = 8  # an image, on those proposals where the teacher is surest
NOVEL_OBJECT_IOU = 0.5  # from which on a proposal is on an annotated object of a novel class


@dataclass(frozen=True)
class BaseClasses:
    """The rows of the classes that both models have, in one order.

    Attributes:
        student, teacher: (K,) int64, class numbers in either model.
    """

    student: Tensor
    teacher: Tensor

    @classmethod
    def of(cls, student: Sequence[str], teacher: Sequence[str]) -> BaseClasses:
        """Match by name; rows without a class (""), and all but the first of a name, are left out.

        Args:
            student, teacher: class names in the order of either model's rows.
        """
        names = [name for name in dict.fromkeys(teacher) if name and name in student]
        return cls(
            torch.tensor([student.index(name) for name in names], dtype=torch.int64),
            torch.tensor([teacher.index(name) for name in names], dtype=torch.int64),
        )

    def to(self, device: torch.device) -> BaseClasses:
        return BaseClasses(self.student.to(device), self.teacher.to(device))

    def log_probabilities(self, teacher: Tensor) -> Tensor:
        """What the teacher says of them and, last, of background.

        Args:
            teacher: (R, T + 1) logits, background last.

        Returns:
            (R, K + 1), normalised: a class that the student lacks has no share.
        """
        logits = teacher.float()
        return torch.cat([logits[:, self.teacher], logits[:, -1:]], dim=1).log_softmax(dim=1)


@dataclass(frozen=True)
class Answers:
    """The teacher's, without gradients. Boxes are in pixels of the padded batch.

    Attributes:
        proposals: of each image, its best ones that lie on no novel object; R altogether.
        class_logits: (R, T + 1), background last.
        sure: (C,) those of the R where the best base class has at least ``SURE``.
        classes: (C,) which one, as a place in :class:`BaseClasses`.
        deltas: (C, 4) of that class.
        sure_of_masks: (M,) those of the C where masks are compared.
        mask_boxes: of each image, theirs.
        masks: (M, H, W) logits of that class; None for a model without masks.
        objectness: (N, A) logits of all anchors of each of N images.
    """

    proposals: list[Boxes]
    class_logits: Tensor
    sure: Tensor
    classes: Tensor
    deltas: Tensor
    sure_of_masks: Tensor
    mask_boxes: list[Boxes]
    masks: Tensor | None
    objectness: Tensor


@torch.no_grad()
def ask(
    teacher: nn.Module,
    base: BaseClasses,
    images: ImageList,
    features: Features,
    novel_objects: Sequence[Boxes],
) -> Answers:
    """What ``teacher`` says of a batch.

    A proposal on an annotated object of a novel class is passed over: the teacher, who has never
    seen the class, may take a star for a triangle.

    Args:
        teacher: a GeneralizedRCNN with an RPN, in eval mode.
        base: on the teacher's device.
        images: the padded batch.
        features: the teacher's backbone's.
        novel_objects: annotated boxes of each image.
    """
    model: Any = teacher
    heads: list[Any] = []
    rpn_head = model.proposal_generator.rpn_head
    handle = rpn_head.register_forward_hook(lambda _, inputs, output: heads.append(output))
    found, _ = model.proposal_generator(images, features, None)
    handle.remove()
    proposals = [*map(_off_novel_objects, found, novel_objects)]
    logits, deltas = box_outputs(model.roi_heads, features, proposals)
    probability, best = base.log_probabilities(logits)[:, :-1].exp().max(dim=1)
    sure = torch.nonzero(probability >= SURE).flatten()
    classes = best[sure]
    kept, mask_boxes = _surest(proposals, sure, probability[sure])
    masks = None
    if model.roi_heads.mask_on:
        masks = mask_logits(model.roi_heads, features, mask_boxes)
        masks = of_class(masks, base.teacher[classes[kept]])
    return Answers(
        proposals=proposals,
        class_logits=logits,
        sure=sure,
        classes=classes,
        deltas=of_class(deltas[sure], base.teacher[classes]),
        sure_of_masks=kept,
        mask_boxes=mask_boxes,
        masks=masks,
        objectness=objectness_logits(heads[0]),
    )


def _off_novel_objects(found: Instances, novel_objects: Boxes) -> Boxes:
    boxes = found.proposal_boxes
    if len(novel_objects):
        boxes = boxes[pairwise_iou(boxes, novel_objects).amax(dim=1) < NOVEL_OBJECT_IOU]
    return boxes[:PROPOSALS]


def _surest(
    proposals: Sequence[Boxes], sure: Tensor, probability: Tensor
) -> tuple[Tensor, list[Boxes]]:
    """At most ``MASKS`` of each image's ``sure`` proposals, as places in it, and their boxes."""
    kept, boxes, first = [], [], 0
    for own in proposals:
        here = torch.nonzero((sure >= first) & (sure < first + len(own))).flatten()
        best = here[probability[here].argsort(descending=True, stable=True)[:MASKS]]
        kept.append(best)
        boxes.append(own[sure[best] - first])
        first += len(own)
    return torch.cat(kept), boxes


def box_outputs(roi_heads: Any, features: Features, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
    """Class logits (R, K + 1) and box deltas (R, K or 1, 4) of R given boxes.

    Args:
        roi_heads: StandardROIHeads or Res5ROIHeads, in any mode.
    """
    maps = [features[name] for name in roi_heads.in_features]
    if isinstance(roi_heads, Res5ROIHeads):
        pooled = roi_heads.res5(roi_heads.pooler(maps, boxes)).mean(dim=[2, 3])
    else:
        pooled = roi_heads.box_head(roi_heads.box_pooler(maps, boxes))
    logits, deltas = roi_heads.box_predictor(pooled)
    return logits, deltas.unflatten(1, (-1, 4))


def mask_logits(roi_heads: Any, features: Features, boxes: list[Boxes]) -> Tensor:
    """Mask logits (M, K or 1, H, W) in M given boxes; arguments as of :func:`box_outputs`."""
    is_res5 = isinstance(roi_heads, Res5ROIHeads)
    names = roi_heads.in_features if is_res5 else roi_heads.mask_in_features
    pool = roi_heads.pooler if is_res5 else roi_heads.mask_pooler
    pooled = pool([features[name] for name in names], boxes)
    return roi_heads.mask_head.layers(roi_heads.res5(pooled) if is_res5 else pooled)


def of_class(outputs: Tensor, classes: Tensor) -> Tensor:
    """Of outputs by class (R, K, ...), or for all classes (R, 1, ...), those of one class each.

    Args:
        classes: (R,) int64.
    """
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return outputs[torch.arange(len(classes), device=classes.device), classes]


def objectness_logits(head_output: Any) -> Tensor:
    """(N, A) logits of all anchors, from what an RPN head gives."""
    return torch.cat([level.flatten(1) for level in head_output[0]], dim=1)


def class_loss(student: Tensor, teacher: Tensor, base: BaseClasses) -> Tensor:
    """KL divergence of the student's class probabilities from the teacher's.

    What the teacher calls background may have become a novel class: the student's probabilities of
    background and of all novel classes count as one (Modeling the Background,
    https://arxiv.org/abs/2002.00718; its cross-entropy less the teacher's entropy).

    Args:
        student: (R, S + 1) logits of R boxes, background last.
        teacher: (R, T + 1) likewise, of the same boxes.

    Returns:
        a scalar: the mean over boxes; 0 where there are none.
    """
    logits = student.float()
    is_rest = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    is_rest[base.student] = False
    rest = logits[:, is_rest].logsumexp(dim=1, keepdim=True)
    says = torch.cat([logits[:, base.student], rest], dim=1).log_softmax(dim=1)
    wanted = base.log_probabilities(teacher)
    return _mean(F.kl_div(says, wanted, reduction="none", log_target=True).sum(dim=1))


def background_may_be(hidden: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Logits whose cross-entropy takes "background" for "background, or a class of ``hidden``".

    That is what the label means of classes that nobody annotated: where it stands, the
    probabilities of both count as one (Modeling the Background, https://arxiv.org/abs/2002.00718).

    Args:
        hidden: (H,) int64, the classes.
        logits: (R, S + 1), background last.
        labels: (R,) int64, S for background.

    Returns:
        (R, S + 1) logits; rows of other labels are as they were.
    """
    background = logits.shape[1] - 1
    either = logits[:, [*hidden.tolist(), background]].logsumexp(dim=1, keepdim=True)
    merged = torch.cat([logits[:, :-1].index_fill(1, hidden, -torch.inf), either], dim=1)
    return torch.where((labels == background)[:, None], merged, logits)


def box_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between box deltas, as Fast R-CNN's (https://arxiv.org/abs/1504.08083) to objects.

    Distilling them, class by class, is of https://arxiv.org/abs/1708.06977.

    Args:
        student, teacher: (C, 4) deltas of the same boxes and classes, scaled by
            ``MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS``.

    Returns:
        a scalar: the mean over boxes and coordinates; 0 where there are none.
    """
    return _mean(F.smooth_l1_loss(student.float(), teacher.float(), reduction="none"))


def mask_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy to the teacher's mask probabilities, less their entropy.

    Mask R-CNN's loss (https://arxiv.org/abs/1703.06870) with soft labels.

    Args:
        student, teacher: (M, H, W) logits of the same boxes and classes.

    Returns:
        a scalar: the mean over boxes and pixels; 0 where there are none.
    """
    wanted = teacher.float()
    mine, theirs = (
        F.binary_cross_entropy_with_logits(logits, wanted.sigmoid(), reduction="none")
        for logits in (student.float(), wanted)
    )
    return _mean(mine - theirs)


def objectness_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How much less of an object the student's RPN sees where the teacher's sees one.

    An anchor on a novel object may score as high as it likes: only what is below the teacher
    counts, as in Faster ILOD (https://arxiv.org/abs/2003.03901). Of the difference between the
    logits, not of the squared one between probabilities, so that an object that is lost by far
    still pulls; smooth L1, so that none pulls without bound.

    Args:
        student, teacher: objectness logits of the same anchors, in any one shape.

    Returns:
        a scalar: the mean over anchors that the teacher gives at least ``SURE``; 0 without any.
    """
    wanted = teacher.float()
    sure = wanted.sigmoid() >= SURE
    missing = (wanted[sure] - student.float()[sure]).clamp(min=0)
    return _mean(F.smooth_l1_loss(missing, torch.zeros_like(missing), reduction="none"))


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())
