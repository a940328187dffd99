"""Scores of an extended model: new classes take nothing from old ones.

A softmax over all would: a new class that is a little too sure of itself lowers the score of
the old object that it mistakes for one of its own. So each class is scored by a softmax over
background and the classes that were there when it came, or came with it. An old class whose rows
and features did not change then has the very scores that it had; a new class is scored among all.
For the same reason, each generation has ``TEST.DETECTIONS_PER_IMAGE`` of its own.

Training is as ever: its losses read logits.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor, nn


def generations_of(metadata: Mapping[str, Any] | None) -> list[int]:
    """How many classes came with each extension, as a checkpoint says; [] for one of none."""
    return list((metadata or {}).get("tasks") or [])


def score_by_generation(model: nn.Module, generations: Sequence[int]) -> None:
    """Have ``model`` score classes by :func:`class_probabilities`, in place.

    Classes that are scored one by one (``USE_SIGMOID_CE``) share no score. Cascades share
    ``TEST.DETECTIONS_PER_IMAGE`` as ever.

    Args:
        model: with detectron2's ROI heads, cascades too.
        generations: how many classes the first model had, and how many each extension added.
    """
    if len(generations) < 2:
        return
    found: Any = getattr(model, "roi_heads", model)
    predictors = found.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        predictor.generations = list(generations)
        predictor.inference = types.MethodType(_inference, predictor)
        if not getattr(predictor, "use_sigmoid_ce", False):
            predictor.predict_probs = types.MethodType(_predict_probs, predictor)


def _predict_probs(
    predictor: Any, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
) -> tuple[Tensor, ...]:
    """``FastRCNNOutputLayers.predict_probs``."""
    scores = class_probabilities(predictions[0], predictor.generations)
    return scores.split([len(p) for p in proposals], dim=0)


def _inference(
    predictor: Any, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
) -> tuple[list[Instances], list[Tensor]]:
    """``FastRCNNOutputLayers.inference``, generation by generation."""
    boxes = predictor.predict_boxes(predictions, proposals)
    scores = predictor.predict_probs(predictions, proposals)
    shapes = [p.image_size for p in proposals]
    limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
    found: list[tuple[list[Instances], list[Tensor]]] = []
    for start, end in _spans(predictor.generations):
        columns = [*range(start, end), -1]  # background's, which is not looked at
        of_all = [b if b.shape[1] == 4 else b[:, 4 * start : 4 * end] for b in boxes]
        own = fast_rcnn_inference(of_all, [s[:, columns] for s in scores], shapes, *limits)
        for of_image in own[0]:
            of_image.pred_classes += start
        found.append(own)
    instances, kept = zip(*found, strict=True)  # generation by generation, each image by image
    images = [Instances.cat(list(of_image)) for of_image in zip(*instances, strict=True)]
    return images, [torch.cat(of_image) for of_image in zip(*kept, strict=True)]


def _spans(generations: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first class of each generation, and the one behind its last."""
    return pairwise([0, *accumulate(generations)])


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
    for start, end in _spans(generations):
        among = torch.cat([logits[:, :end], logits[:, -1:]], dim=1).softmax(dim=1)
        columns.append(among[:, start:end])
    return torch.cat([*columns, among[:, -1:]], dim=1)
