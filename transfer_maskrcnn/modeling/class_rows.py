"""Which rows of a model's predictors belong to which class."""

from __future__ import annotations

from typing import Any

from torch import nn

from transfer_maskrcnn.surgery.parts import class_axes, part_of

ALL_BUT_NEW_ROWS = "all_but_new_rows"


def rows_per_class(model: nn.Module) -> dict[str, int]:
    """Parameter -> how many rows each class has in it, for predictors that have any.

    Row ``per_class * k`` is class ``k``'s first, along the first axis; in ``cls_score`` the
    background's follows the last class. Class-agnostic predictors are not in it.

    Args:
        model: a detector with ``roi_heads``, not wrapped.
    """
    roi_heads: Any = getattr(model, "roi_heads", None)
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if part_of(name) == "predictors" and name.startswith("roi_heads."):
            shape, counts = tuple(parameter.shape), (roi_heads.num_classes, roi_heads.num_classes)
            axes = class_axes(name, shape, shape, counts, None) or ()
            for row in (axis for axis in axes if axis.axis == 0):
                found[name] = row.per_class
    return found
