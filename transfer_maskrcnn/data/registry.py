"""Registers datasets by name with detectron2's catalogs; annotations are read at first use.

Importing this module registers the built-in ones, of ``catalog.yaml``.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.datasets import (
    DatasetSpec,
    Labels,
    Records,
    fingerprint,
    labels_of,
    load,
)
from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.assemble import Merge, check_merge
from transfer_maskrcnn.data.formats.base import LoadedDataset, MaskFormat
from transfer_maskrcnn.data.formats.files import check_classes, clip
from transfer_maskrcnn.data.formats.yolo import YAML_SUFFIXES, is_yolo, read_yaml
from transfer_maskrcnn.data.split import PARTS, Split
from transfer_maskrcnn.errors import ConfigError, DatasetError, nearest, refuse
from transfer_maskrcnn.files import parse_yaml
from transfer_maskrcnn.text import listed

logger = logging.getLogger(__name__)

BUILTIN_CATALOG = Path(__file__).with_name("catalog.yaml")
_TEXTS = ("format", "annotations", "image_root", "part", "prepare")
_REQUIRED = ("format", "annotations")
_KEYS = (*_TEXTS, "classes", "merge", "hold_out_every", "split")


def register_dataset(
    name: str,
    *,
    format: str,
    annotations: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    classes: list[str] | tuple[str, ...] | None = None,
    merge: Merge | None = None,
    split: Mapping[str, float] | str | None = None,
    hold_out_every: int | None = None,
    part: str | None = None,
    prepare: str | None = None,
    **options: Any,
) -> list[str]:
    """Register ``name`` in DatasetCatalog and MetadataCatalog; nothing is read until it is used.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        format: coco, via, labelme, yolo or png_masks.
        annotations: the json (coco, via), the folder of json files (labelme), the ``data.yaml``
            (yolo), or the folder of masks or samples (png_masks).
        image_root: the folder of the images. Default: the folder of the json, or of the
            annotations; for yolo what its ``data.yaml`` names.
        classes: class names in the order wanted; None takes what the annotations name.
        merge: class name -> labels in the annotations that become this class, as
            ``{"vehicle": ["car", "truck"]}``; ``classes`` then names ``vehicle``. Labels that it
            does not name stay. ``*`` and ``?`` stand for other letters (``["yolk*"]``); a label
            that is named itself goes before such patterns. With png_masks, a merged class stands
            for the pixel values of all its labels, in their order.
        split: ``{"val": 0.2, "seed": 0}`` divides the images at random: ``name`` + "_train" and
            ``name`` + "_val" are registered in its place, or, with ``part``, that one as ``name``.
            Each class keeps its share as far as possible, images that look alike stay together,
            and what an image draws depends on its name and the seed (default: 0) alone. For yolo,
            a text is the key of the data.yaml to load; a random split divides "train".
        hold_out_every, part: where one file holds everything: each ``hold_out_every``-th image, in
            the file's order (coco: by image id) and starting with the first, belongs to
            ``part="val"``, the others to ``part="train"``. Images that cannot be used are counted
            too, so that the loss of one moves no other to the other part.
        prepare: the command that gets the dataset; named in the error where it is missing.
        **options: passed to the format's loader, e.g. ``attribute`` (via).

    Returns:
        the names. Registering the same again is fine.

    Raises:
        DatasetError: an unknown format or option, or a name that is taken by something else.
    """
    rest = {"hold_out_every": hold_out_every, "split": split, "prepare": prepare, **options}
    is_divided = isinstance(split, Mapping) and part is None
    parts = {f"{name}_{half}": half for half in PARTS} if is_divided else {name: part}
    for own, half in parts.items():
        _register(
            make_spec(
                *(own, format, annotations, image_root),
                classes=classes,
                merge=merge,
                part=half,
                **rest,
            )
        )
    return list(parts)


def _register(spec: DatasetSpec) -> None:
    name = spec.name
    if name in DatasetCatalog:
        before = spec_of(name)
        refuse(
            (
                before is None,
                f"dataset name {name!r} is already registered by another package; "
                "choose another name",
            ),
            (
                before != spec,
                f"dataset {name!r} is already registered with other arguments:\n"
                f"  before: {before}\n  now:    {spec}\nChoose another name.",
            ),
            error=DatasetError,
        )
        return
    DatasetCatalog.register(name, DatasetLoader(spec))
    is_plain = spec.format == "coco" and spec.part is None and not spec.merge
    known = {
        "image_root": spec.image_root,
        "thing_classes": spec.classes and list(spec.classes),
        "json_file": spec.annotations if is_plain else None,
    }
    stated = {key: value for key, value in known.items() if value is not None}
    MetadataCatalog.get(name).set(evaluator_type="coco", **stated)


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
    own = {key: rest.pop(key, None) for key in ("hold_out_every", "part", "prepare")}
    try:
        _check_options(format, rest)
        if not isinstance(rest.get("split"), str):  # a text is yolo's own option
            split = rest.pop("split", None)
            own["split"] = None if split is None else Split.of(split)
        spec = DatasetSpec(
            name=name,
            format=format,
            annotations=_plain(annotations),
            image_root=None if image_root is None else _plain(image_root),
            classes=check_classes(classes),
            options=rest,
            **own,
        )
        _check(spec)
        return replace(spec, merge=check_merge(merge, spec.classes))
    except DatasetError as error:
        raise DatasetError(f"dataset {name!r}: {error}") from None


def _plain(path: str | os.PathLike[str]) -> str:
    """Without ``x/..``, as a catalog in another folder has it, unless x is a link."""
    text = os.fspath(path)
    plain = os.path.normpath(text)
    return plain if os.path.realpath(plain) == os.path.realpath(text) else text


def _check_options(format: str, options: Mapping[str, Any]) -> None:
    if format not in FORMATS:
        raise DatasetError(
            f"unknown format {clip(repr(format))}; "
            f"expected one of {', '.join(FORMATS)}{nearest(format, FORMATS)}"
        )
    own = set(inspect.signature(FORMATS[format]).parameters)
    known = sorted(own | set(_KEYS))
    unknown = [option for option in options if option not in (*own, "split")]
    if isinstance(options.get("split"), str) and "split" not in own:
        Split.of(options["split"])  # which says what it may be
    if unknown:
        raise DatasetError(
            f"format {format} has no option {unknown[0]!r}; it has "
            f"{', '.join(known)}{nearest(unknown[0], known)}"
        )


def _check(spec: DatasetSpec) -> None:
    every, part = spec.hold_out_every, spec.part
    refuse(
        (
            every is not None and spec.split is not None,
            "split and hold_out_every are two ways to divide; state one",
        ),
        (
            (every is None and spec.split is None) != (part is None),
            f"part goes with split or hold_out_every; got hold_out_every={every!r}, "
            f"split={spec.split and spec.split._asdict()!r}, part={part!r}",
        ),
        (
            every is not None and (not isinstance(every, int) or every < 2),
            f"hold_out_every is {every!r}; expected a whole number of at least 2",
        ),
        (part not in (None, "train", "val"), f"part is {part!r}; expected train or val"),
        error=DatasetError,
    )


class DatasetLoader:
    """What DatasetCatalog calls: reads the annotations once a process, and fills the metadata.

    A small dataset is a list whose dicts all callers share, as everywhere in detectron2: copy
    before changing one. A large one, which is cached, is :class:`Records`, from the first time on:
    each access makes a new dict, so what a caller changes is lost unless the caller keeps that
    dict, as ``list`` does.
    """

    def __init__(self, spec: DatasetSpec):
        self.spec = spec

    def __call__(self) -> Sequence[dict[str, Any]]:
        dicts = self.loaded.dicts
        return dicts if isinstance(dicts, Records) else list(dicts)

    @cached_property
    def loaded(self) -> LoadedDataset:
        """Raises DatasetError: what the format's loader raises."""
        spec = self.spec
        try:
            loaded = load(spec)
        except DatasetError as error:
            error.args = (f"dataset {spec.name!r}: {error}",)
            raise
        MetadataCatalog.get(spec.name).set(
            thing_classes=list(loaded.classes),
            thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(loaded.category_ids)},
            mask_format=loaded.mask_format,
        )
        report = loaded.report
        level = logging.WARNING if report.needs_a_look else logging.INFO
        part = "" if spec.part is None else f", part {spec.part!r}"
        logger.log(level, "dataset %s%s: %s", spec.name, part, report.summary())
        return loaded

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.loaded.dicts)


