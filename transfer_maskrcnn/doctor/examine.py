"""The examination: every check over every dataset, and between datasets that belong together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.doctor.anchors import Settings
from transfer_maskrcnn.doctor.checks import (
    compare_classes,
    instance_sizes,
    look_at_classes,
    look_at_scale,
    same_images,
    scales_of,
)
from transfer_maskrcnn.doctor.findings import Finding, Json, Place, finding, verdict, worst_first
from transfer_maskrcnn.doctor.images import TINY_SIDE, Fault, ImageFacts, Mapper, look_at_images
from transfer_maskrcnn.doctor.subject import Loaded, Subject, belong_together, load

MOST_PLACES = 1_000  # of one finding
DRAWN = 6  # places of a finding, and images of a dataset
_MOST_POINTS = 20_000
_STATE_SIZES = ("coco", "labelme")  # formats: a quarter turn shows in the size

Seen = tuple[Loaded, list[ImageFacts]]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first, and the datasets that could be read."""

    findings: tuple[Finding, ...]
    loaded: tuple[Loaded, ...]

    @property
    def has_errors(self) -> bool:
        return any(f.severity == "error" for f in self.findings)

    def as_json(self) -> Json:
        """For ``--json``, the terminal and the page: what was examined, and what was found."""
        findings = [f.as_json() for f in self.findings]
        datasets = [_summary(loaded) for loaded in self.loaded]
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
    examined: list[Seen] = []
    files: set[tuple[str | None, str]] = set()
    for subject in subjects:
        loaded, found = load(subject)
        source = (subject.format, subject.annotations)
        if subject.annotations and source in files:  # two parts of one file share its losses
            found = []
        files.add(source)
        if loaded is not None:
            scales = scales_of(loaded, settings).tolist()
            mapper = mapper_of(loaded.dataset.mask_format)
            looks = look_at_images(loaded.name, loaded.dataset.dicts, scales, mapper)
            facts, faults = [facts for facts, _ in looks], [faults for _, faults in looks]
            found += _of_images(loaded, facts)
            found += same_images((loaded, facts), (loaded, facts))
            found += _of_instances(loaded, faults, settings)
            found += look_at_classes(loaded)
            found += look_at_scale(loaded, settings)
            examined.append((loaded, facts))
        findings += _merged(found)
    for train, validation in _pairs(examined):
        findings += compare_classes(train[0], validation[0])
        findings += same_images(validation, train)
    return Diagnosis(tuple(worst_first(findings)), tuple(loaded for loaded, _ in examined))


def _pairs(examined: Sequence[Seen]) -> Iterator[tuple[Seen, Seen]]:
    trained = [one for one in examined if not one[0].subject.is_validation]
    for other in examined:
        if other[0].subject.is_validation:
            named = [one for one in trained if belong_together(one[0].name, other[0].name)]
            alone = [one for one in trained if len(trained) == 1 and _share_a_class(one, other)]
            for one in named or alone:
                yield one, other


def _share_a_class(one: Seen, other: Seen) -> bool:
    return not set(one[0].dataset.classes).isdisjoint(other[0].dataset.classes)


def _of_images(loaded: Loaded, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    is_mixed = sum(fact.pixels == "grey" for fact in facts) <= len(facts) / 2
    states_size = loaded.subject.format in _STATE_SIZES
    by_kind: dict[str, list[Place]] = defaultdict(list)
    for record, fact in zip(loaded.dataset.dicts, facts, strict=True):
        turned = {"orientation": fact.orientation}
        for kind, found, seen in (
            ("mapper_failed", fact.failure, {"message": fact.failure}),
            ("exif_unclear", fact.orientation in (2, 3, 4), turned),
            ("exif_unclear", fact.orientation > 4 and not states_size, turned),
            ("image_cmyk", fact.pixels == "cmyk", {}),
            ("image_alpha", fact.transparent, {}),
            ("image_grey_mixed", fact.pixels == "grey" and is_mixed, {}),
        ):
            if found:
                file = record["file_name"]
                by_kind[kind].append(Place(file, image=file, seen=seen))
    for kind, places in by_kind.items():
        yield finding(kind, loaded.name, places)


def _of_instances(
    loaded: Loaded, faults: Sequence[Sequence[Fault]], settings: Settings
) -> Iterator[Finding]:
    by_kind: dict[str, list[tuple[int, Fault]]] = defaultdict(list)
    for i, some in enumerate(faults):
        for fault in some:
            by_kind[fault.kind].append((i, fault))
    values = {"side": TINY_SIDE, "input": settings.min_size_test}
    for kind, found in by_kind.items():
        places = [
            loaded.place_of(i, fault.instances, fault.seen) for i, fault in found[:MOST_PLACES]
        ]
        yield finding(kind, loaded.name, places, len(found), **values)


def _merged(found: Sequence[Finding]) -> list[Finding]:
    """One finding of areas, of which the loader tells the worst and a check of ours the others."""
    areas = [f for f in found if f.kind == Reason.AREA_MISMATCH.value]
    merged = [f for f in found if f not in areas]
    if areas:
        places = tuple(place for f in areas for place in f.places)
        merged.append(replace(areas[0], places=places, count=sum(f.count for f in areas)))
    return merged


def _summary(loaded: Loaded) -> Json:
    dataset = loaded.dataset
    return {
        "name": loaded.name,
        "format": loaded.subject.format,
        "annotations": loaded.subject.annotations,
        "images": len(dataset.dicts),
        "instances": sum(dataset.instances),
        "mask_format": dataset.mask_format,
        "classes": loaded.class_counts(),
        "loader": dataset.report.summary(),
    }


def page_data(diagnosis: Diagnosis, settings: Settings) -> Json:
    """``Diagnosis.as_json`` and, in it, pictures to draw and figures to plot. Plain JSON.

    A picture is ``{"file", "height", "width", "shapes": [{"label", "segmentation"}]}``; a
    segmentation is polygons or RLE in pixels of the image. Each finding gets ``pictures``, pairs of
    the number of a place and its picture. Each dataset gets ``pictures`` of its fullest images,
    ``image_sizes`` (width, height, how many), ``sides`` (square roots of box areas in pixels of the
    network's input, evenly sampled where there are many) and ``aspects`` (width / height).
    """
    content = diagnosis.as_json()
    pictured = {
        loaded.name: {record["file_name"]: record for record in loaded.dataset.dicts}
        for loaded in diagnosis.loaded
    }
    classes = {loaded.name: loaded.dataset.classes for loaded in diagnosis.loaded}
    for shown, found in zip(content["findings"], diagnosis.findings, strict=True):
        records = pictured.get(found.dataset, {})
        drawable = [
            (k, place, records[place.image])
            for k, place in enumerate(found.places)
            if place.image in records and (place.drawn or place.image == place.file)
        ]
        shown["pictures"] = [
            (k, _picture(record, classes[found.dataset], place.drawn, found.kind == "box_off"))
            for k, place, record in drawable[:DRAWN]
        ]
    for shown, loaded in zip(content["datasets"], diagnosis.loaded, strict=True):
        shown |= _figures(loaded, settings)
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


def _figures(loaded: Loaded, settings: Settings) -> Json:
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
        "pictures": [_picture(record, loaded.dataset.classes) for record in fullest],
    }
