"""The records of images among each other: two of one file, exchanged sizes, other units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import LoadReport, Place, RawImage, RawInstance, Reason
from .files import ImageProbe
from .masks import TOLERANCE, flat_numbers

Size = tuple[int, int]  # height, width in pixels


def merge_records(images: Sequence[RawImage], kept: Sequence[int], report: LoadReport) -> list[int]:
    """The numbers in ``kept`` without those of files that an earlier one has, too.

    The first record of a file gets the instances of the others, each once: merged files list an
    image twice, and each record would call the other's objects background.
    """
    first: dict[str, RawImage] = {}
    alone = []
    for k in kept:
        image = images[k]
        known = first.setdefault(os.path.normpath(image.file_name), image)
        if known is image:
            alone.append(k)
            continue
        keys = {_content(one) for one in known.instances}
        new = [one for one in image.instances if _content(one) not in keys]
        names = " and ".join(one.record or f"id {one.image_id}" for one in (known, image))
        counts = f"{len(known.instances)} and {len(new)} instances"
        note = f"{names}: {counts}, {len(image.instances) - len(new)} in both"
        report.count(report.repaired, Reason.SAME_FILE, Place(image.file_name, note=note))
        known.instances += new
        image.instances = []
    return alone


def _content(one: RawInstance) -> str:
    patches = ((patch.x, patch.y, patch.mask.tobytes()) for patch in one.patches)
    return repr((one.label, one.polygons, one.rle, one.iscrowd, *patches))


def read_exchanged(images: Sequence[RawImage], probes: Sequence[ImageProbe]) -> None:
    """Take the size of the file where the annotations exchange width and height.

    They do if all sizes that differ are exchanged, and no EXIF orientation tells why; and if all
    instances lie within the images as they are, but not all within the stated sizes: an image may
    have been turned after it was annotated.
    """
    differ = [
        (image, probe.size)
        for image, probe in zip(images, probes, strict=True)
        if not (image.problem or probe.problem)
        and image.stated_size not in (None, probe.size, probe.stored_size)
    ]
    if not all(image.stated_size == size[::-1] for image, size in differ):
        return
    reaches = [(_reach(one), size) for image, size in differ for one in image.instances]
    if all(_within(r, size) for r, size in reaches) and not all(
        _within(r, size[::-1]) for r, size in reaches
    ):
        for image, (height, width) in differ:
            note = f"annotated as {height}x{width}, and fits {width}x{height}"
            image.repairs.append((Reason.SIZE_EXCHANGED, note))
            image.stated_size = height, width


def read_fractions(images: Sequence[RawImage]) -> None:
    """Take polygons for fractions of their images where none of any instance reaches beyond 1."""
    drawn = [one for image in images for one in image.instances if one.polygons]
    if not all(0 < max(_reach(one)) <= 1 and not one.relative for one in drawn):
        return
    for one in drawn:
        one.relative = True
        one.repairs.append(Reason.FRACTIONS)
        box, _ = flat_numbers(one.bbox_xywh)
        if box is None or box.max() <= 1:  # then so is the area
            one.bbox_xywh = one.area = None


def _within(reach: tuple[float, float], size: Size) -> bool:
    return all(a <= b + TOLERANCE for a, b in zip(reach, size, strict=True))


def _reach(one: RawInstance) -> tuple[float, float]:
    """How far down, and to the right, an instance reaches; a bitmask does over all of its size."""
    size = flat_numbers(one.rle.get("size"))[0] if one.rle else None
    drawn = [flat_numbers(polygon)[0] for polygon in one.polygons]
    ends: list[Any] = [
        (0.0, 0.0),
        *(np.add(patch.mask.shape, (patch.y, patch.x)) for patch in one.patches),
        *([size] if size is not None and size.size == 2 else []),
        *((p[1::2].max(), p[::2].max()) for p in drawn if p is not None and p.size > 1),
    ]
    down, right = np.max(ends, axis=0).tolist()
    return down, right
