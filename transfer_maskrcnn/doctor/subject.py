"""The datasets that are examined: read from their files, with every place and every loss."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from transfer_maskrcnn.data.datasets import DatasetSpec, parse
from transfer_maskrcnn.data.formats import base
from transfer_maskrcnn.data.formats.base import LoadedDataset, LoadReport, Reason
from transfer_maskrcnn.data.formats.files import clip
from transfer_maskrcnn.data.formats.yolo import label_path
from transfer_maskrcnn.data.registry import dataset_facts, spec_of
from transfer_maskrcnn.doctor.findings import Finding, Place, finding
from transfer_maskrcnn.errors import DatasetError, nearest

_VALIDATION = ("val", "valid", "validation", "test", "dev", "eval")
_TRAINING = ("train", "training", "trainval")
_MANY_BEYOND = 0.2  # of all instances: more are no careless strokes at the border
_IMAGE_SIGNATURES = (*(b"\xff\xd8", b"\x89PNG", b"BM", b"II*", b"MM\x00*", b"RIFF", b"GIF8", b"P"),)
_LISTS = {"coco": "annotations", "labelme": "shapes"}  # keys of the json
Figures = Mapping[str, Any]
_DECODER, _SPACE = json.JSONDecoder(), re.compile(r"[ \t\n\r,:]*")


@dataclass(frozen=True)
class Subject:
    """A dataset by name, and how to read it."""

    name: str
    format: str | None  # None: registered by another package, as dicts
    annotations: str
    load: Callable[[], LoadedDataset]
    is_validation: bool


@dataclass(frozen=True)
class Loaded:
    """A subject that could be read."""

    subject: Subject
    dataset: LoadedDataset
    _items: dict[str, dict[str, list[tuple[int, Any]]]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.subject.name

    def class_counts(self) -> dict[str, int]:
        """Class -> instances that are no crowds, in the order of the classes."""
        counts = Counter(
            annotation["category_id"]
            for record in self.dataset.dicts
            for annotation in record["annotations"]
            if not annotation.get("iscrowd")
        )
        return {name: counts[k] for k, name in enumerate(self.dataset.classes)}

    def place_of(self, image: int, instances: tuple[int, ...], seen: Figures) -> Place:
        """Where the first of ``instances``, annotations of record ``image``, stands in its file."""
        there, file = self.dataset.places, self.dataset.dicts[image]["file_name"]
        first = (
            there[image][instances[0]] if there else base.Place("", f"annotation {instances[0]}")
        )
        return self.place(first._replace(image=file), seen, instances)

    def place(self, at: base.Place, seen: Figures, drawn: tuple[int, ...] = ()) -> Place:
        """A place that the loader tells of, with file, line and id."""
        image, format, number = at.image, self.subject.format, at.number
        if format == "yolo" and at.part == "line":
            return Place(str(label_path(image)), line=number, image=image, drawn=drawn, seen=seen)
        file = self.subject.annotations
        if format == "labelme" and at.part:
            file = str(Path(file, Path(image).with_suffix(".json").name))
        if number is None or format not in ("coco", "via", "labelme") or not os.path.isfile(file):
            return Place(image, at.where, image=image, drawn=drawn, seen=seen)
        if file not in self._items:
            self._items[file] = items_of(Path(file), format)
        lists = self._items[file]
        items = lists.get(os.path.basename(image) if format == "via" else "", [])
        line, id = items[number] if number < len(items) else (1, None)
        # Where a whole file is one line, its number helps nobody.
        shown = None if not items or items[-1][0] == 1 else line
        return Place(file, at.where, id, shown, image, drawn, seen=seen)


def items_of(file: Path, format: str) -> dict[str, list[tuple[int, Any]]]:
    """Line, from 1, and id of the items of a json file: of each image in VIA's, else of "".

    Empty where the file is no json of that format.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        top = {key: (start, value) for key, start, value in elements(text)}
        if format != "via":
            return {"": _lines(text, top[_LISTS[format]][0])}
        records = list(elements(text, top.get("_via_img_metadata", (0,))[0]))
        return {
            os.path.basename(record["filename"]): _lines(text, inner)
            for _, start, record in records
            if isinstance(record, dict) and "filename" in record
            for key, inner, _ in elements(text, start)
            if key == "regions"
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def elements(text: str, start: int = 0) -> Iterator[tuple[str, int, Any]]:
    """(key, offset, value) of each element of the array or object that begins at ``start``.

    Raises ValueError or IndexError where the text is no json.
    """
    start = _skip(text, start)
    is_object, position = text[start] == "{", _skip(text, start + 1)
    while (is_object or text[start] == "[") and text[position] not in "]}":
        key = ""
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position)
        value, end = _DECODER.raw_decode(text, position)
        yield key, position, value
        position = _skip(text, end)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _lines(text: str, start: int) -> list[tuple[int, Any]]:
    lines, line, seen = [], 1 + text.count("\n", 0, start), start
    for _, offset, value in elements(text, start):
        line, seen = line + text.count("\n", seen, offset), offset
        lines.append((line, value.get("id") if isinstance(value, dict) else None))
    return lines


