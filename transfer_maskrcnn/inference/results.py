"""What a model found in an image, and what can be made of it."""

from __future__ import annotations

import base64
import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import atomic_path

Pixels = npt.NDArray[np.uint8]  # (height, width, 3), BGR as cv2 has it
_COLUMNS = ("image", "class", "score", "x0", "y0", "x1", "y1", "area")


@dataclass(frozen=True)
class Detection:
    """One object in an image, in pixels of that image.

    Attributes:
        class_index: its place in the model's ``names``.
        score: 0 to 1.
        bbox: x, y, width, height.
        segmentation: its mask as a compressed COCO RLE whose ``counts`` are text; None for models
            without masks.
    """

    class_index: int
    score: float
    bbox: tuple[float, float, float, float]
    segmentation: dict[str, Any] | None

    def to_coco(self) -> dict[str, Any]:
        """A COCO result, but for ``image_id``; ``category_id`` counts the model's names from 1."""
        return {
            "category_id": self.class_index + 1,
            "bbox": list(self.bbox),
            "score": self.score,
            **({"segmentation": self.segmentation} if self.segmentation else {}),
        }


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, or a frame of a video, to predict on.

    Attributes:
        pixels: (height, width, 3), BGR.
        path: the file it is from; None for an image that was given in memory.
        name: of what is written about it, without a suffix.
        frame: its number in the video, from 0 on.
    """

    pixels: Pixels
    path: Path | None
    name: str
    frame: int | None = None


class Result:
    """What a model found in one image, the best first; everywhere in pixels of that image.

    Attributes:
        detections: as the model gave them, masks as run lengths (some hundred bytes each).
        path: the image file or video; None for an image that was given in memory.
        name: the file's without its suffix, or a number.
        frame: the number of a video's frame, from 0 on; else None.
        image_size: (height, width).
        pixels: of the image, (height, width, 3), BGR; None where they are not kept.
    """

    def __init__(
        self,
        picture: Picture,
        detections: Sequence[Detection],
        names: Sequence[str],
        *,
        keep_pixels: bool = True,
    ):
        """
        Args:
            names: of the model's classes.
            keep_pixels: False: only those that no file has.
        """
        self.path, self.name, self.frame = picture.path, picture.name, picture.frame
        self.pixels = picture.pixels if keep_pixels or picture.path is None else None
        self.image_size: tuple[int, int] = picture.pixels.shape[:2]
        self.detections, self._model_names = list(detections), names

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {n}" for name, n in Counter(self.names).most_common())
        return f"<Result {self.path or self.name}: {counts or 'nothing'}>"

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(N, 4): x0, y0, x1, y1; 0, 0 is the image's upper left corner."""
        found = np.array([d.bbox for d in self.detections], dtype=np.float32).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        return found

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(N,): 0 to 1."""
        return np.array([d.score for d in self.detections], dtype=np.float32)

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """(N,): places in the model's ``names``."""
        return np.array([d.class_index for d in self.detections], dtype=np.int64)

    @property
    def names(self) -> list[str]:
        """The class name of each instance."""
        return [self._model_names[d.class_index] for d in self.detections]

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """(N, height, width), decoded when they are first asked for: a byte a pixel and instance.

        None for a model without masks that found something.
        """
        rles = [d.segmentation for d in self.detections if d.segmentation]
        if len(rles) < len(self):
            return None
        masks = mask_util.decode(rles).astype(bool) if rles else np.zeros((*self.image_size, 0))
        return np.ascontiguousarray(masks.transpose(2, 0, 1), dtype=bool)

    def plot(self) -> Pixels:
        """The image with tinted masks, outlines and labels: (height, width, 3), RGB.

        Raises: what :meth:`plot_bgr` raises.
        """
        return np.ascontiguousarray(self.plot_bgr()[:, :, ::-1])

    def plot_bgr(self) -> Pixels:
        """The same, BGR, as cv2 has it.

        Raises:
            DatasetError: the file, which is read again, is gone.
            TransferError: a frame of a video that did not come out of ``model.stream``.
        """
        from transfer_maskrcnn.inference.drawing import draw_detections

        return draw_detections(self._shown(), self.detections, self._model_names)

    def _shown(self) -> Pixels:
        from transfer_maskrcnn.inference.inputs import read_bgr

        if self.pixels is None and self.frame is not None:
            raise TransferError(
                f"{self.path}: the pixels of a video's frames are not kept; use each result as it "
                "comes out of model.stream(...)"
            )
        return read_bgr(Path(self.path or "")) if self.pixels is None else self.pixels

    def describe(self) -> dict[str, Any]:
        """The image as a COCO dataset has it, but for its id."""
        return {
            "file_name": self.path.as_posix() if self.path else "",
            "name": self.name,
            "height": self.image_size[0],
            "width": self.image_size[1],
            **({} if self.frame is None else {"frame": self.frame}),
        }

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``
        and ``segmentation`` (RLE). Category k is ``model.names[k - 1]``."""
        return [{"image_id": image_id, **d.to_coco()} for d in self.detections]

    def to_labelme(self, masks: bool = False) -> dict[str, Any]:
        """The content of a labelme json that lies beside the image, to correct by hand; what no
        image file has, it holds itself.

        Args:
            masks: exact masks, of which labelme moves no point, in place of polygons.

        Raises:
            TransferError: a frame of a video that did not come out of ``model.stream``.
        """
        from transfer_maskrcnn.data.export import labelme_document

        shapes = [
            {
                "category_id": d.class_index,
                "segmentation": d.segmentation or [[x0, y0, x1, y0, x1, y1, x0, y1]],
                "score": d.score,
            }
            for d, (x0, y0, x1, y1) in zip(self.detections, self.boxes.tolist(), strict=True)
        ]
        record = {**self.describe(), "annotations": shapes}
        document = labelme_document(record, self._model_names, masks)
        if self.path is None or self.frame is not None:
            png = cv2.imencode(".png", self._shown())[1].tobytes()
            own = {"imagePath": f"{self.name}.png", "imageData": base64.b64encode(png).decode()}
            return {**document, **own}
        return document

    def to_supervision(self) -> Any:
        """``supervision.Detections``, with the class names under ``data["class_name"]``.

        Raises:
            TransferError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise TransferError(
                f"to_supervision() needs the package supervision ({error}); install it with "
                "pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.classes,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def rows(self) -> list[dict[str, Any]]:
        """A dict an instance: ``image`` (its file; its number in memory or in a video), ``class``,
        ``score``, ``x0``, ``y0``, ``x1``, ``y1``, and ``area`` in pixels."""
        image = str(self.path) if self.path and self.frame is None else self.name
        areas = [
            mask_util.area(d.segmentation) if d.segmentation else d.bbox[2] * d.bbox[3]
            for d in self.detections
        ]
        numbers = np.column_stack([self.scores, self.boxes, areas]).round(3).tolist()
        return [
            dict(zip(_COLUMNS, [image, name, *row], strict=True))
            for name, row in zip(self.names, numbers, strict=True)
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`rows` to a file, below a line of their names."""
        Results([self]).to_csv(path)


class Results(list[Result]):
    """The results of several images, in their order: a list."""

    def __getitem__(self, index: Any) -> Any:
        one_or_more: Any = super().__getitem__(index)
        return Results(one_or_more) if isinstance(index, slice) else one_or_more

    def to_coco(self) -> list[dict[str, Any]]:
        """All as COCO results: image n is ``results[n - 1]``, category k ``model.names[k - 1]``."""
        return [found for n, result in enumerate(self, 1) for found in result.to_coco(n)]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the :meth:`~Result.rows` of all to one file, below a line of their names."""
        with atomic_path(path) as growing, growing.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(row for result in self for row in result.rows())
