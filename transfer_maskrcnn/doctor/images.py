"""What is wrong with one image and its instances, looked at on all cores."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import shapely
from detectron2.data import MapDataset
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.data.formats.masks import box_of, boxes_fit, polygons_area
from transfer_maskrcnn.data.near_duplicates import decoded, thumbnail_of
from transfer_maskrcnn.errors import DatasetError

Record = dict[str, Any]
Mapper = Callable[[Record], NDArray[np.uint8] | None]
Figures = Mapping[str, Any]

TINY_SIDE = 4  # pixels of the network's input: the stride of its finest features
SAME, _NEARLY_SAME = 0.999, 0.9  # IoU
_SAME_OF_ANOTHER_CLASS = 0.95
_TOLERANCE = 0.1  # of the mask's area, and of its sides
_PIECES = 4
_EXIF_ORIENTATION = 0x0112
_FEWEST_FOR_PROCESSES = 32


# A kind of finding, figures, and the annotations of the record that it is about.
Fault = tuple[str, Figures, tuple[int, ...]]


@dataclass(frozen=True)
class ImageFacts:
    """Of one image that the loader keeps.

    Attributes:
        failure: why detectron2's mapper cannot use it, or "".
        pixels: "grey", "colour" or "cmyk".
        transparent: whether any pixel is.
        orientation: of EXIF, 1 to 8; 1 where there is none.
        digest: of the file's bytes.
        thumb: as ``near_duplicates.thumbnail_of`` makes it; b"" where nothing could be decoded.
    """

    failure: str = ""
    pixels: str = "colour"
    transparent: bool = False
    orientation: int = 1
    digest: bytes = b""
    thumb: bytes = b""


Look = tuple[ImageFacts, list[Fault]]


def look_at_images(
    name: str, records: Sequence[Record], scales: Sequence[float], mapper: Mapper
) -> list[Look]:
    """What is in each image's file, and what is wrong with its instances, in their order.

    Args:
        name: of the dataset, for the progress bar.
        records: detectron2 dataset dicts, their boxes XYXY.
        scales: how many times larger the network sees each image.
        mapper: raises what training would raise for a record, which is told of; returns its image,
            (channels, height, width), or None, and it is decoded again.
    """
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, 32) if cores > 1 and len(records) >= _FEWEST_FOR_PROCESSES else 0
    cv2.setNumThreads(1)  # a forked process would wait for ever for threads that it does not have
    jobs = MapDataset(list(zip(records, scales, strict=True)), partial(_look, mapper))
    looks = DataLoader(jobs, batch_size=None, num_workers=workers, collate_fn=tuple)
    try:
        return list(progress(looks, f"looking at {name}", len(records)))
    except RuntimeError as error:
        raise DatasetError(
            f"dataset {name!r}: a process that looked at its images was killed, probably for its "
            "memory; is there an image of enormous size?"
        ) from error


def _look(mapper: Mapper, job: tuple[Record, float]) -> Look:
    return image_facts(job[0], mapper), list(instance_faults(*job))


def image_facts(record: Record, mapper: Mapper) -> ImageFacts:
    """What ``mapper`` says of a dataset dict, and what its image file is."""
    failure, pixels = "", None
    try:
        pixels = mapper(record)
    except Exception as error:  # whatever it is, it would end the training
        said = " ".join(str(error).split())
        failure = said if isinstance(error, DatasetError) else f"{type(error).__name__}: {said}"
    try:
        return _facts(record["file_name"], pixels, failure)
    except Exception as error:  # Pillow's decoders raise nearly every type of exception
        return ImageFacts(failure or f"{type(error).__name__}: {error}")


def _facts(file: str, pixels: NDArray[np.uint8] | None, failure: str) -> ImageFacts:
    with open(file, "rb") as opened:
        content = opened.read()
    with Image.open(io.BytesIO(content)) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
        cmyk = image.mode == "CMYK"
        transparent = "transparency" in image.info or "A" in image.getbands()
        if transparent:
            transparent = image.convert("RGBA").getchannel("A").getextrema()[0] != 255
        planes = decoded(image) if pixels is None else pixels
    # Most colour images need no look at every pixel.
    grey = all((some == some[:1]).all() for some in (planes[:, ::16, ::16], planes))
    return ImageFacts(
        failure,
        "cmyk" if cmyk else "grey" if grey else "colour",
        transparent,
        orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        hashlib.sha256(content).digest(),
        thumbnail_of(planes),
    )


@dataclass(frozen=True)
class Instance:
    """One instance, no crowd, as the checks see it: boxes XYXY and areas in pixels of the image.

    ``rle`` is its mask, whatever the annotation has; ``scale`` is how many times larger the network
    sees it.
    """

    annotation: Record
    rle: Record
    scale: float

    @property
    def polygons(self) -> list[list[float]]:
        """None of a bitmask."""
        mask: Any = self.annotation["segmentation"]
        return mask if isinstance(mask, list) else []

    @cached_property
    def pixels(self) -> int:
        return int(mask_util.area(self.rle))


def instance_faults(record: Record, scale: float) -> Iterator[Fault]:
    """Everything odd about the annotations of one detectron2 dataset dict.

    Args:
        record: as the loaders make it: boxes XYXY in pixels of the image, masks polygons or RLE.
        scale: how many times larger the network sees the image.
    """
    instances: dict[int, Instance] = {}
    for i, annotation in enumerate(record["annotations"]):
        if annotation.get("iscrowd"):
            yield ("only_crowd", {}, (i,))
        elif annotation.get("segmentation"):
            rle = as_rle(annotation["segmentation"], record["height"], record["width"])
            instances[i] = one = Instance(annotation, rle, scale)
            if one.polygons and max(map(max, one.polygons)) <= 1:
                yield ("normalised", {}, (i,))  # whatever else is odd follows from that
                continue
            seen = ((kind, check(one)) for kind, check in INSTANCE_CHECKS.items())
            yield from ((kind, figures, (i,)) for kind, figures in seen if figures is not None)
    yield from _covering({i: one for i, one in instances.items() if one.pixels > 1})


def _tiny(one: Instance) -> Figures | None:
    after = one.pixels * one.scale**2
    return {"pixels": one.pixels, "after": after} if after < TINY_SIDE**2 else None


def _area_wrong(one: Instance) -> Figures | None:
    area = polygons_area(one.polygons) if one.polygons else float(one.pixels)
    stated = one.annotation.get("area")
    if stated is None or abs(stated - area) <= max(_TOLERANCE * area, 2):
        return None
    return {"stated": float(stated), "area": area}


def _box_apart(one: Instance) -> Figures | None:
    box, around = np.array(one.annotation["bbox"]), np.array(box_of(one.polygons or one.rle))
    if not one.pixels or boxes_fit(box[None], around[None]).all():
        return None
    return {"box": [*map(round, box.tolist())], "around": [*map(round, around.tolist())]}


def _self_crossing(one: Instance) -> Figures | None:
    return {} if any(map(crosses_itself, one.polygons)) else None


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether a polygon's lines cross such that its area depends on who computes it.

    Bridges of no width, by which formats without holes cut them in, do no harm.
    """
    points = np.reshape(polygon, (-1, 2)) if len(polygon) > 6 else None  # no triangle does
    shape = shapely.Polygon(points)
    if shape.is_valid:
        return False
    shoelace = polygons_area([polygon])
    return bool(abs(shapely.make_valid(shape).area - shoelace) > 0.02 * max(shoelace, 1.0))


