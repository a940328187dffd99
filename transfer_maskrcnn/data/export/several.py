"""Several datasets in one folder, as those to train and to validate on: one catalog declares all;
in YOLO's format, one data.yaml holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.files import parse_yaml
from transfer_maskrcnn.text import quoted

from . import EXPORTERS
from .base import new_folder, write_yaml
from .documents import SAME_IMAGES

T = TypeVar("T")
_CATALOG, _PATHS = "catalog.yaml", ("annotations", "image_root")


def write_sets(
    write: Callable[[LoadedDataset, Path], T],
    datasets: Mapping[str, LoadedDataset],
    out: Path,
    split_of: Mapping[str, str] | None = None,
) -> dict[str, tuple[Path, T]]:
    """Write one dataset into ``out``; several into a folder each below it, with one catalog.

    In that catalog, a dataset is called as ``out`` and then by its name.

    Args:
        write: writes a dataset, with a ``catalog.yaml``, into a new folder.
        datasets: by name.
        out: a new folder, which appears whole or not at all.
        split_of: name -> the key that a dataset of YOLO's gets in the one data.yaml; None: each
            stays on its own.

    Returns:
        for each name its folder, and what ``write`` returned.
    """
    if len(datasets) < 2:
        return {name: (out, write(dataset, out)) for name, dataset in datasets.items()}
    parts = {name: name.replace("/", "_") for name in datasets}
    with new_folder(out) as folder:
        done = {name: write(dataset, folder / parts[name]) for name, dataset in datasets.items()}
        entries: dict[str, dict[str, Any]] = {}
        for name, part in parts.items():
            own = folder / part / _CATALOG
            (entry,) = parse_yaml(own.read_text(encoding="utf-8"), str(own)).values()
            own.unlink()
            entries[name] = entry | {k: f"{part}/{entry[k]}" for k in _PATHS if k in entry}
        if split_of:
            _join_yolo(folder, parts, split_of, entries)
        # "_train" and "_val" stay at the end, by which they find each other
        prefix = out.expanduser().resolve().name
        named = {f"{prefix}_{parts[name]}": entry for name, entry in entries.items()}
        write_yaml(folder / _CATALOG, named)
    return {name: (out / parts[name], result) for name, result in done.items()}


def _join_yolo(
    folder: Path,
    parts: Mapping[str, str],
    split_of: Mapping[str, str],
    entries: dict[str, dict[str, Any]],
) -> None:
    """One data.yaml in the place of those of the parts; ``entries`` learn of it."""
    content: dict[str, Any] = {}
    for name, key in split_of.items():
        (folder / parts[name] / "data.yaml").unlink()
        content[key] = f"{parts[name]}/images"
        entries[name] |= {"annotations": "data.yaml", "split": key}
        content["names"] = dict(enumerate(entries[name]["classes"]))
    write_yaml(folder / "data.yaml", content)


def export_sets(
    format: str, datasets: Mapping[str, LoadedDataset], validation: Collection[str], out: Path
) -> dict[str, tuple[Path, list[str]]]:
    """:func:`write_sets` in a format of ``EXPORTERS``: the folder and the notes of each dataset.

    Args:
        validation: names of datasets to validate on. With one to train on, they share a data.yaml
            (yolo), and so their class numbers: those of all classes, by name.
    """
    held_out = [name for name in datasets if name in validation]
    trained = [name for name in datasets if name not in validation]
    if format != "yolo" or len(trained) != 1 or len(held_out) not in (1, 2):
        return write_sets(EXPORTERS[format], datasets, out)
    split_of = dict(zip((*trained, *held_out), ("train", "val", "test"), strict=False))
    classes = tuple(dict.fromkeys(c for name in split_of for c in datasets[name].classes))
    shared = {name: _numbered(datasets[name], classes) for name in split_of}
    written = write_sets(EXPORTERS[format], shared, out, split_of)
    for name, (_, notes) in written.items():
        notes.remove(SAME_IMAGES)
        if datasets[name].classes != classes:
            notes.append(f"Class numbers are those of all sets together: {quoted(classes)}.")
    return written


def _numbered(dataset: LoadedDataset, classes: tuple[str, ...]) -> LoadedDataset:
    """The dataset with the class numbers of ``classes``, which hold all of its own."""
    if dataset.classes == classes:
        return dataset
    at = [classes.index(name) for name in dataset.classes]
    dicts = []
    for record in dataset.dicts:
        own = [{**a, "category_id": at[a["category_id"]]} for a in record["annotations"]]
        dicts.append({**record, "annotations": own})
    labels = tuple(tuple(at[label] for label in own) for own in dataset.labels)
    ids = tuple(range(1, len(classes) + 1))
    return replace(dataset, dicts=dicts, classes=classes, category_ids=ids, labels=labels)
