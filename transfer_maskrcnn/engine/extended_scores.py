"""Scores of an extended model: new classes take nothing from old ones.

A softmax over all would: a new class that is a little too sure of itself lowers the score of
the old object that it mistakes for one of its own. So each class is scored by a softmax over
background and the classes that were there when it came, or came with it. An old class whose rows
and features did not change then has the very scores that it had; a new class is scored among all.

Training is as ever: its losses read logits.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

_KEY = "MODEL.TRANSFER.GENERATIONS"


def generations_of(stamp: Mapping[str, Any] | None) -> list[int]:
    """How many classes came with each extension, as a checkpoint says; [] for one of none."""
    return list(((stamp or {}).get("config") or {}).get(_KEY) or [])


def score_by_generation(model: nn.Module, generations: Sequence[int]) -> None:
    """Have ``model`` score classes by :func:`class_probabilities`, in place.

    Classes that are scored one by one (``USE_SIGMOID_CE``) stay as they are: they share nothing.

    Args:
        model: with detectron2's ROI heads, cascades too.
        generations: how many classes the first model had, and how many each extension added.
    """
    if len(generations) < 2:
        return
    found: Any = getattr(model, "roi_heads", model)
    predictors = found.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        if not getattr(predictor, "use_sigmoid_ce", False):
            predictor.generations = list(generations)
            predictor.predict_probs = types.MethodType(_predict_probs, predictor)


def _predict_probs(
    predictor: Any, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
) -> tuple[Tensor, ...]:
    """``FastRCNNOutputLayers.predict_probs``."""
    scores = class_probabilities(predictions[0], predictor.generations)
    return scores.split([len(p) for p in proposals], dim=0)


def class_probabilities(logits: Tensor, generations: Sequence[int]) -> Tensor:
    """
    Args:
        logits: (R, K + 1), background last.
        generations: add up to K.

    Returns:
        (R, K + 1): column k is the softmax over background and all classes up to the last of k's
        generation. The background's is that of the youngest generation.
    """
    columns: list[Tensor] = []
    for start, end in pairwise([0, *accumulate(generations)]):
        among = torch.cat([logits[:, :end], logits[:, -1:]], dim=1).softmax(dim=1)
        columns.append(among[:, start:end])
    return torch.cat([*columns, among[:, -1:]], dim=1)
