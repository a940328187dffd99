"""What a dataset is like: sizes of images and objects, objects an image, instances of classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """Of the images of a dataset and its instances, crowds left out.

    Attributes:
        images_hw: (N, 2), heights and widths in pixels.
        boxes_wh: (M, 2), widths and heights in pixels of the images.
        image_of_box: (M,), the row of ``images_hw``.
        class_counts: instances of each class.
    """

    images_hw: Floats
    boxes_wh: Floats
    image_of_box: NDArray[np.int64]
    class_counts: NDArray[np.int64]

    @property
    def images(self) -> int:
        return len(self.images_hw)

    @property
    def objects(self) -> int:
        return len(self.boxes_wh)

    @property
    def objects_an_image(self) -> NDArray[np.int64]:
        """(N,)"""
        return np.bincount(self.image_of_box, minlength=self.images)

    @property
    def empty_images(self) -> int:
        return int((self.objects_an_image == 0).sum())

    def boxes_at(self, scales: Floats) -> Floats:
        """(M, 2), widths and heights where each image is enlarged ``scales`` (N,) times."""
        return self.boxes_wh * scales[self.image_of_box, None]

    def across_at(self, scales: Floats) -> Floats:
        """(M,), square roots of the boxes' areas where each image is enlarged ``scales`` times."""
        return np.asarray(np.sqrt(self.boxes_at(scales).prod(axis=1)))


def measure(records: Iterable[dict[str, Any]], classes: int) -> Measures:
    """Measure detectron2's dataset dicts, of so many classes; no image is opened."""
    shapes: list[tuple[int, int]] = []
    boxes, owners, categories = [], [], []
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            mode = annotation["bbox_mode"]
            boxes.append(BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYWH_ABS)[2:])
            owners.append(len(shapes))
            categories.append(annotation["category_id"])
        shapes.append((record["height"], record["width"]))
    return Measures(
        images_hw=np.array(shapes, dtype=np.float64).reshape(-1, 2),
        boxes_wh=np.array(boxes, dtype=np.float64).reshape(-1, 2),
        image_of_box=np.array(owners, dtype=np.int64),
        class_counts=np.bincount(np.array(categories, dtype=np.int64), minlength=classes),
    )
