"""A diagnosis with what a page needs to draw it: shapes, sizes, example images. Plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from transfer_maskrcnn.doctor.examine import Diagnosis
from transfer_maskrcnn.doctor.findings import Finding, Place
from transfer_maskrcnn.doctor.scale_findings import instance_sizes, scales_of
from transfer_maskrcnn.doctor.settings import Settings
from transfer_maskrcnn.doctor.subject import Loaded

DRAWN = 6  # places of a finding, and images of a dataset
_MOST_POINTS = 20_000


def page_data(diagnosis: Diagnosis, settings: Settings) -> dict[str, Any]:
    """``Diagnosis.as_json`` and, in it, pictures to draw.

    A picture is ``{"file", "height", "width", "shapes": [{"label", "segmentation"}]}``; a
    segmentation is polygons or RLE in pixels of the image. Each finding gets ``pictures``, pairs of
    the text of a place and its picture. Each dataset gets ``pictures`` of its fullest images,
    ``image_sizes`` (width, height, how many), ``sides`` (square roots of box areas in pixels of the
    network's input, evenly sampled where there are many) and ``aspects`` (width / height).
    """
    content = diagnosis.as_json()
    by_name = {loaded.name: loaded for loaded in diagnosis.loaded}
    records = {
        (loaded.name, record["file_name"]): record
        for loaded in diagnosis.loaded
        for record in loaded.dataset.dicts
    }
    for shown, found in zip(content["findings"], diagnosis.findings, strict=True):
        shown["pictures"] = _of_finding(found, by_name, records)
    for shown, loaded in zip(content["datasets"], diagnosis.loaded, strict=True):
        shown |= _of_dataset(loaded, settings)
    return content


def _of_finding(
    found: Finding, by_name: dict[str, Loaded], records: dict[tuple[str, str], dict[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    if found.dataset not in by_name:
        return []
    classes = by_name[found.dataset].dataset.classes
    pictures = []
    for place in [place for place in found.places if place.image][:DRAWN]:
        record = records.get((found.dataset, place.image))
        if record is not None:
            picture = _picture(record, classes, _drawn(place, record))
            if found.kind == "box_off":
                picture["shapes"].append(_box(record["annotations"][place.drawn[0]]))
            pictures.append((str(place), picture))
    return pictures


def _box(annotation: dict[str, Any]) -> dict[str, Any]:
    x0, y0, x1, y1 = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return {"label": "the stated box", "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}


def _drawn(place: Place, record: dict[str, Any]) -> Sequence[int]:
    return place.drawn or range(len(record["annotations"]))


def _picture(
    record: dict[str, Any], classes: Sequence[str], instances: Sequence[int]
) -> dict[str, Any]:
    chosen = [record["annotations"][i] for i in instances]
    return {
        "file": record["file_name"],
        "height": record["height"],
        "width": record["width"],
        "shapes": [
            {"label": classes[a["category_id"]], "segmentation": a["segmentation"]}
            for a in chosen
            if a.get("segmentation")
        ],
    }


def _of_dataset(loaded: Loaded, settings: Settings) -> dict[str, Any]:
    records = loaded.dataset.dicts
    places, sizes = instance_sizes(loaded)
    seen = sizes * scales_of(loaded, settings)[[image for image, _ in places], None]
    step = max(1, len(seen) // _MOST_POINTS)
    shapes = Counter((record["width"], record["height"]) for record in records)
    fullest = sorted(records, key=lambda record: -len(record["annotations"]))[:DRAWN]
    return {
        "image_sizes": [(*size, count) for size, count in shapes.most_common()],
        "sides": np.sqrt(seen.prod(axis=1))[::step].round(1).tolist(),
        "aspects": (seen[:, 0] / seen[:, 1].clip(min=1e-9))[::step].round(3).tolist(),
        "pictures": [
            _picture(r, loaded.dataset.classes, range(len(r["annotations"]))) for r in fullest
        ],
    }
