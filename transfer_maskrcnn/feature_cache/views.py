"""The few forms in which training sees an image, where augmentation leaves only a few."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from transfer_maskrcnn.data.mapper import CheckedDatasetMapper

Size = tuple[int, int]  # height, width in pixels


class ManyViewsError(Exception):
    """Augmentation gives an image a new form each time; the message says which one does.

    Attributes:
        fix: what to change so that it no longer does.
    """

    def __init__(self, reason: str, fix: str):
        super().__init__(reason)
        self.fix = fix


def fixed_mappers(mapper: Any) -> list[DatasetMapper]:
    """One mapper for each form that ``mapper`` can give an image: as it is, and flipped.

    They give the ``image`` alone, pixel for pixel as training sees it, and draw no random numbers.

    Raises:
        ManyViewsError: there are more forms than that.
    """
    if type(mapper) not in (DatasetMapper, CheckedDatasetMapper):
        name = getattr(mapper, "__name__", type(mapper).__name__)
        raise ManyViewsError(
            f"{name} may change images in ways of its own",
            f"map them with {CheckedDatasetMapper.__name__}",
        )
    views: list[list[T.Augmentation]] = [[]]
    for augmentation in mapper.augmentations.augs:
        forms = _forms(augmentation)
        views = [[*view, *form] for form in forms for view in views]
    return [
        type(mapper)(is_train=False, augmentations=view, image_format=mapper.image_format)
        for view in views
    ]


def _forms(augmentation: Any) -> list[list[T.Augmentation]]:
    """What an augmentation may do: each a list of augmentations without chance."""
    if isinstance(augmentation, T.ResizeShortestEdge):
        lengths = sorted(set(augmentation.short_edge_length))
        if len(lengths) > 1:
            shown = ", ".join(map(str, lengths))
            raise ManyViewsError(
                f"INPUT.MIN_SIZE_TRAIN ({shown}) resizes images to a random size",
                f"leave one size, for example INPUT.MIN_SIZE_TRAIN ({lengths[-1]},)",
            )
        return [[augmentation]]
    if isinstance(augmentation, T.RandomFlip):
        certain = T.RandomFlip(
            prob=1.0, horizontal=augmentation.horizontal, vertical=augmentation.vertical
        )
        return [[], [certain]]
    if isinstance(augmentation, T.RandomCrop):
        raise ManyViewsError(
            "INPUT.CROP.ENABLED cuts random parts out of images", "set INPUT.CROP.ENABLED False"
        )
    name = type(augmentation).__name__
    raise ManyViewsError(f"{name} may change images at random", f"leave out {name}")


@dataclass(frozen=True)
class Canvases:
    """The padded size of every batch, so that the same image always gets the same padding.

    Padding changes a network's output far into the image; in an ordinary batch, it depends on the
    images that happen to be beside it.

    Attributes:
        upright, wide: for images at most as wide as high, and for the others.
    """

    upright: Size
    wide: Size

    def of(self, size: Size) -> Size:
        """The canvas for an image of ``size``.

        Raises:
            ValueError: the image is larger.
        """
        canvas = self.wide if size[1] > size[0] else self.upright
        if size[0] > canvas[0] or size[1] > canvas[1]:
            raise ValueError(f"an image of {size} (height, width) is larger than {canvas}")
        return canvas


def canvases(
    records: Iterable[dict[str, Any]], mapper: DatasetMapper, divisibility: int, grouped: bool
) -> Canvases:
    """The smallest canvases that hold every image after resizing.

    Args:
        records: dataset dicts, with ``height`` and ``width``.
        mapper: one of :func:`fixed_mappers`.
        divisibility: what heights and widths must be multiples of.
        grouped: batches hold only wide or only upright images (by their size on disk).
    """
    sizes = [(_resized(r, mapper), r["width"] > r["height"]) for r in records]
    wide = [size for size, is_wide in sizes if is_wide]
    upright = [size for size, is_wide in sizes if not is_wide]
    # rounding can make a wide image square; then its batch would have two canvases
    clear = all((size[1] > size[0]) == is_wide for size, is_wide in sizes)
    if not (grouped and clear and wide and upright):
        whole = _cover([*wide, *upright], divisibility)
        return Canvases(whole, whole)
    return Canvases(_cover(upright, divisibility), _cover(wide, divisibility))


def enlargement(
    records: Iterable[dict[str, Any]], mapper: DatasetMapper, canvas: Canvases
) -> float:
    """How many times larger than the resized images their canvases are, on average."""
    sizes = [_resized(record, mapper) for record in records]
    ratios = [math.prod(canvas.of(size)) / math.prod(size) for size in sizes]
    return sum(ratios) / len(ratios)


def _resized(record: dict[str, Any], mapper: DatasetMapper) -> Size:
    height, width = record["height"], record["width"]
    for augmentation in mapper.augmentations.augs:
        if isinstance(augmentation, T.ResizeShortestEdge):
            short = augmentation.short_edge_length[0]
            if short:  # 0 leaves images as they are
                height, width = T.ResizeShortestEdge.get_output_shape(
                    height, width, short, augmentation.max_size
                )
    return height, width


def _cover(sizes: Sequence[Size], divisibility: int) -> Size:
    step = max(divisibility, 1)
    height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
    return height, width