def _loader_of(name: str) -> DatasetLoader | None:
    """None where another package has registered ``name``."""
    loader = dict(DatasetCatalog).get(name)  # whose own get would load it
    return loader if isinstance(loader, DatasetLoader) else None


def spec_of(name: str) -> DatasetSpec | None:
    """How ``name`` was registered; None where another package did that."""
    loader = _loader_of(name)
    return None if loader is None else loader.spec


class DatasetFacts(NamedTuple):
    """What a start needs to know of a dataset; crowds, which training leaves out, do not count.

    ``mask_format`` is "bitmask" where any mask is run lengths.
    """

    labels: Labels
    mask_format: MaskFormat


def dataset_facts(name: str) -> DatasetFacts:
    """The facts of a registered dataset: without a look at its dicts, unless another package has
    registered it.

    Raises:
        DatasetError: it cannot be read.
    """
    loader = _loader_of(name)
    if loader is not None:
        return DatasetFacts(loader.loaded.labels, loader.loaded.mask_format)
    dicts = DatasetCatalog.get(name)
    rle = any(
        isinstance(a.get("segmentation"), dict) and not a.get("iscrowd", 0)
        for d in dicts
        for a in d.get("annotations", ())
    )
    return DatasetFacts(labels_of(dicts), "bitmask" if rle else "polygon")


