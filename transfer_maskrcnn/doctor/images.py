"""What is wrong with one image and its instances, looked at on all cores."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
import shapely
import torch
from numpy.typing import NDArray
from PIL import Image

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.data.formats.masks import polygons_area
from transfer_maskrcnn.errors import DatasetError

Record = dict[str, Any]
Mapper = Callable[[Record], Any]
Polygons = list[list[float]]

TINY_SIDE = 4  # pixels of the network's input: the stride of its finest features
THUMB = 32  # pixels a side
_SAME, _NEARLY_SAME = 0.999, 0.9  # IoU
_SAME_OF_ANOTHER_CLASS = 0.95
_AREA_TOLERANCE = 0.1
_BOX_TOLERANCE = 0.1  # of the mask's side
_PIECES = 4
_EXIF_ORIENTATION = 0x0112
_FEWEST_FOR_PROCESSES = 32
_CHUNK = 8


class Fault(NamedTuple):
    """A kind of finding, the annotations of the record that it is about, and figures."""

    kind: str
    instances: tuple[int, ...]
    seen: dict[str, Any]


@dataclass(frozen=True)
class ImageFacts:
    """Of one image that the loader keeps.

    Attributes:
        failure: why detectron2's mapper cannot use it, or "".
        pixels: "grey", "colour" or "cmyk".
        transparent: whether any pixel is.
        orientation: of EXIF, 1 to 8; 1 where there is none.
        digest: of the file's bytes.
        thumb: 32 x 32 grey bytes, by rows; b"" where nothing could be decoded.
    """

    failure: str = ""
    pixels: str = "colour"
    transparent: bool = False
    orientation: int = 1
    digest: bytes = b""
    thumb: bytes = b""


def look_at_images(
    name: str, records: Sequence[Record], scales: Sequence[float], mapper: Mapper
) -> list[tuple[ImageFacts, list[Fault]]]:
    """What is in each image's file, and what is wrong with its instances, in their order.

    Args:
        name: of the dataset, for the progress bar.
        records: detectron2 dataset dicts, their boxes XYXY.
        scales: how many times larger the network sees each image.
        mapper: what training does to a record; an error it raises is told of.
    """
    look, count = partial(_look, mapper), len(records)
    cores = len(os.sched_getaffinity(0))
    if count < _FEWEST_FOR_PROCESSES or cores == 1:
        return list(progress(map(look, records, scales), f"looking at {name}", count))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a forked process would wait for ever for threads that it does not have
    # Forked, as the workers of a DataLoader: importing torch again would take seconds.
    fork = multiprocessing.get_context("fork")
    executor = ProcessPoolExecutor(min(cores, 32), fork, torch.set_num_threads, (1,))
    try:
        results = executor.map(look, records, scales, chunksize=_CHUNK)
        return list(progress(results, f"looking at {name}", count))
    except BrokenProcessPool:
        raise DatasetError(
            f"dataset {name!r}: a process that looked at its images was killed, probably for its "
            "memory; is there an image of enormous size?"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def _look(mapper: Mapper, record: Record, scale: float) -> tuple[ImageFacts, list[Fault]]:
    return image_facts(record, mapper), instance_faults(record, scale)


def image_facts(record: Record, mapper: Mapper) -> ImageFacts:
    """Decode the image of a dataset dict, and run ``mapper`` over the dict."""
    failure = ""
    try:
        mapper(record)
    except DatasetError as error:
        failure = str(error)
    except Exception as error:  # whatever it is, it would end the training
        failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        return _decoded(record["file_name"], failure)
    except Exception as error:  # Pillow's decoders raise nearly every type of exception
        return ImageFacts(failure or f"{type(error).__name__}: {error}")


def _decoded(file: str, failure: str) -> ImageFacts:
    with open(file, "rb") as opened:
        digest = hashlib.sha256(opened.read()).digest()
    with Image.open(file) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
        cmyk = image.mode == "CMYK"
        transparent = "transparency" in image.info or "A" in image.getbands()
        if transparent:
            transparent = image.convert("RGBA").getchannel("A").getextrema()[0] != 255
        image.draft("RGB", (4 * THUMB, 4 * THUMB))  # of a JPEG, a fraction is decoded
        rgb = np.asarray(image.convert("RGB"))
    pixels = "cmyk" if cmyk else "grey" if (rgb == rgb[..., :1]).all() else "colour"
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    thumb = cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).tobytes()
    known = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return ImageFacts(failure, pixels, transparent, known, digest, thumb)


def instance_faults(record: Record, scale: float) -> list[Fault]:
    """Everything odd about the annotations of one detectron2 dataset dict.

    Args:
        record: as the loaders make it: boxes XYXY in pixels of the image, masks polygons or RLE.
        scale: how many times larger the network sees the image.
    """
    found: list[Fault] = []
    shapes: dict[int, Record] = {}
    for i, annotation in enumerate(record["annotations"]):
        segmentation = annotation.get("segmentation")
        if annotation.get("iscrowd"):
            found.append(Fault("only_crowd", (i,), {}))
        elif segmentation:
            shapes[i] = rle_of(segmentation, record["height"], record["width"])
            found += [
                Fault(kind, (i,), seen) for kind, seen in _alone(annotation, shapes[i], scale)
            ]
    return found + list(_pairs(record["annotations"], shapes))


def rle_of(segmentation: Any, height: int, width: int) -> Record:
    """Polygons, or an RLE of any kind, as compressed RLE."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return dict(mask_util.frPyObjects(segmentation, height, width))
    return as_rle(segmentation, height, width)


