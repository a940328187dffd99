"""A trained model on images in memory: what it finds, in the frame of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.evaluation.coco import coco_results
from transfer_maskrcnn.evaluation.inference import FastInference

Pixels = npt.NDArray[np.uint8]  # (height, width, 3), BGR as cv2 has it


@dataclass(frozen=True)
class Detection:
    """One object in an image, in pixels of that image.

    Attributes:
        class_index: its place in the predictor's ``classes``.
        score: 0 to 1.
        bbox: x, y, width, height.
        segmentation: its mask as a compressed COCO RLE whose ``counts`` are text; None for models
            without masks.
    """

    class_index: int
    score: float
    bbox: tuple[float, float, float, float]
    segmentation: dict[str, Any] | None


class Predictor:
    """Finds objects in images, as an evaluation of the same model would.

    Example::

        predictor = Predictor(model, ["cat", "dog"], shortest_side=320, longest_side=480)
        (detections,) = predictor([cv2.imread("photo.jpg")])
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        *,
        shortest_side: int,
        longest_side: int,
        channels: str = "BGR",
        precision: torch.dtype | None = None,
        thresholds: Sequence[float] = (),
    ):
        """
        Args:
            model: built and with its weights; it is put into eval mode.
            classes: names in the order of the model's classes.
            shortest_side, longest_side: of the image that the model sees, in pixels:
                ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``.
            channels: their order in the model: ``INPUT.FORMAT``, BGR or RGB.
            precision: of ``torch.autocast``; None: as the model is.
            thresholds: for each class, the score that a detection must exceed. Default: 0.

        Raises:
            ConfigError: channels of another kind.
        """
        if channels not in ("BGR", "RGB"):
            raise ConfigError(f"INPUT.FORMAT is {channels!r}; expected BGR or RGB")
        self.thresholds = list(thresholds) or [0.0] * len(classes)
        self.classes = list(classes)
        self._channels = channels
        self._resize = T.ResizeShortestEdge(shortest_side, longest_side, "choice")
        self._divisor = max(1, getattr(getattr(model, "backbone", None), "size_divisibility", 0))
        self._inference = FastInference(model.eval(), precision)

    def __call__(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        """
        Args:
            images: each (height, width, 3), BGR; sizes may differ.

        Returns:
            what is in each image, best first.

        Those that the model sees at one padded size go through it together. To pad more would
        change what it finds: an evaluation takes images one by one.
        """
        seen = [self._model_input(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, item in enumerate(seen):
            size = tuple(-(-side // self._divisor) for side in item["image"].shape[1:])
            groups.setdefault(size, []).append(number)
        found: list[list[Detection]] = [[] for _ in images]
        for numbers in groups.values():
            with torch.no_grad():
                outputs = self._inference([seen[number] for number in numbers])
            for number, output in zip(numbers, outputs, strict=True):
                found[number] = self._detections(output["instances"])
        return found

    def _model_input(self, image: Pixels) -> dict[str, Any]:
        ordered = image if self._channels == "BGR" else image[:, :, ::-1]
        shown = self._resize.get_transform(ordered).apply_image(ordered)
        tensor = torch.as_tensor(np.ascontiguousarray(shown.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def _detections(self, instances: Instances) -> list[Detection]:
        return [
            Detection(r["category_id"], r["score"], tuple(r["bbox"]), r.get("segmentation"))
            for r in sorted(coco_results(instances, 0), key=lambda r: r["score"], reverse=True)
            if r["score"] > self.thresholds[r["category_id"]]
        ]


def class_thresholds(
    classes: Sequence[str], score: float, by_class: Mapping[str, float]
) -> list[float]:
    """One threshold a class: its own in ``by_class``, else ``score``.

    Raises:
        ConfigError: a class that there is not, with the nearest that there is, or a score that is
            not within 0 to 1.
    """
    for name in by_class:
        if name not in classes:
            raise ConfigError(
                f"--class-score {name}: the model has no such class; it has "
                f"{', '.join(classes)}{nearest(name, classes)}"
            )
    for value in (score, *by_class.values()):
        if not 0 <= value <= 1:
            raise ConfigError(f"a score of {value:g} is asked for; expected one from 0 to 1")
    return [by_class.get(name, score) for name in classes]
