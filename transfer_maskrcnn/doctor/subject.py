"""The datasets that are examined: read from their files, with every place and every loss."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.formats.base import LoadedDataset, LoadReport
from transfer_maskrcnn.data.register import DatasetSpec, parse, spec_of
from transfer_maskrcnn.doctor.locate import Locator
from transfer_maskrcnn.errors import DatasetError, nearest

_VALIDATION = ("val", "valid", "validation", "test", "dev", "eval")
_TRAINING = ("train", "training", "trainval")
_SPLITS = (*_VALIDATION, *_TRAINING)


@dataclass(frozen=True)
class Subject:
    """A dataset by name: how to read it, and where its instances stand."""

    name: str
    format: str | None  # None: registered by another package, as dicts
    annotations: str
    load: Callable[[], LoadedDataset]
    is_validation: bool

    @property
    def locator(self) -> Locator:
        return Locator(self.format, self.annotations)


@dataclass(frozen=True)
class Loaded:
    """A subject that could be read."""

    subject: Subject
    dataset: LoadedDataset
    locator: Locator

    @property
    def name(self) -> str:
        return self.subject.name

    def place_of(self, image: int, instance: int) -> str:
        """Where an instance stands in its file, in the loader's words."""
        places = self.dataset.places
        return places[image][instance].where if places else f"annotation {instance}"

    def class_counts(self) -> dict[str, int]:
        """Class -> instances that are no crowds, in the order of the classes."""
        counts = Counter(
            annotation["category_id"]
            for record in self.dataset.dicts
            for annotation in record["annotations"]
            if not annotation.get("iscrowd")
        )
        return {name: counts[k] for k, name in enumerate(self.dataset.classes)}


def subject_of(name: str, is_validation: bool) -> Subject:
    """A registered dataset.

    Raises:
        DatasetError: no dataset has that name.
    """
    spec = spec_of(name)
    if spec is not None:
        return subject_of_spec(spec, is_validation)
    if name not in DatasetCatalog:
        known = DatasetCatalog.list()
        raise DatasetError(
            f"no dataset is registered as {name!r}{nearest(name, known)}; one of your own is "
            "declared in a catalog (--catalog my.yaml), or described with --format, --annotations "
            "and --image-root"
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
    one, other = ([w for w in _words(n) if w not in _SPLITS] for n in (train, validation))
    return one == other


def _words(name: str) -> list[str]:
    return [word.rstrip("0123456789") or word for word in re.split(r"[-_/.\s]+", name.lower())]


def _from_catalog(name: str) -> LoadedDataset:
    """The dicts that another package registered, as they are."""
    dicts: Sequence[dict[str, object]] = DatasetCatalog.get(name)
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise DatasetError(f"dataset {name!r} has no thing_classes in its metadata; set them")
    records = [{**record, "annotations": record.get("annotations", [])} for record in dicts]
    instances = tuple(len(record["annotations"]) for record in records)  # type: ignore[arg-type]
    is_bitmask = any(
        isinstance(annotation.get("segmentation"), dict)
        for record in records
        for annotation in record["annotations"]  # type: ignore[attr-defined]
    )
    return LoadedDataset(
        dicts=records,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        mask_format="bitmask" if is_bitmask else "polygon",
        report=LoadReport(len(records), len(records), sum(instances), sum(instances)),
        positions=tuple(range(len(records))),
        instances=instances,
        files=tuple(str(record["file_name"]) for record in records),
    )