def _alone(annotation: Record, rle: Record, scale: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, figures) of what is odd about an instance, whatever is beside it."""
    segmentation, box = annotation["segmentation"], annotation["bbox"]
    polygons = segmentation if isinstance(segmentation, list) else []
    if polygons and max(map(max, polygons)) <= 1:
        yield "normalised", {}
        return
    pixels = int(mask_util.area(rle))
    area = polygons_area(polygons) if polygons else float(pixels)
    if pixels * scale**2 < TINY_SIDE**2:
        yield "tiny", {"pixels": pixels, "after": pixels * scale**2}
    stated = annotation.get("area")
    if stated is not None and abs(stated - area) > max(_AREA_TOLERANCE * area, 2):
        yield "area_wrong", {"stated": float(stated), "area": area}
    around = _box_of(polygons, rle)
    off = np.abs(np.asarray(box) - around).reshape(2, 2)
    sides = np.maximum(around[2:] - around[:2], 1)
    if pixels and (off > np.maximum(_BOX_TOLERANCE * sides, 2)).any():
        yield "box_off", {"box": [*map(round, box)], "around": [*map(round, around.tolist())]}
    if any(map(crosses_itself, polygons)):
        yield "self_crossing", {}
    if len(polygons) == 1 and _is_box(np.reshape(polygons[0], (-1, 2)), box):
        yield "only_boxes", {}
    pieces = _similar_pieces(polygons, rle)
    if pieces >= _PIECES:
        yield "many_pieces", {"pieces": pieces}


def _box_of(polygons: Polygons, rle: Record) -> NDArray[np.float64]:
    """x0, y0, x1, y1 around a mask, in pixels."""
    if polygons:
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        return np.concatenate([points.min(axis=0), points.max(axis=0)])
    x, y, width, height = mask_util.toBbox(rle)
    return np.array([x, y, x + width, y + height])


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether a polygon's lines cross such that its area depends on who computes it.

    Bridges of no width, by which formats without holes cut them in, do no harm.
    """
    points = np.reshape(polygon, (-1, 2))
    if len(points) < 4:
        return False
    shape = shapely.Polygon(points)
    if shape.is_valid:
        return False
    shoelace = polygons_area([polygon])
    return bool(abs(shapely.make_valid(shape).area - shoelace) > 0.02 * max(shoelace, 1.0))


def _is_box(points: NDArray[np.float64], box: Sequence[float]) -> bool:
    """Whether a polygon is the four corners of a box, the first perhaps repeated at its end."""
    if len(points) == 5 and (points[0] == points[-1]).all():
        points = points[:4]
    corners = np.array([(box[i], box[j]) for i in (0, 2) for j in (1, 3)])
    far = np.abs(points[:, None] - corners).sum(axis=2).min(axis=1)
    return len(points) == len(np.unique(points, axis=0)) == 4 and bool((far <= 1).all())


def _similar_pieces(polygons: Polygons, rle: Record) -> int:
    """How many separate pieces there are of at least a third of the largest one's area."""
    if polygons:
        areas = np.array([polygons_area([polygon]) for polygon in polygons])
    else:
        x, y, width, height = (int(v) for v in mask_util.toBbox(rle))
        crop = mask_util.decode(rle)[y : y + height, x : x + width]
        areas = cv2.connectedComponentsWithStats(np.ascontiguousarray(crop))[2][1:, 4]
    return int((areas * 3 >= areas.max(initial=1)).sum())


def _pairs(annotations: list[Record], shapes: dict[int, Record]) -> Iterator[Fault]:
    """Instances that lie on each other; each is told of once, the later one first."""
    indices = [i for i, rle in shapes.items() if mask_util.area(rle) > 1]
    if len(indices) < 2:
        return
    rles = [shapes[i] for i in indices]
    boxes = np.stack([mask_util.toBbox(rle) for rle in rles])
    close = np.triu(mask_util.iou(boxes, boxes, [0] * len(rles)), 1) > _NEARLY_SAME - 0.2
    told: set[int] = set()
    for a, b in np.argwhere(close).tolist():
        iou = float(mask_util.iou([rles[a]], [rles[b]], [0])[0, 0])
        kind = _pair_kind(annotations[indices[a]], annotations[indices[b]], iou)
        if kind and b not in told:
            told.add(b)
            yield Fault(kind, (indices[b], indices[a]), {"iou": iou})


def _pair_kind(one: Record, other: Record, iou: float) -> str:
    if one["category_id"] != other["category_id"]:
        return "two_classes" if iou >= _SAME_OF_ANOTHER_CLASS else ""
    if iou >= _SAME:
        return "duplicate"
    return "near_duplicate" if iou >= _NEARLY_SAME else ""
