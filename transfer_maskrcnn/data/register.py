"""Registers datasets by name with detectron2's catalogs; annotations are read at first use."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.dataset_cache import DatasetSource, load_dataset
from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.merge import Merge, check_merge
from transfer_maskrcnn.data.record_file import RecordFile
from transfer_maskrcnn.errors import DatasetError, nearest

logger = logging.getLogger(__name__)

PARTS = ("train", "val")


@dataclass(frozen=True)
class DatasetSpec:
    """All that makes a dataset; two registrations under a name are the same if these are equal."""

    name: str
    format: str
    annotations: str
    image_root: str | None
    classes: tuple[str, ...] | None
    hold_out_every: int | None
    part: str | None
    prepare: str | None  # the command that fetches or makes it, for the error where it is missing
    options: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, tuple[str, ...]] = field(default_factory=dict)


_registered: dict[str, DatasetLoader] = {}


def register_dataset(
    name: str,
    *,
    format: str,
    annotations: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    classes: list[str] | tuple[str, ...] | None = None,
    merge: Merge | None = None,
    hold_out_every: int | None = None,
    part: str | None = None,
    prepare: str | None = None,
    **options: Any,
) -> None:
    """Register ``name`` in DatasetCatalog and MetadataCatalog; nothing is read until it is used.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        format: coco, via, labelme, yolo or png_masks.
        annotations: the json (coco, via), the folder of json files (labelme), the ``data.yaml``
            (yolo), or the folder of masks or samples (png_masks).
        image_root: the folder of images; not needed for yolo, whose ``data.yaml`` names it.
        classes: class names in the order wanted; None takes what the annotations name.
        merge: class name -> labels in the annotations that become this class, as
            ``{"vehicle": ["car", "truck"]}``; ``classes`` then names ``vehicle``. Labels that it
            does not name stay. With png_masks, a merged class stands for the pixel values of all
            its labels, in their order.
        hold_out_every, part: where one file holds everything: each ``hold_out_every``-th image, in
            the file's order (coco: by image id) and starting with the first, belongs to
            ``part="val"``, the others to ``part="train"``. Images that cannot be used are counted
            too, so that the loss of one moves no other to the other part.
        prepare: the command that gets the dataset; named in the error where it is missing.
        **options: passed to the format's loader, e.g. ``split`` (yolo), ``label_map`` (labelme).

    Registering the same again is fine.

    Raises:
        DatasetError: an unknown format or option, or a name that is taken by something else.
    """
    rest = {"hold_out_every": hold_out_every, "part": part, "prepare": prepare, **options}
    spec = make_spec(name, format, annotations, image_root, classes=classes, merge=merge, **rest)
    if name in DatasetCatalog:
        _check_same(spec)
        return
    loader = DatasetLoader(spec)
    DatasetCatalog.register(name, loader)
    _registered[name] = loader
    _fill_metadata(spec)


def _fill_metadata(spec: DatasetSpec) -> None:
    """What is known before anything is read."""
    metadata = MetadataCatalog.get(spec.name)
    metadata.set(evaluator_type="coco")
    if spec.image_root is not None:
        metadata.set(image_root=spec.image_root)
    if spec.classes is not None:
        metadata.set(thing_classes=list(spec.classes))
    if spec.format == "coco" and spec.hold_out_every is None and not spec.merge:
        metadata.set(json_file=spec.annotations)


def make_spec(
    name: str,
    format: str,
    annotations: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
    **rest: Any,
) -> DatasetSpec:
    """What :func:`register_dataset` would register, checked; arguments are the same.

    Raises:
        DatasetError: an unknown format or option, or values that do not go together.
    """
    spec = DatasetSpec(
        name=name,
        format=format,
        annotations=os.fspath(annotations),
        image_root=None if image_root is None else os.fspath(image_root),
        classes=None if classes is None else tuple(classes),
        hold_out_every=rest.pop("hold_out_every", None),
        part=rest.pop("part", None),
        prepare=rest.pop("prepare", None),
        options=rest,
    )
    _check(spec)
    try:
        return replace(spec, merge=check_merge(merge, spec.classes))
    except DatasetError as error:
        raise DatasetError(f"dataset {name!r}: {error}") from None


class DatasetLoader:
    """What DatasetCatalog calls: reads the annotations once a process, and fills the metadata.

    A small dataset is a list whose dicts all callers share, as everywhere in detectron2: copy
    before changing one. A large one that is cached (``dataset_cache``) is a :class:`RecordFile`,
    from the first time on: each access makes a new dict, so what a caller changes is lost unless
    the caller keeps that dict, as ``list`` does.
    """

    def __init__(self, spec: DatasetSpec):
        self.spec = spec
        self._loaded: LoadedDataset | None = None

    def __call__(self) -> Sequence[dict[str, Any]]:
        if self._loaded is None:
            self._loaded = _load(self.spec)
        dicts = self._loaded.dicts
        return dicts if isinstance(dicts, RecordFile) else list(dicts)


def spec_of(name: str) -> DatasetSpec | None:
    """How ``name`` was registered; None where another package did that."""
    loader = _registered.get(name)
    return None if loader is None else loader.spec


def parse(spec: DatasetSpec) -> LoadedDataset:
    """The dataset from its files, not from the cache: with ``places``.

    Raises:
        DatasetError: what the format's loader raises.
    """
    try:
        return take_part(spec, _source(spec).parse())
    except DatasetError as error:
        raise DatasetError(f"{error}{_how_to_get(spec)}") from None


def _source(spec: DatasetSpec) -> DatasetSource:
    arguments: dict[str, Any] = dict(spec.options, classes=spec.classes)
    return DatasetSource(
        spec.format, spec.annotations, spec.image_root, arguments, merge=spec.merge
    )


def _load(spec: DatasetSpec) -> LoadedDataset:
    try:
        loaded = load_dataset(spec.name, _source(spec))
    except DatasetError as error:
        raise DatasetError(f"dataset {spec.name!r}: {error}{_how_to_get(spec)}") from None
    loaded = take_part(spec, loaded)
    MetadataCatalog.get(spec.name).set(
        thing_classes=list(loaded.classes),
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(loaded.category_ids)},
        mask_format=loaded.mask_format,
    )
    report = loaded.report
    lost = report.images_left_out or report.left_out
    logger.log(
        logging.WARNING if lost else logging.INFO, "dataset %s: %s", spec.name, report.summary()
    )
    if spec.part is not None:
        logger.info(
            "dataset %s: part %r is %d of these images with %d instances",
            *(spec.name, spec.part, len(loaded.dicts), sum(loaded.instances)),
        )
    return loaded


def _how_to_get(spec: DatasetSpec) -> str:
    if spec.prepare is None or os.path.exists(spec.annotations):
        return ""
    return f". To get this dataset: {spec.prepare}"


def take_part(spec: DatasetSpec, loaded: LoadedDataset) -> LoadedDataset:
    """The ``part`` of ``spec``, where it has one. The report stays that of the whole."""
    if spec.hold_out_every is None:
        return loaded
    calibration = spec.part == "val"
    chosen = [
        i
        for i, position in enumerate(loaded.positions)
        if (position % spec.hold_out_every == 0) == calibration
    ]
    if not chosen:
        raise DatasetError(
            f"dataset {spec.name!r}: part {spec.part!r} of {len(loaded.dicts)} images with "
            f"hold_out_every {spec.hold_out_every} is empty; use a smaller hold_out_every"
        )
    dicts = loaded.dicts
    return replace(
        loaded,
        dicts=dicts.take(chosen) if isinstance(dicts, RecordFile) else [dicts[i] for i in chosen],
        positions=tuple(loaded.positions[i] for i in chosen),
        instances=tuple(loaded.instances[i] for i in chosen),
        places=[loaded.places[i] for i in chosen] if loaded.places else (),
    )


def _check(spec: DatasetSpec) -> None:
    if spec.format not in FORMATS:
        raise DatasetError(
            f"dataset {spec.name!r}: unknown format {spec.format!r}; "
            f"expected one of {', '.join(FORMATS)}{nearest(spec.format, FORMATS)}"
        )
    own = set(inspect.signature(FORMATS[spec.format]).parameters)
    known = sorted(own | {"format", "merge", "hold_out_every", "part", "prepare"})
    for option in spec.options:
        if option not in own:
            raise DatasetError(
                f"dataset {spec.name!r}: format {spec.format} has no option {option!r}; it has "
                f"{', '.join(known)}{nearest(option, known)}"
            )
    if spec.image_root is None and spec.format != "yolo":
        raise DatasetError(
            f"dataset {spec.name!r}: format {spec.format} needs image_root, the folder of images"
        )
    if (spec.hold_out_every is None) != (spec.part is None):
        raise DatasetError(
            f"dataset {spec.name!r}: hold_out_every and part go together; got "
            f"hold_out_every={spec.hold_out_every!r}, part={spec.part!r}"
        )
    if spec.hold_out_every is not None and (
        not isinstance(spec.hold_out_every, int) or spec.hold_out_every < 2
    ):
        raise DatasetError(
            f"dataset {spec.name!r}: hold_out_every is {spec.hold_out_every!r}; "
            "expected a whole number of at least 2"
        )
    if spec.part is not None and spec.part not in PARTS:
        raise DatasetError(f"dataset {spec.name!r}: part is {spec.part!r}; expected train or val")


def _check_same(spec: DatasetSpec) -> None:
    loader = _registered.get(spec.name)
    if loader is None:
        raise DatasetError(
            f"dataset name {spec.name!r} is already registered by another package; "
            "choose another name"
        )
    if loader.spec != spec:
        raise DatasetError(
            f"dataset {spec.name!r} is already registered with other arguments:\n"
            f"  before: {loader.spec}\n  now:    {spec}\nChoose another name."
        )


importlib.import_module("transfer_maskrcnn.data.builtin")  # which registers its names
