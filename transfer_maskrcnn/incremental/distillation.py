"""How far a model has moved from what its source says of the source's own classes.

Each loss is a mean, without a weight, and 0 where student and teacher agree; there is a gradient
for the student alone. They are computed in float32, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SURE = 0.1  # the probability from which on the teacher is taken to see something


@dataclass(frozen=True)
class OldClasses:
    """The rows of the classes that both models have, in one order.

    Attributes:
        student, teacher: (K,) int64, class numbers in either model.
    """

    student: Tensor
    teacher: Tensor

    @classmethod
    def of(cls, student: Sequence[str], teacher: Sequence[str]) -> OldClasses:
        """Match by name; rows without a class (""), and all but the first of a name, are left out.

        Args:
            student, teacher: class names in the order of either model's rows.
        """
        names = [name for name in dict.fromkeys(teacher) if name and name in student]
        return cls(
            torch.tensor([student.index(name) for name in names], dtype=torch.int64),
            torch.tensor([teacher.index(name) for name in names], dtype=torch.int64),
        )

    def to(self, device: torch.device) -> OldClasses:
        return OldClasses(self.student.to(device), self.teacher.to(device))

    def log_probabilities(self, teacher: Tensor) -> Tensor:
        """What the teacher says of them and, last, of background.

        Args:
            teacher: (R, T + 1) logits, background last.

        Returns:
            (R, K + 1), normalised: a class that the student lacks has no share.
        """
        logits = teacher.float()
        return torch.cat([logits[:, self.teacher], logits[:, -1:]], dim=1).log_softmax(dim=1)


def class_loss(student: Tensor, teacher: Tensor, old: OldClasses) -> Tensor:
    """KL divergence of the student's class probabilities from the teacher's.

    What the teacher calls background may have become a new class: the student's probabilities of
    background and of all new classes count as one (Modeling the Background,
    https://arxiv.org/abs/2002.00718; its cross-entropy less the teacher's entropy).

    Args:
        student: (R, S + 1) logits of R boxes, background last.
        teacher: (R, T + 1) likewise, of the same boxes.

    Returns:
        a scalar: the mean over boxes; 0 where there are none.
    """
    logits = student.float()
    is_rest = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    is_rest[old.student] = False
    rest = logits[:, is_rest].logsumexp(dim=1, keepdim=True)
    says = torch.cat([logits[:, old.student], rest], dim=1).log_softmax(dim=1)
    wanted = old.log_probabilities(teacher)
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
    probability = wanted.sigmoid()

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, probability, reduction="none")

    return _mean(cross_entropy(student.float()) - cross_entropy(wanted))


def objectness_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How much less of an object the student's RPN sees where the teacher's sees one.

    An anchor on a new object may score as high as it likes: only what is below the teacher counts,
    as in Faster ILOD (https://arxiv.org/abs/2003.03901). Of the difference between the logits, not
    of the squared one between probabilities, so that an object that is lost by far still pulls;
    smooth L1, so that none pulls without bound.

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
