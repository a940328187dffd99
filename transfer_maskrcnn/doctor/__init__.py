"""The dataset doctor: every check over every dataset, and between those that belong together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from transfer_maskrcnn.data.formats.base import UnusableDataset
from transfer_maskrcnn.data.formats.names import belong_together
from transfer_maskrcnn.doctor.anchors import Integers, Settings
from transfer_maskrcnn.doctor.checks import CHECKS, PAIR_CHECKS, told_of_images
from transfer_maskrcnn.doctor.findings import (
    Finding,
    Json,
    Place,
    finding,
    grouped,
    verdict,
    worst_first,
)
from transfer_maskrcnn.doctor.images import Mapper, look_at_images
from transfer_maskrcnn.doctor.subject import (
    Examined,
    Subject,
    figures,
    load,
    losses,
)
from transfer_maskrcnn.errors import DatasetError

_DRAWN = 6  # places of a finding
_SAMPLES = 12  # images of a dataset
_CELLS = 24  # of a grid over the images, each way
_MOST_POINTS = 20_000


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first, and the datasets that could be read."""

    findings: tuple[Finding, ...]
    examined: tuple[Examined, ...]

    @property
    def has_errors(self) -> bool:
        return any(f.severity == "error" for f in self.findings)

    def as_json(self) -> Json:
        """For ``--json``, the terminal and the page: what was examined, and what was found."""
        findings = [f.as_json() for f in self.findings]
        datasets = [
            {
                "name": one.name,
                "format": one.spec.format or None,
                "annotations": one.spec.annotations,
                "images": len(one.dataset.dicts),
                "instances": sum(one.class_counts.values()),
                "counted": one.counted,
                "mask_format": one.dataset.mask_format,
                "classes": one.class_counts,
                "loader": one.dataset.report.summary(),
            }
            for one in self.examined
        ]
        return {"datasets": datasets, "findings": findings, "verdict": verdict(findings)}


def examine(
    subjects: Sequence[Subject], settings: Settings, mapper_of: Callable[[str], Mapper]
) -> Diagnosis:
    """Look at datasets, and at each pair of a training and a validation set.

    Args:
        subjects: what to look at. A validation set is compared with the training sets that have
            its name but for "train"; if none has, with a training set that is the only one.
        settings: input sizes, anchors and limits of the config that will train on them.
        mapper_of: for a dataset's ``mask_format``, what takes one of its dicts to model input as
            training does.
    """
    findings: list[Finding] = []
    examined: list[Examined] = []
    for subject in subjects:
        try:
            one, told = load(subject, settings)
        except DatasetError as error:
            name, message = subject.spec.name, " ".join(str(error).split())
            findings.append(finding("unloadable", name, [Place(seen={"message": message})]))
            if isinstance(error, UnusableDataset):
                values = figures(settings, error.report.instances_read)
                findings += grouped(name, losses(subject.spec, error.report), **values)
            continue
        mapper = mapper_of(one.dataset.mask_format)
        one.looks += look_at_images(one.name, one.dataset.dicts, one.scales.tolist(), mapper)
        findings += grouped(one.name, (*told, *told_of_images(one)), **one.values)
        for check in CHECKS:
            findings += check(one)
        examined.append(one)
    for train, validation in _pairs(examined):
        for compare in PAIR_CHECKS:
            findings += compare(train, validation)
    findings = worst_first(found for found in findings if found.places)
    return Diagnosis(tuple(findings), tuple(examined))


def _pairs(examined: Sequence[Examined]) -> Iterator[tuple[Examined, Examined]]:
    trained = [one for one in examined if not one.is_validation]
    for other in (one for one in examined if one.is_validation):
        classes = set(other.dataset.classes)
        named = [one for one in trained if belong_together(one.name, other.name)]
        alone = [one for one in trained[: len(trained) == 1] if classes & {*one.dataset.classes}]
        yield from ((one, other) for one in named or alone)


