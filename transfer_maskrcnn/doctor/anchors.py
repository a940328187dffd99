"""How a config sees a dataset: sizes at its input, what its anchors match, and what would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import ArrayLike, NDArray

# One row of numbers a level of the pyramid, as detectron2 broadcasts ANCHOR_GENERATOR's keys.
Levels = Sequence[Sequence[float]]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

IMBALANCE = 10.0  # of classes: from here on, images of rare ones are to be drawn more often
MATCH_IOU = 0.5
# A suggestion changes nothing while the present anchors reach this share of the best: pretrained
# weights know them.
NEARLY_AS_MUCH = 0.97
# The nearest anchor centre is 0 to 1/2 stride away along each axis: 1/4 on average.
TYPICAL_OFFSET = (0.25, 0.25)
PLACES = tuple((x, y) for x in (1 / 12, 3 / 12, 5 / 12) for y in (1 / 12, 3 / 12, 5 / 12))
# Of more boxes, so many evenly over their areas: a share is then right to about 1 %.
SAMPLE = 5000
# In about equal steps, that keep round sizes round.
FACTORS = (1, 0.75, 1.5, 0.5, 2, 0.375, 3, 0.25, 4, 0.1875, 6, 0.125, 8)
# Three each: the RPN head keeps its number of channels. Wider gaps would miss what is between.
RATIOS = ((1 / 2, 1, 2), (1 / 3, 1, 3), (1 / 4, 1, 4))


@dataclass(frozen=True)
class Settings:
    """``transfer_maskrcnn.autoconfig.settings_of`` makes it of a config.

    Attributes:
        min_size_train: short sides in pixels, as INPUT.MIN_SIZE_TRAIN; with ``size_sampling``
            "range" the two ends, with "choice" a list.
        size_sampling: INPUT.MIN_SIZE_TRAIN_SAMPLING.
        max_size_train: the limit on the long side in training, in pixels.
        min_size_test: the short side in evaluation, in pixels; 0 leaves images as they are.
        max_size_test: the limit on the long side in evaluation, in pixels.
        anchor_sizes: one row a level of the pyramid, pixels of the network's input.
        aspect_ratios: height / width, one row a level.
        strides: pixels of the network's input between anchors, one a level.
        detections_per_image: TEST.DETECTIONS_PER_IMAGE.
        filter_empty: whether images without an object are left out of training.
    """

    min_size_train: tuple[int, ...]
    size_sampling: str
    max_size_train: int
    min_size_test: int
    max_size_test: int
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    strides: tuple[int, ...]
    detections_per_image: int
    filter_empty: bool

    def test_scales(self, images_hw: ArrayLike) -> Floats:
        """How many times larger evaluation makes each image, before detectron2 rounds.

        Args:
            images_hw: (N, 2), heights and widths in pixels.

        Returns:
            (N,), above 0.
        """
        sides = np.asarray(images_hw, dtype=np.float64).reshape(-1, 2)
        if self.min_size_test == 0:
            return np.ones(len(sides))
        short, long = sides.min(axis=1), sides.max(axis=1)
        return np.asarray(np.minimum(self.min_size_test / short, self.max_size_test / long))


@dataclass(frozen=True)
class Measures:
    """Of the images of a dataset and its instances, crowds left out.

    Attributes:
        images_hw: (N, 2), heights and widths in pixels.
        boxes_wh: (M, 2), widths and heights in pixels of the images.
        image_of_box: (M,), the row of ``images_hw``.
        number_of_box: (M,), which annotation of its image it is.
        class_counts: instances of each class.
    """

    images_hw: Floats
    boxes_wh: Floats
    image_of_box: Integers
    number_of_box: Integers
    class_counts: Integers

    @property
    def images(self) -> int:
        return len(self.images_hw)

    @property
    def objects_an_image(self) -> Integers:
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
    boxes, found = [], []
    for record in records:
        for number, annotation in enumerate(record.get("annotations", ())):
            if annotation.get("iscrowd", 0):
                continue
            box, mode = annotation["bbox"], annotation["bbox_mode"]
            if mode != BoxMode.XYXY_ABS:
                box = BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
            boxes.append((box[2] - box[0], box[3] - box[1]))
            found.append((len(shapes), number, annotation["category_id"]))
        shapes.append((record["height"], record["width"]))
    images, numbers, categories = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Measures(
        images_hw=np.array(shapes, dtype=np.float64).reshape(-1, 2),
        boxes_wh=np.array(boxes, dtype=np.float64).reshape(-1, 2),
        image_of_box=images,
        number_of_box=numbers,
        class_counts=np.bincount(categories, minlength=classes),
    )


@dataclass(frozen=True)
class Suggestion:
    """Anchors for a dataset.

    Attributes:
        values: what to put in place of what was given (sizes in pixels, or height / width); equal
            to it where that is good enough.
        share: of the boxes that some anchor reaches at an IoU of 0.5 with ``values``, 0 to 1.
        share_before: the same with what was given.
        best_share: the same with the candidate that reaches most.
    """

    values: tuple[tuple[float, ...], ...]
    share: float
    share_before: float
    best_share: float


def reach(
    boxes_wh: ArrayLike,
    sizes: Levels,
    ratios: Levels,
    strides: Sequence[int],
    offset: tuple[float, float] = TYPICAL_OFFSET,
) -> Floats:
    """The IoU of each box with the anchor that fits it best.

    Anchors stand on a grid, boxes anywhere. Each box is taken to be ``offset`` strides of each
    level away from the nearest anchor centre, by default the mean distance. Centred on it, the IoU
    is higher; half a stride away it is lower, by much where an object is about as large as the
    stride.

    Args:
        boxes_wh: (N, 2), widths and heights in pixels of the network's input.
        sizes: square roots of anchor areas in the same pixels, one row a level.
        ratios: height / width of anchors, one row a level.
        strides: pixels between anchor centres, one a level.
        offset: along x and along y, in strides, each 0 to 1/2.

    Returns:
        (N,), 0 to 1.
    """
    boxes = np.asarray(boxes_wh, dtype=np.float64).reshape(-1, 2)
    best = np.zeros(len(boxes))
    levels = zip(sizes, ratios, strides, strict=True)
    for size, ratio, stride in ((s, r, n) for row, some, n in levels for s in row for r in some):
        anchor = np.array([size / ratio**0.5, size * ratio**0.5])
        beside = (boxes + anchor) / 2 - stride * np.asarray(offset)
        common = np.minimum(np.minimum(boxes, anchor), beside).clip(min=0).prod(axis=1)
        np.maximum(best, common / (boxes.prod(axis=1) + anchor.prod() - common), out=best)
    return best


def reached_share(
    boxes_wh: ArrayLike, sizes: Levels, ratios: Levels, strides: Sequence[int]
) -> float:
    """The share of the boxes that some anchor reaches at an IoU of 0.5; 1 of no box at all.

    It is the mean over nine places of a box between anchor centres. Of more than 5,000 boxes it is
    taken over a part of them. Arguments as in :func:`reach`.
    """
    boxes = np.asarray(boxes_wh, dtype=np.float64).reshape(-1, 2)
    if not len(boxes):
        return 1.0
    if len(boxes) > SAMPLE:
        boxes = boxes[np.argsort(boxes.prod(axis=1))]
        boxes = boxes[np.linspace(0, len(boxes) - 1, SAMPLE).astype(int)]
    found = [reach(boxes, sizes, ratios, strides, place) >= MATCH_IOU for place in PLACES]
    return float(np.mean(found))


def suggest_sizes(
    boxes_wh: ArrayLike, sizes: Levels, ratios: Levels, strides: Sequence[int]
) -> Suggestion:
    """Anchor sizes that reach nearly all that any would: ``sizes``, or all of them times a factor.

    A common factor keeps what an RPN head has learnt: the ratio of sizes between levels. Of the
    factors from 1/8 to 8 that reach at least 97 % of what the best one does, the one nearest to 1
    is taken. Arguments as in :func:`reach`.
    """
    candidates = [
        tuple(tuple(float(size * factor) for size in row) for row in sizes) for factor in FACTORS
    ]
    return _first_good(
        candidates, [reached_share(boxes_wh, c, ratios, strides) for c in candidates]
    )


def suggest_ratios(
    boxes_wh: ArrayLike, sizes: Levels, ratios: Levels, strides: Sequence[int]
) -> Suggestion:
    """Aspect ratios that reach nearly all that any three do, by the rule of :func:`suggest_sizes`.

    ``ratios`` that are not three a level stay as they are. Arguments as in :func:`reach`.
    """
    candidates = [tuple(tuple(map(float, row)) for row in ratios)]
    if all(len(row) == len(RATIOS[0]) for row in ratios):
        candidates += [(tuple(map(float, row)),) * len(strides) for row in RATIOS]
    return _first_good(candidates, [reached_share(boxes_wh, sizes, c, strides) for c in candidates])


def _first_good(
    candidates: Sequence[tuple[tuple[float, ...], ...]], shares: Sequence[float]
) -> Suggestion:
    """The first is what there is now; the others follow by how much they differ from it."""
    enough = NEARLY_AS_MUCH * max(shares)
    chosen = next(i for i, share in enumerate(shares) if share >= enough)
    return Suggestion(candidates[chosen], shares[chosen], shares[0], max(shares))
