"""The datasets that are examined: read from their files, with every place and every loss."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from transfer_maskrcnn.data.datasets import DatasetSpec, parse
from transfer_maskrcnn.data.formats import base
from transfer_maskrcnn.data.formats.base import LoadedDataset, LoadReport, Reason
from transfer_maskrcnn.data.formats.names import part_of
from transfer_maskrcnn.data.formats.yolo import label_path
from transfer_maskrcnn.data.registry import dataset_facts, spec_of
from transfer_maskrcnn.doctor.anchors import Floats, Measures, Settings, measure
from transfer_maskrcnn.doctor.findings import Place, Told, advice
from transfer_maskrcnn.doctor.images import TINY_SIDE, Figures, Look
from transfer_maskrcnn.errors import DatasetError, nearest
from transfer_maskrcnn.text import plural

_MANY_BEYOND = 0.2  # of all instances: more are no careless strokes at the border
_LISTS = {"coco": "annotations", "labelme": "shapes", "via": "regions"}  # keys of the json
_DECODER, _SPACE = json.JSONDecoder(), re.compile(r"[ \t\n\r,:]*")


class Subject(NamedTuple):
    """A dataset by name and how to read it: without a format, another package registered it."""

    spec: DatasetSpec
    is_validation: bool


def subject_of(name: str, is_validation: bool = False, spec: DatasetSpec | None = None) -> Subject:
    """A dataset that is registered, or of ``spec``; its name may say that it is for validation.

    Raises:
        DatasetError: no dataset has that name.
    """
    spec = spec or spec_of(name)
    if spec is None and name not in DatasetCatalog:
        raise DatasetError(
            f"no dataset is registered as {name!r}{nearest(name, DatasetCatalog.list())}; nor is "
            "there such a folder or file. One of your own is named by its folder, declared in a "
            "catalog (--catalog my.yaml), or described with --format and --annotations"
        )
    spec = spec or DatasetSpec(name, format="", annotations="")
    return Subject(spec, is_validation or looks_like_validation(name))


def looks_like_validation(name: str) -> bool:
    """By its name: the last word in it that names a part is no "train"."""
    return part_of(name) in ("val", "test")


@dataclass
class Examined:
    """A dataset that could be read, and all that a check may ask of it.

    Attributes:
        settings: of the config that will train on it.
        looks: at each image, in the order of the dataset's dicts.
    """

    spec: DatasetSpec
    is_validation: bool
    dataset: LoadedDataset
    settings: Settings
    looks: list[Look] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def values(self) -> dict[str, Any]:
        return figures(self.settings, self.dataset.report.instances_read)

    @cached_property
    def measures(self) -> Measures:
        return measure(self.dataset.dicts, len(self.dataset.classes))

    @cached_property
    def scales(self) -> Floats:
        """(N,): how many times larger evaluation makes each image."""
        return self.settings.test_scales(self.measures.images_hw)

    @property
    def class_counts(self) -> dict[str, int]:
        """Class -> instances that are no crowds, in the order of the classes."""
        return dict(zip(self.dataset.classes, self.measures.class_counts.tolist(), strict=True))

    @property
    def counted(self) -> str:
        """Its images, instances and crowds, in words."""
        objects = int(self.measures.class_counts.sum())
        crowds = sum(self.dataset.instances) - objects
        words = [plural(len(self.dataset.dicts), "image"), plural(objects, "instance")]
        return ", ".join(words + [plural(crowds, "crowd region")] * (crowds > 0))

    @cached_property
    def empty_images(self) -> list[int]:
        """The images without objects, but for those that lost all to errors."""
        report = self.dataset.report
        wrong = (r for r in report.left_out if advice()[r.value]["severity"] == "error")
        lost = set().union(*(report.in_images[reason] for reason in wrong))
        empty = (self.measures.objects_an_image == 0).nonzero()[0].tolist()
        return [i for i in empty if self.dataset.dicts[i]["file_name"] not in lost]

    def place_of(self, image: int, seen: Figures, instances: tuple[int, ...] = ()) -> Place:
        """Where record ``image``, or the first of ``instances`` among its annotations, stands."""
        there, at = self.dataset.places, base.Place()
        if instances:
            number = instances[0]
            at = there[image][number] if there else base.Place("", f"annotation {number}")
        file = self.dataset.dicts[image]["file_name"]
        return place_in(self.spec, at._replace(image=file), seen, instances)


def figures(settings: Settings, instances: int) -> dict[str, Any]:
    """What the words of findings at single places may need."""
    return {"side": TINY_SIDE, "input": settings.min_size_test, "instances": instances}


def place_in(
    spec: DatasetSpec, at: base.Place, seen: Figures, drawn: tuple[int, ...] = ()
) -> Place:
    """A place that the loader tells of, with file, line and id."""
    image, number, format, file = at.image, at.number, spec.format, spec.annotations
    if format == "yolo" and at.part == "line":
        return Place(str(label_path(image)), line=number, image=image, drawn=drawn, seen=seen)
    if format == "labelme":
        file = at.origin
    if number is None or format not in _LISTS or not os.path.isfile(file):
        return Place(image, at.where, image=image, drawn=drawn, seen=seen)
    items = items_of(Path(file), format).get(at.origin if format == "via" else "", [])
    line, id = items[number] if number < len(items) else (1, None)
    # Where a whole file is one line, its number helps nobody.
    shown = None if not items or items[-1][0] == 1 else line
    return Place(file, at.where, id, shown, image, drawn, seen=seen)


@lru_cache(maxsize=4)  # places of one file follow each other
def items_of(file: Path, format: str) -> dict[str, list[tuple[int, Any]]]:
    """Line, from 1, and id of the items of a json file: of each key of an image in VIA's, else of
    "".

    Empty where the file is no json of that format.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        top = {key: start for key, start, _ in elements(text)}
        if format != "via":
            return {"": _lines(text, top[_LISTS[format]])}
        return {
            key: _lines(text, inner)
            for key, start, record in elements(text, top.get("_via_img_metadata", 0))
            if isinstance(record, dict)
            for name, inner, _ in elements(text, start)
            if name == _LISTS[format]
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def elements(text: str, start: int = 0) -> Iterator[tuple[str, int, Any]]:
    """(key, offset, value) of each element of the array or object that begins at ``start``.

    Raises ValueError or IndexError where the text is no json.
    """
    start = _skip(text, start)
    key, position, is_object = "", _skip(text, start + 1), text[start] == "{"
    while (is_object or text[start] == "[") and text[position] not in "]}":
        if is_object:
            key, end = _DECODER.raw_decode(text, position)
            position = _skip(text, end)
        value, end = _DECODER.raw_decode(text, position)
        yield key, position, value
        position = _skip(text, end)


def _skip(text: str, position: int) -> int:
    """Over what stands between elements."""
    return next(_SPACE.finditer(text, position)).end()


def _lines(text: str, start: int) -> list[tuple[int, Any]]:
    lines, line = [], 1 + text.count("\n", 0, start)
    for _, offset, value in elements(text, start):
        line, start = line + text.count("\n", start, offset), offset
        lines.append((line, value.get("id") if isinstance(value, dict) else None))
    return lines


def load(subject: Subject, settings: Settings) -> tuple[Examined, list[Told]]:
    """The dataset, and what the loader left out or mended.

    Raises:
        DatasetError: it cannot be read.
    """
    spec = subject.spec
    dataset = parse(spec) if spec.format else _from_catalog(spec.name)
    return Examined(*subject, dataset, settings), list(losses(spec, dataset.report, dataset))


def losses(
    spec: DatasetSpec, report: LoadReport, dataset: LoadedDataset | None = None
) -> Iterator[Told]:
    """What the loader left out, mended or doubted; in ``dataset`` are those that it kept."""
    kept = {}
    if dataset and (report.repaired or report.doubted):
        kept = {
            (place.image, place.where): number
            for there in dataset.places
            for number, place in enumerate(there)
        }
    for reason, at, count in report.losses():
        kind, seen = _why(reason, at, report)
        number = kept.get((at.image, at.where))
        yield kind, place_in(spec, at, seen, () if number is None else (number,)), count


def _why(reason: Reason, at: base.Place, report: LoadReport) -> tuple[str, Figures]:
    """The kind of finding that a loss is, and what is seen at its place."""
    beyond = report.repaired[Reason.CLIPPED] + report.left_out[Reason.OUTSIDE_IMAGE]
    many = reason is Reason.CLIPPED and beyond > _MANY_BEYOND * report.instances_read
    return "misplaced" if many else reason.value, {"note": at.note} if at.note else {}


def _from_catalog(name: str) -> LoadedDataset:
    """The dicts that another package registered, with boxes of this project's form."""
    records = [
        {**record, "annotations": [_own_form(a) for a in record.get("annotations", [])]}
        for record in DatasetCatalog.get(name)
    ]
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise DatasetError(f"dataset {name!r} has no thing_classes in its metadata; set them")
    instances = tuple(len(record["annotations"]) for record in records)
    return LoadedDataset(
        dicts=records,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        mask_format=dataset_facts(name).mask_format,
        report=LoadReport(len(records), len(records), sum(instances), sum(instances)),
        positions=tuple(range(len(records))),
        instances=instances,
        files=tuple(str(record["file_name"]) for record in records),
    )


def _own_form(annotation: dict[str, Any]) -> dict[str, Any]:
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return {"iscrowd": 0, **annotation, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