def page_data(diagnosis: Diagnosis) -> Json:
    """``Diagnosis.as_json`` and, in it, pictures to draw and figures to plot. Plain JSON.

    A picture is ``{"file", "height", "width", "shapes": [{"label", "segmentation"}]}``; a
    segmentation is polygons or RLE in pixels of the image. One of an image that was left out has
    no shapes, and None for its sides. Each finding gets ``pictures``, pairs of the number of a
    place and its picture, where a place has an image.

    Each dataset gets ``empty_images`` and ``left_out``, numbers of images; ``image_sizes`` (width,
    height, how many); ``sides`` (square roots of box areas in pixels of the network's input, evenly
    sampled where there are many) and ``aspects`` (width / height); ``centres``, how many boxes have
    their centre in each cell of a grid over the images, row by row; and ``pictures``, samples of
    its images that have objects.
    """
    content = diagnosis.as_json()
    records = {
        (one.name, record["file_name"]): (record, one.dataset.classes)
        for one in diagnosis.examined
        for record in one.dataset.dicts
    }
    for shown, found in zip(content["findings"], diagnosis.findings, strict=True):
        there = ((k, place) for k, place in enumerate(found.places) if os.path.isfile(place.image))
        shown["pictures"] = [
            (k, _picture(*record, place.drawn, "box" in place.seen))
            for k, place in islice(there, _DRAWN)
            for record in [records.get((found.dataset, place.image), _left_out(place.image))]
        ]
    for shown, one in zip(content["datasets"], diagnosis.examined, strict=True):
        shown |= _figures(one)
    return content


def _picture(
    record: dict[str, Any],
    classes: Sequence[str],
    drawn: Sequence[int] = (),
    with_box: bool = False,
) -> Json:
    chosen = [record["annotations"][i] for i in drawn] or record["annotations"]
    shapes = [
        {"label": classes[a["category_id"]], "segmentation": a["segmentation"]}
        for a in chosen
        if a.get("segmentation")
    ]
    if with_box:
        x0, y0, x1, y1 = chosen[0]["bbox"]
        box = [[x0, y0, x1, y0, x1, y1, x0, y1]]
        shapes.append({"label": "the stated box", "segmentation": box})
    return {
        "file": record["file_name"],
        "height": record["height"],
        "width": record["width"],
        "shapes": shapes,
    }


def _left_out(file: str) -> tuple[Json, tuple[str, ...]]:
    """Stands in for the record of an image that has none, and its classes."""
    return {"file_name": file, "height": None, "width": None, "annotations": []}, ()


def _figures(one: Examined) -> Json:
    records = one.dataset.dicts
    boxes, sides = one.measures.boxes_at(one.scales), one.measures.across_at(one.scales)
    step = max(1, len(sides) // _MOST_POINTS)
    shapes = Counter((record["width"], record["height"]) for record in records)
    seen = np.flatnonzero(one.measures.objects_an_image)
    samples = seen[np.linspace(0, len(seen) - 1, min(len(seen), _SAMPLES)).astype(int)]
    return {
        "empty_images": len(one.empty_images),
        "left_out": sum(one.dataset.report.images_left_out.values()),
        "image_sizes": [(*size, count) for size, count in shapes.most_common()],
        "sides": sides[::step].round(1).tolist(),
        "aspects": (boxes[:, 0] / boxes[:, 1].clip(min=1e-9))[::step].round(3).tolist(),
        "centres": _centres(records).tolist(),
        "pictures": [_picture(records[i], one.dataset.classes) for i in samples.tolist()],
    }


def _centres(records: Sequence[dict[str, Any]]) -> Integers:
    centres = [
        ((y0 + y1) / 2 / record["height"], (x0 + x1) / 2 / record["width"])
        for record in records
        for annotation in record["annotations"]
        if not annotation["iscrowd"]
        for x0, y0, x1, y1 in [annotation["bbox"]]
    ]
    y, x = np.reshape(centres, (-1, 2)).T
    return np.histogram2d(y, x, bins=_CELLS, range=[(0, 1), (0, 1)])[0].astype(np.int64)