def dataset_digest(name: str) -> str:
    """A hash of the images' names and sizes and all annotations, wherever the files lie.

    Computed once a process, from what the cache holds where the dataset is cached.
    """
    loader = _loader_of(name)
    return fingerprint(DatasetCatalog.get(name)) if loader is None else loader.fingerprint


def register_catalog(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Register every dataset that a catalog file declares; returns their names.

    The file maps a name to ``format``, ``annotations``, ``image_root``, ``classes``, ``merge`` and
    the options of :func:`register_dataset`. Relative paths start at ``root``, by default the file's
    own folder. A folder or file of another kind stands for the datasets that are recognised there.

    Raises:
        DatasetError: the file is missing, not YAML, or declares something unusable; nothing is
            recognised.
    """
    path = Path(path).expanduser()
    file = declared_in(path) if root is None else path
    if file is None:
        from .given import catalog_of  # which imports this module

        return catalog_of(path).register()
    entries = _read_catalog(file)
    for name, entry in entries.items():
        _check_entry(file, name, entry)
    return register_entries(entries, file.parent if root is None else root)


def declared_in(path: Path) -> Path | None:
    """The catalog file that ``path`` is, or the one in it; None where it has to be recognised.

    Raises:
        DatasetError: several catalogs in a folder.
    """
    if not path.is_dir():
        is_yaml = path.suffix.lower() in YAML_SUFFIXES
        return path if not path.is_file() or (is_yaml and not is_yolo(_content(path))) else None
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in YAML_SUFFIXES]
    catalogs = [
        file
        for file in files
        if any(isinstance(entry, dict) and "format" in entry for entry in _content(file).values())
    ]
    if len(catalogs) > 1:
        names = listed(file.name for file in catalogs)
        raise DatasetError(f"{path} has several catalogs, {names}; name one of them")
    return catalogs[0] if catalogs else None


def _content(file: Path) -> dict[str, Any]:
    try:
        return read_yaml(file)
    except DatasetError:  # whoever reads it for good has the words for it
        return {}


def register_entries(
    entries: Mapping[str, Mapping[str, Any]], base: str | os.PathLike[str] = ""
) -> list[str]:
    """Register the entries of a catalog, with paths relative to ``base``; returns the names."""
    base = Path(base).expanduser()
    names: list[str] = []
    for name, entry in entries.items():
        stated = [key for key in ("annotations", "image_root") if entry.get(key) is not None]
        paths = {key: str(base / Path(entry[key]).expanduser()) for key in stated}
        names += register_dataset(name, **{**entry, **paths})
    return names


def catalog_files(stated: Any) -> list[str | os.PathLike[str]]:
    """The files that ``DATASETS.CATALOG``, or ``--catalog``, states: one, a list of some, or none.

    Raises:
        ConfigError: it states something else.
    """
    files = list(stated) if isinstance(stated, (list, tuple)) else [stated] if stated else []
    if not all(isinstance(file, (str, os.PathLike)) and os.fspath(file) for file in files):
        raise ConfigError(
            f"DATASETS.CATALOG is {stated!r}; expected a file, or several: "
            "\"('mine.yaml', 'more.yaml')\""
        )
    return files


def register_catalogs(stated: Any) -> list[str]:
    """Register what the files of :func:`catalog_files` declare; returns the names."""
    names = [name for file in catalog_files(stated) for name in register_catalog(file)]
    return list(dict.fromkeys(names))


def _read_catalog(path: Path) -> dict[Any, Any]:
    try:
        # a folder is no file either, and says so itself; to read a pipe would never end
        text = "" if path.is_fifo() else path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"cannot read the dataset catalog {path}: {error.strerror}; "
            "check DATASETS.CATALOG (a path relative to where you run, or absolute; several: "
            "\"('mine.yaml', 'more.yaml')\")"
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"the dataset catalog {path} is not UTF-8 text: {error}") from None
    entries = parse_yaml(text, f"the dataset catalog {path}")
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(
            f"the dataset catalog {path} declares no dataset; expected lines of the form\n"
            "my_train:\n  format: coco\n  annotations: my/train.json\n  image_root: my/images"
        )
    return entries


def _check_entry(path: Path, name: Any, entry: Any) -> None:
    if not isinstance(name, str) or not isinstance(entry, dict):
        if name == "_BASE_":
            raise DatasetError(f"{path} is a config: the command is train --config-file {path}")
        raise DatasetError(
            f"{path}: entry {clip(repr(name))} is not a name with keys below it; "
            f"expected {', '.join(_REQUIRED)} and image_root"
        )
    where = f"{path}: dataset {name!r}"
    for key, value in entry.items():
        refuse(
            (not isinstance(key, str) or key == "name", f"{where}: {key!r} is no key of a dataset"),
            (
                key in _TEXTS and not isinstance(value, str),
                f"{where}: {key} is {clip(repr(value))}; expected a text",
            ),
            error=DatasetError,
        )
    for key in _REQUIRED:
        if key not in entry:
            close = nearest(key, [k for k in entry if k not in _KEYS], found_in="the file")
            raise DatasetError(f"{where} lacks {key!r}{close}")


def catalog_entry(name: str) -> Mapping[str, Any] | None:
    """What a catalog file in any folder says of a registered dataset; None where it cannot.

    That is where another package has registered it, and so will register it the next time.
    """
    spec = spec_of(name)
    if spec is None:
        return None
    entry = {
        "format": spec.format,
        "annotations": os.path.abspath(spec.annotations),
        "image_root": None if spec.image_root is None else os.path.abspath(spec.image_root),
        "classes": None if spec.classes is None else list(spec.classes),
        "merge": {name: list(labels) for name, labels in spec.merge.items()},
        "split": spec.split and spec.split._asdict(),
        **{key: getattr(spec, key) for key in ("hold_out_every", "part", "prepare")},
        **spec.options,
    }
    return {key: value for key, value in entry.items() if value not in (None, {})}


register_catalog(BUILTIN_CATALOG, root=os.getenv("DETECTRON2_DATASETS", "datasets"))