def load(subject: Subject) -> tuple[Loaded | None, list[Finding]]:
    """The dataset, if it can be read, and what is wrong with its files."""
    try:
        loaded = Loaded(subject, subject.load())
    except DatasetError as error:
        place = Place(seen={"message": str(error)})
        return None, [finding("unloadable", subject.name, [place])]
    return loaded, list(_losses(loaded))


def _losses(loaded: Loaded) -> Iterator[Finding]:
    """What the loader left out or mended."""
    report = loaded.dataset.report
    beyond = report.repaired[Reason.CLIPPED] + report.left_out[Reason.OUTSIDE_IMAGE]
    for counts in (report.images_left_out, report.left_out, report.repaired):
        for reason, count in counts.items():
            kind, places = reason.value, report.places[reason]
            if reason is Reason.IMAGE_UNREADABLE:
                yield from _unreadable(loaded.name, [place.image for place in places], count)
                continue
            if reason is Reason.CLIPPED and beyond > _MANY_BEYOND * report.instances_read:
                kind = "misplaced"
            found = []
            for at in places:
                seen = {"note": at.note} if at.note else {}
                missing = reason is Reason.IMAGE_MISSING
                found.append(loaded.place(at, _similar_file(at.image) if missing else seen))
            yield finding(kind, loaded.name, found, count, instances=report.instances_read)


def _similar_file(path: str) -> dict[str, str]:
    """Where a missing image may be: the same name in other letters, or with another suffix."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return {"no_folder": folder}
    similar = _by_stem(folder).get(os.path.splitext(name)[0].lower())
    return {"similar": similar} if similar else {}


@lru_cache(maxsize=16)
def _by_stem(folder: str) -> dict[str, str]:
    return {os.path.splitext(name)[0].lower(): name for name in sorted(os.listdir(folder))}


def _unreadable(dataset: str, files: list[str], count: int) -> Iterator[Finding]:
    """Unreadable images, told apart by what the files hold."""
    by_kind: dict[str, list[Place]] = {}
    for file in files:
        kind, seen = _why_unreadable(file)
        by_kind.setdefault(kind, []).append(Place(file, image=file, seen=seen))
    for kind, places in by_kind.items():
        # The few that were counted, but whose places were not kept, are like most of the others.
        surplus = count - len(files) if len(places) == max(map(len, by_kind.values())) else 0
        yield finding(kind, dataset, places, len(places) + surplus)


def _why_unreadable(file: str) -> tuple[str, dict[str, str]]:
    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
    except OSError as error:
        return "image_truncated", {"note": str(error.strerror or error)}
    if not head:
        return "image_empty", {}
    if head.startswith(_IMAGE_SIGNATURES):
        return "image_truncated", {}
    return "image_no_image", {"begins": clip(head[:40].decode("ascii", "replace").split("\n")[0])}


def subject_of(name: str, is_validation: bool) -> Subject:
    """A registered dataset.

    Raises:
        DatasetError: no dataset has that name.
    """
    spec = spec_of(name)
    if spec is not None:
        return subject_of_spec(spec, is_validation)
    if name not in DatasetCatalog:
        raise DatasetError(
            f"no dataset is registered as {name!r}{nearest(name, DatasetCatalog.list())}; one of "
            "your own is declared in a catalog (--catalog my.yaml), or described with --format, "
            "--annotations and --image-root"
        )
    return Subject(name, None, "", partial(_from_catalog, name), is_validation)


def subject_of_spec(spec: DatasetSpec, is_validation: bool) -> Subject:
    """A dataset that may or may not be registered."""
    return Subject(spec.name, spec.format, spec.annotations, partial(parse, spec), is_validation)


def looks_like_validation(name: str) -> bool:
    """By its name: it holds "val", "valid", "test" or "dev" as a word, and no "train"."""
    words = _words(name)
    return any(w in _VALIDATION for w in words) and not any(w in _TRAINING for w in words)


def belong_together(train: str, validation: str) -> bool:
    """By their names, which differ by "train" and "val" alone, or the like."""
    splits = (*_VALIDATION, *_TRAINING)
    one, other = ([w for w in _words(n) if w not in splits] for n in (train, validation))
    return one == other


def _words(name: str) -> list[str]:
    return [word.rstrip("0123456789") or word for word in re.split(r"[-_/.\s]+", name.lower())]


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
    form = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": annotation.get("iscrowd", 0)}
    return {**annotation, **form}