def _only_boxes(one: Instance) -> Figures | None:
    """One polygon, of the four corners of the box, the first perhaps repeated at its end."""
    if len(one.polygons) != 1 or len(one.polygons[0]) not in (8, 10):
        return None
    points = np.unique(np.reshape(one.polygons[0], (-1, 2)), axis=0)
    corners = np.take(one.annotation["bbox"], [(0, 1), (0, 3), (2, 1), (2, 3)])
    far = np.abs(points[:, None] - corners).sum(axis=2).min(axis=1)
    return {} if len(points) == 4 and (far <= 1).all() else None


def _many_pieces(one: Instance) -> Figures | None:
    """Separate pieces of at least a third of the largest one's area."""
    if one.polygons:
        areas = np.array([polygons_area([polygon]) for polygon in one.polygons])
    else:
        x, y, width, height = (int(v) for v in mask_util.toBbox(one.rle))
        crop = mask_util.decode(one.rle)[y : y + height, x : x + width]
        areas = cv2.connectedComponentsWithStats(np.ascontiguousarray(crop))[2][1:, 4]
    pieces = int((areas * 3 >= areas.max(initial=1)).sum())
    return {"pieces": pieces} if pieces >= _PIECES else None


#: Kind of finding -> what sees it in one instance: figures for its words, None where all is well.
INSTANCE_CHECKS: dict[str, Callable[[Instance], Figures | None]] = {
    "tiny": _tiny,
    "area_wrong": _area_wrong,
    "box_apart": _box_apart,
    "self_crossing": _self_crossing,
    "only_boxes": _only_boxes,
    "many_pieces": _many_pieces,
}


def _covering(instances: dict[int, Instance]) -> Iterator[Fault]:
    """Instances that lie on each other; each is told of once, the later one first."""
    numbers, told = list(instances), set()
    for b, a, iou in overlaps([one.rle for one in instances.values()], _NEARLY_SAME):
        pair = numbers[b], numbers[a]
        kind = "duplicate" if iou >= SAME else "near_duplicate"
        if len({instances[i].annotation["category_id"] for i in pair}) == 2:
            kind = "two_classes" if iou >= _SAME_OF_ANOTHER_CLASS else ""
        if kind and b not in told:
            told.add(b)
            yield (kind, {"iou": iou}, pair)


def overlaps(rles: Sequence[Record], least: float) -> Iterator[tuple[int, int, float]]:
    """(later one, earlier one, IoU) of masks that have at least that IoU."""
    if len(rles) < 2:
        return
    ious = np.triu(mask_util.iou(rles, rles, [0] * len(rles)), 1)
    for first, later in np.argwhere(ious >= least).tolist():
        yield later, first, float(ious[first, later])
