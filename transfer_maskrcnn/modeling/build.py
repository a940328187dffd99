"""The only place where a detector is made, and its box predictor: linear or cosine, task by task.

What this project adds to detectron2 are subclasses with the same tensors: TransferRCNN, TransferRPN
(registered, and named in a copy of the config), TransferOutputLayers and FastROIPooler (put in the
places of their kind in whatever ROI heads the config names).

Cosine: a classifier that looks at the direction of features alone, as TFA has for few shots (Wang
et al., Frustratingly Simple Few-Shot Object Detection, https://arxiv.org/abs/2003.06957). Rows of
rare classes, which are shorter than those of frequent ones, are no longer at a disadvantage.

Task by task: novel classes take nothing from base ones. A softmax over all would: a novel class
that is a little too sure of itself lowers the score of the base object that it mistakes for one of
its own. So each class is scored by a softmax over background and the classes that were there when
it came, or came with it. A base class whose rows and features did not change then has the very
scores that it had; a novel class is scored among all. For the same reason, each task has
``TEST.DETECTIONS_PER_IMAGE`` of its own. Training is as ever: its losses read logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.compat import check_detectron2
from transfer_maskrcnn.config import RunSpec, editable
from transfer_maskrcnn.errors import ConfigError, TransferError
from transfer_maskrcnn.modeling.freezing import freeze
from transfer_maskrcnn.modeling.precision import prepare_layout
from transfer_maskrcnn.modeling.rcnn import TransferRCNN, TransferRPN
from transfer_maskrcnn.modeling.roi_align import FastROIPooler, available
from transfer_maskrcnn.surgery.load import SourceWeights

COSINE_KEY = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
_SHORTEST = 1e-5  # what is shorter, a feature of zeros say, is divided by this

Predictions = tuple[Tensor, Tensor]  # class logits (R, K + 1), background last, and box deltas

# What detectron2 raises where keys contradict each other, before it says why.
_CONTRADICTIONS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
)


def build_model(cfg: CfgNode, spec: RunSpec | None = None) -> nn.Module:
    """The detector of a config, on ``MODEL.DEVICE``, with all that this project adds to it.

    Its tensors have the names that detectron2's own model has, and stock weights load. What is
    frozen (``MODEL.TRANSFER.FREEZE``) needs no gradient; everything else, and the mode, is as
    detectron2 leaves it.

    Args:
        cfg: with ``MODEL.ROI_HEADS.NUM_CLASSES`` set; stays as it is.
        spec: of the run; says how classes are scored. None: as those of a model that was never
            extended; a file that is loaded may say otherwise.

    Raises:
        ConfigError: keys that do not fit each other, or the model.
        TransferError: detectron2 is older than the project can work with.
    """
    check_detectron2()
    own = editable(cfg)
    if own.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        own.MODEL.META_ARCHITECTURE = TransferRCNN.__name__
    if own.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
        own.MODEL.PROPOSAL_GENERATOR.NAME = TransferRPN.__name__
    try:
        model = modeling.build_model(own)
    except TransferError:
        raise
    except _CONTRADICTIONS as error:
        raise ConfigError(
            f"detectron2 cannot build a model of this config ({type(error).__name__}: {error}); "
            "compare its MODEL keys with those of the config that it is made from"
        ) from error
    _set_predictors(cfg, model, spec.tasks if spec else ())
    freeze(model, cfg.MODEL.TRANSFER.FREEZE)
    _check_doubtful(cfg, model)
    prepare_layout(cfg, model)
    if torch.device(cfg.MODEL.DEVICE).type == "cpu" and available():
        replace_modules(model, ROIPooler, FastROIPooler.of)
    return model


def replace_modules(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], Any]) -> int:
    """Put ``make(module)`` in the place of every module that is a ``kind``, but no subclass.

    Returns:
        how many were replaced.
    """
    places = [
        (parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if type(module) is kind
    ]
    for parent, name, module in places:
        setattr(parent, name, make(module))
    return len(places)


def _set_predictors(cfg: CfgNode, model: nn.Module, tasks: Sequence[int]) -> None:
    scale = cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE
    if not 0 <= scale < math.inf:
        raise ConfigError(
            f"{COSINE_KEY} is {scale}; expected 0.0 (a linear layer) or a number above it, such as "
            "20.0"
        )
    found = replace_modules(
        model, FastRCNNOutputLayers, lambda stock: TransferOutputLayers.of(cfg, stock)
    )
    if scale and not found:
        raise ConfigError(
            f"{COSINE_KEY} {scale} replaces the classifier of FastRCNNOutputLayers, which "
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} does not have; set {COSINE_KEY} 0.0, "
            "or use StandardROIHeads"
        )
    score_by_task(model, tasks)


def _check_doubtful(cfg: CfgNode, model: nn.Module) -> None:
    """Raise ConfigError for ROI heads that would take doubtful objects for certain ones."""
    heads: Any = getattr(model, "roi_heads", None)
    cascade = isinstance(getattr(heads, "box_predictor", None), nn.ModuleList)
    unfit = cascade or getattr(heads, "keypoint_on", False)
    if unfit and cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED:
        raise ConfigError(
            f"MODEL.TRANSFER.PSEUDO_LABELS with {type(heads).__name__}"
            f"{'' if cascade else ' and keypoints'}: doubtful objects cannot be left out of its "
            "losses; use StandardROIHeads without keypoints, or train on what "
            f"{typed('pseudo-label')} writes"
        )


class CosineClassifier(nn.Module):
    """``scale * cosine(feature, row)``, computed in float32 under autocast, too.

    Attributes:
        weight: (K + 1, C), a row a class and the background's last; their lengths do not count.
        scale: the score of a feature that points as a row does.
    """

    def __init__(self, weight: nn.Parameter, scale: float):
        super().__init__()
        self.weight = weight
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(N, C), N from 0 on -> (N, K + 1) scores from ``-scale`` to ``scale``; 0 for zeros."""
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.float(), eps=_SHORTEST)
            rows = F.normalize(self.weight.float(), eps=_SHORTEST)
            return self.scale * F.linear(directions, rows)


