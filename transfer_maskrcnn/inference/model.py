"""A trained model on images: what it finds, in the frame of each image."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from transfer_maskrcnn.errors import ConfigError, nearest, refuse
from transfer_maskrcnn.evaluation.coco import coco_results
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.inference.inputs import is_one_image, pictures_of
from transfer_maskrcnn.inference.results import Detection, Picture, Pixels, Result, Results


class Model:
    """Finds objects in images, as an evaluation of the same model would::

        model = transfer_maskrcnn.load_model("output/mine")
        result = model("photo.jpg")
        for name, score, box in zip(result.names, result.scores, result.boxes):
            print(name, score, box)
        model("photos").to_csv("found.csv")

    Several threads may share one: what they ask for goes through it one after the other, with the
    same results as alone. Processes need one each.

    Memory: the weights, and ``batch`` images at a time.

    Attributes:
        names: of the classes, in order: ``names[result.classes[0]]`` is ``result.names[0]``.
        thresholds: for each class, the score that a detection must exceed.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        shortest_side: int,
        longest_side: int,
        channels: str = "BGR",
        precision: torch.dtype | None = None,
        thresholds: Sequence[float] = (),
        batch: int = 1,
    ):
        """
        Args:
            model: built and with its weights; it is put into eval mode.
            names: in the order of the model's classes.
            shortest_side, longest_side: of the image that the model sees, in pixels:
                ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``.
            channels: their order in the model: ``INPUT.FORMAT``, BGR or RGB.
            precision: of ``torch.autocast``; None: as the model is.
            thresholds: for each class, the score that a detection must exceed. Default: 0.
            batch: how many images are read before the model sees them.

        Raises:
            ConfigError: channels of another kind, or a ``batch`` below 1.
        """
        refuse(
            (
                not isinstance(batch, int) or batch < 1,
                f"batch is {batch!r}; expected a whole number from 1 on",
            ),
            (
                channels not in ("BGR", "RGB"),
                f"INPUT.FORMAT is {channels!r}; expected BGR or RGB",
            ),
        )
        self.thresholds = list(thresholds) or [0.0] * len(names)
        self.names = list(names)
        self._channels, self._batch = channels, batch
        self._resize = T.ResizeShortestEdge(shortest_side, longest_side, "choice")
        self._divisor = max(1, getattr(getattr(model, "backbone", None), "size_divisibility", 0))
        self._inference = FastInference(model.eval(), precision)
        self._lock = threading.Lock()

    def __call__(self, images: Any) -> Any:
        """What is in an image, or in several.

        Args:
            images: a path, a folder (the images directly in it), a glob (``photos/**/*.jpg``), a
                PIL image, an array (height, width, 3) of uint8 **in RGB** or (height, width) in
                grey; or a list or another iterable of these. EXIF orientation is applied. What
                OpenCV reads is BGR: give ``image[:, :, ::-1]``.

        Returns:
            for one image a :class:`Result`; for a folder, a glob or an iterable
            :class:`Results`, a list of them. The list holds no pixels of files: thousands of
            images fit. For an iterable of arrays that does not end, or a video, see :meth:`stream`.

        Raises:
            DatasetError: something that names no image, or one that cannot be read: then nothing
                of the others comes back. What :meth:`stream` gave before it stays, and the command
                ``predict`` leaves such an image out.
        """
        found = results_of(self, pictures_of(images), self._batch, keep_pixels=False)
        return next(found) if is_one_image(images) else Results(found)

    def stream(self, images: Any) -> Iterator[Result]:
        """The same one by one, while the images come: memory holds ``batch`` of them.

        Args:
            images: as above, or a video; one image gives one result.

        Raises:
            DatasetError: see above; when that image is at its turn.
        """
        return results_of(self, pictures_of(images), self._batch)

    def find(self, images: Sequence[Pixels]) -> list[list[Detection]]:
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
            with self._lock, torch.no_grad():
                outputs = self._inference([seen[number] for number in numbers])
            for number, output in zip(numbers, outputs, strict=True):
                found[number] = self._detections(output["instances"])
        return found

    def _model_input(self, image: Pixels) -> dict[str, Any]:
        ordered = image if self._channels == "BGR" else image[:, :, ::-1]
        resize = self._resize.get_transform(ordered)
        resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)  # of a line
        shown = resize.apply_image(ordered)
        tensor = torch.as_tensor(np.ascontiguousarray(shown.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def _detections(self, instances: Instances) -> list[Detection]:
        return [
            Detection(r["category_id"], r["score"], tuple(r["bbox"]), r.get("segmentation"))
            for r in sorted(coco_results(instances, 0), key=lambda r: r["score"], reverse=True)
            if r["score"] > self.thresholds[r["category_id"]]
        ]


def results_of(
    model: Model, pictures: Iterable[Picture], batch: int, *, keep_pixels: bool = True
) -> Iterator[Result]:
    """What ``model`` finds in each picture, of which so many are read at a time."""
    pictures = iter(pictures)
    while several := list(islice(pictures, batch)):
        found = model.find([picture.pixels for picture in several])
        for picture, detections in zip(several, found, strict=True):
            yield Result(picture, detections, model.names, keep_pixels=keep_pixels)


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
                f"a score is given for {name!r}, but the model has no such class; it has "
                f"{', '.join(classes)}{nearest(name, classes)}"
            )
    for value in (score, *by_class.values()):
        if not 0 <= value <= 1:
            raise ConfigError(f"a score of {value:g} is asked for; expected one from 0 to 1")
    return [by_class.get(name, score) for name in classes]
