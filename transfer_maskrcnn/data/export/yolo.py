"""YOLO segmentation in Ultralytics' layout: a data.yaml, images, and a text file of labels each.

https://docs.ultralytics.com/datasets/segment/: one line an instance, so one closed line an
instance; several parts, and holes, are joined into it by bridges of no width.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.masks import polygons_to_rle, rle_to_mask
from transfer_maskrcnn.files import write_text
from transfer_maskrcnn.text import plural

from .base import Filled, copy_images, image_files, write_yaml
from .masks import Segmentation, as_rle, drop_collinear, join_rings, trace_rings

_PARTS = "of several parts became one line, its parts joined by bridges of no width"
_HOLES = "with holes became one line, the holes cut in by bridges of no width"
_OVERLAPS = "with parts that overlap became the outline of its pixels"


def fill_yolo(dataset: LoadedDataset, folder: Path) -> Filled:
    """``data.yaml``, ``images/`` and ``labels/``.

    ``train`` and ``val``, which Ultralytics both asks for, are the same images.
    """
    counts: Counter[str] = Counter()
    (folder / "labels").mkdir()
    copied = copy_images(image_files(dataset), lambda stem: folder / "images")
    for record, stem in zip(dataset.dicts, copied.stems, strict=True):
        lines = _label_lines(record, counts)
        write_text(folder / "labels" / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
    content = {"train": "images", "val": "images", "names": dict(enumerate(dataset.classes))}
    write_yaml(folder / "data.yaml", content)
    notes = [f"{plural(count, 'instance')} {what}." for what, count in sorted(counts.items())]
    notes += ["train and val in data.yaml are the same images: name others as val to measure AP."]
    return Filled(copied, {"annotations": "data.yaml", "split": "train"}, notes)


def _label_lines(record: dict[str, Any], counts: Counter[str]) -> list[str]:
    """One line an instance: class number, then x y of each point in fractions of the image."""
    height, width = record["height"], record["width"]
    lines = []
    for annotation in record["annotations"]:
        ring = single_ring(annotation["segmentation"], height, width, counts)
        shares = _fractions(ring, np.array([width, height], dtype=np.float64))
        numbers = map(repr, shares.reshape(-1).tolist())
        lines.append(" ".join([str(annotation["category_id"]), *numbers]))
    return lines


def _fractions(ring: np.ndarray, size: np.ndarray) -> np.ndarray:
    """``ring / size``, to the last bit such that their product is rasterised as ``ring`` is.

    pycocotools rounds to fifths of a pixel. Of a coordinate halfway between two, as 50.1 is, the
    last bit decides, and a small instance may lose half of its pixels.
    """
    fifths = np.floor(ring * 5 + 0.5)
    shares = ring / size
    for nearby in (np.nextafter(shares, 0), np.nextafter(shares, 1)):
        differs = np.floor(shares * size * 5 + 0.5) != fifths
        shares = np.where(differs, nearby, shares)
    return shares


def single_ring(
    segmentation: Segmentation, height: int, width: int, counts: Counter[str]
) -> np.ndarray:
    """The outline of a mask as one closed line, (N, 2) in pixels, which fills to the same mask.

    ``counts`` learns what had to be joined.
    """
    if isinstance(segmentation, dict):
        return _traced(segmentation, counts)
    parts = [np.asarray(part, dtype=float).reshape(-1, 2) for part in segmentation]
    if len(parts) == 1:
        return parts[0]
    rle = as_rle(segmentation, height, width)
    joined = join_rings(parts)
    if polygons_to_rle([joined.reshape(-1).tolist()], height, width) == rle:
        counts[_PARTS] += 1
        return joined
    counts[_OVERLAPS] += 1  # where two cover a pixel, the joined line would leave it out
    return _traced(rle, counts)


def _traced(rle: dict[str, Any], counts: Counter[str]) -> np.ndarray:
    pieces = trace_rings(rle_to_mask(rle))
    joined = {_PARTS: len(pieces) > 1, _HOLES: any(len(piece) > 1 for piece in pieces)}
    counts.update(what for what, is_so in joined.items() if is_so)
    return drop_collinear(join_rings([ring for piece in pieces for ring in piece]))