class TransferOutputLayers(FastRCNNOutputLayers):
    """detectron2's box predictor, whose names of tensors and whose numbers it has, until told else.

    Attributes:
        tasks: how many classes the first model had, and how many each extension added; with fewer
            than two, all classes are scored at once.
        before_loss: what the classification loss of a training step sees of the logits (R, K + 1),
            given the labels (R,); None: the logits.
    """

    tasks: Sequence[int] = ()
    before_loss: Callable[[Tensor, Tensor], Tensor] | None = None

    @classmethod
    def of(cls, cfg: CfgNode, stock: FastRCNNOutputLayers) -> TransferOutputLayers:
        """What ``stock`` is, which is as ``cfg`` has it built, and in its place.

        With ``COSINE_SCALE``, the classifier takes over the linear layer's rows, which detectron2
        has drawn with a deviation of 0.01, and their tensor's name; there is no bias.
        """
        own = cls.__new__(cls)  # as it is, without drawing random numbers anew
        own.__dict__.update(stock.__dict__)
        if scale := cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE:
            own.cls_score = CosineClassifier(nn.Parameter(stock.cls_score.weight.detach()), scale)
        return own

    def losses(self, predictions: Predictions, proposals: list[Instances]) -> Any:
        logits, deltas = predictions
        if self.before_loss and self.training and torch.is_grad_enabled() and len(logits):
            logits = self.before_loss(logits, torch.cat([p.gt_classes for p in proposals]))
        return super().losses((logits, deltas), proposals)

    def predict_probs(self, predictions: Predictions, proposals: list[Instances]) -> Any:
        if len(self.tasks) < 2 or self.use_sigmoid_ce:  # one by one, classes share no score
            return super().predict_probs(predictions, proposals)
        scores = class_probabilities(predictions[0], self.tasks)
        return scores.split([len(p) for p in proposals], dim=0)

    def inference(self, predictions: Predictions, proposals: list[Instances]) -> Any:
        if len(self.tasks) < 2:
            return super().inference(predictions, proposals)
        boxes = self.predict_boxes(predictions, proposals)
        scores = self.predict_probs(predictions, proposals)
        limits = self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image
        found: list[tuple[list[Instances], list[Tensor]]] = []
        for start, end in _spans(self.tasks):
            columns = [*range(start, end), -1]  # background's, which is not looked at
            of_all = [b if b.shape[1] == 4 else b[:, 4 * start : 4 * end] for b in boxes]
            own = fast_rcnn_inference(
                *(of_all, [s[:, columns] for s in scores], [p.image_size for p in proposals]),
                *limits,
            )
            for of_image in own[0]:
                of_image.pred_classes += start
            found.append(own)
        instances, kept = zip(*found, strict=True)  # task by task, each image by image
        images = [Instances.cat(list(of_image)) for of_image in zip(*instances, strict=True)]
        return images, [torch.cat(of_image) for of_image in zip(*kept, strict=True)]


def class_probabilities(logits: Tensor, tasks: Sequence[int]) -> Tensor:
    """
    Args:
        logits: (R, K + 1), background last.
        tasks: add up to K.

    Returns:
        (R, K + 1): column k is the softmax over background and all classes up to the last of k's
        task. The background's is that of the youngest task.
    """
    columns: list[Tensor] = []
    for start, end in _spans(tasks):
        among = torch.cat([logits[:, :end], logits[:, -1:]], dim=1).softmax(dim=1)
        columns.append(among[:, start:end])
    return torch.cat([*columns, among[:, -1:]], dim=1)


def _spans(tasks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first class of each task, and the one behind its last."""
    return pairwise([0, *accumulate(tasks)])


def score_by_task(model: nn.Module, tasks: Sequence[int]) -> None:
    """Have the predictors of ``model`` score classes by :func:`class_probabilities`.

    Cascades share ``TEST.DETECTIONS_PER_IMAGE`` as ever.
    """
    for predictor in model.modules():
        if isinstance(predictor, TransferOutputLayers):
            predictor.tasks = list(tasks)


def tasks_of(metadata: Mapping[str, Any] | None) -> list[int]:
    """How many classes came with each extension, as a checkpoint says; [] for one of none."""
    return list((metadata or {}).get("tasks") or [])


def check_same_classifier(model: nn.Module, source: SourceWeights) -> None:
    """Compare the classifier of a trained file with that of ``model``.

    Raises:
        ConfigError: one is linear and the other not, or their scales differ.
    """
    config = (source.metadata or {}).get("config") or {}
    predictors = (
        pair for pair in model.named_modules() if isinstance(pair[1], FastRCNNOutputLayers)
    )
    for name, module in predictors:
        mine = float(getattr(module.cls_score, "scale", 0.0))
        linear = f"{name}.cls_score.bias" in source.tensors
        theirs = 0.0 if linear else config.get(COSINE_KEY, mine or None)
        if theirs != mine and f"{name}.cls_score.weight" in source.tensors:
            was = (
                f"{COSINE_KEY} {float(theirs)}" if theirs is not None else f"a {COSINE_KEY} above 0"
            )
            raise ConfigError(
                f"{source.path} was trained with a {'linear' if linear else 'cosine'} classifier "
                f"({was}), and the config says {COSINE_KEY} "
                f"{mine}: its scores would mean nothing. Use the config that it was trained "
                f"with ({was}); or train from it, without --eval-only and --resume"
            )
