"""Datasets that a user names by path: recognised, named, registered, and written as a catalog."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog

from transfer_maskrcnn.data.datasets import load
from transfer_maskrcnn.data.formats.names import part_of, words_of
from transfer_maskrcnn.data.formats.yolo import YAML_SUFFIXES
from transfer_maskrcnn.data.recognise import Found, recognise
from transfer_maskrcnn.data.registry import (
    declared_in,
    make_spec,
    register_catalog,
    register_entries,
    spec_of,
)
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import listed, wrapped

SPLIT = {"val": 0.2, "seed": 0}
_DIVIDED = "; a fifth of the images is held out, since no set is there to validate on"
_LABELLED = ("coco", "via", "labelme")  # each set says its classes for itself
_PATHS = ("annotations", "image_root")


@dataclass(frozen=True)
class Catalog:
    """Where datasets come from: a catalog file, or a path in which they were recognised.

    ``entries`` are what a catalog would have of what was recognised, and ``about`` says what each
    was made of.
    """

    path: str
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def register(self) -> list[str]:
        """The names of the datasets, which are registered now."""
        return register_entries(self.entries)


def catalog_text(catalogs: Sequence[Catalog], file: Path) -> str:
    """The content of a catalog ``file``, with paths that are relative to it."""
    lines = [
        f"# What was found in {listed(one.path for one in catalogs)}. Paths start at this file."
    ]
    style: dict[str, Any] = {"default_flow_style": None, "allow_unicode": True, "width": 1_000_000}
    for catalog in catalogs:
        for name, entry in catalog.entries.items():
            paths = {
                key: os.path.relpath(entry[key], file.parent) for key in _PATHS if key in entry
            }
            lines += ["", wrapped(f"# {catalog.about[name]}", "# ")]
            lines.append(yaml.safe_dump({name: entry | paths}, sort_keys=False, **style).rstrip())
    return "\n".join([*lines, ""])


def names_of(
    arguments: Sequence[str],
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    split: bool = True,
) -> tuple[list[str], list[Catalog]]:
    """The registered names that arguments of a command line stand for, and where they come from.

    A path stands for what a catalog declares there, or for what lies there; both are registered.
    All else stays as it is.

    Raises:
        DatasetError: nothing in a path is a dataset.
    """
    names, catalogs = [], []
    for argument in arguments:
        # whole, as fitted configs name them: what is registered twice has to be the same
        path = Path(os.path.abspath(os.path.expanduser(argument)))
        is_path = path.exists() or path.suffix.lower() in YAML_SUFFIXES
        if argument in DatasetCatalog or not is_path:
            names.append(argument)
        elif (file := declared_in(path)) is not None:
            catalogs.append(Catalog(argument if path == file else str(file)))
            names += register_catalog(file, file.parent)
        else:
            catalogs.append(replace(catalog_of(path, format, options, split=split), path=argument))
            names += catalogs[-1].register()
    return names, catalogs


def catalog_of(
    path: str | os.PathLike[str],
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    split: bool = True,
) -> Catalog:
    """The datasets in a folder or of a file, named after it: x_train, x_val, x_test.

    Args:
        path: see :func:`~transfer_maskrcnn.data.recognise.recognise`.
        format: take only this one.
        options: what each entry says beside, or instead of, what was found.
        split: where there is one set to train on and none to validate on, the entry is called x and
            has a ``split``, which makes x_train and x_val of it.

    Raises:
        DatasetError: nothing there is a dataset.
    """
    sets = list(_named(Path(path), recognise(path, format), split))
    for prefix in ("", "my_", *(f"my_{k}_" for k in range(2, 100))):
        if all(_is_free(prefix + name, one) for name, one, _ in sets):
            break
    start = Path(path).parent
    entries, about, families = {}, {}, defaultdict(list)
    for name, one, divided in sets:
        own = {"split": SPLIT} if divided else {}
        entries[prefix + name] = {**one.entry, **own, **(options or {})}
        about[prefix + name] = one.about(start) + _DIVIDED * divided
        families[re.sub("_(train|val|test)$", "", name)].append(entries[prefix + name])
    for family in families.values():
        _share_classes(family)
    return Catalog(os.fspath(path), entries, about)


def _share_classes(entries: Sequence[dict[str, Any]]) -> None:
    """Where one set has no instance of a class, all state the classes of all."""
    if len(entries) < 2 or any("classes" in e or e["format"] not in _LABELLED for e in entries):
        return
    try:
        found = [load(make_spec("", **entry)).classes for entry in entries]
    except DatasetError:  # whoever loads it for good says it
        return
    if len(set(found)) > 1:
        every = list(dict.fromkeys(name for classes in found for name in classes))
        for entry in entries:
            entry["classes"] = every


def _named(path: Path, found: Sequence[Found], split: bool) -> Iterator[tuple[str, Found, bool]]:
    """Each dataset with its name, and whether it has to be divided."""
    whole = path.resolve()
    whole = whole if whole.is_dir() else whole.parent
    is_part = len(words_of(whole.name)) == 1 and bool(part_of(whole.name))
    base = whole.parent.name if is_part else whole.name
    parts = Counter(one.part or "train" for one in found)
    own = [
        [word for word in words_of(os.path.relpath(one.place, whole)) if not part_of(word)]
        for one in found
    ]
    everywhere = set.intersection(*map(set, own))  # tells nothing apart
    families: dict[str, list[Found]] = defaultdict(list)
    for one, words in zip(found, own, strict=True):
        apart = [w for w in words if w not in everywhere] if max(parts.values()) > 1 else []
        families[re.sub(r"\W+", "_", "_".join([base, *apart])).strip("_") or "my"].append(one)
    trained = {
        name: [one for one in ones if one.part in ("", "train")] for name, ones in families.items()
    }
    validated = {name for name, ones in families.items() if any(one.part == "val" for one in ones)}
    is_told = is_part or any(trained[name] for name in validated)
    used: Counter[str] = Counter()
    for family, ones in families.items():
        for one in ones:
            divided = split and not is_told and trained[family] == [one]
            part = one.part or ("train" if family in validated else "")
            name = family if divided or not part else f"{family}_{part}"
            used[name] += 1
            yield name if used[name] == 1 else f"{name}_{used[name]}", one, divided


def _is_free(name: str, one: Found) -> bool:
    """Whether no dataset has the name, or the names that a split gives, but this one."""
    taken = [n for n in (name, f"{name}_train", f"{name}_val") if n in DatasetCatalog]
    annotations = os.path.abspath(one.annotations)
    return all(
        (spec := spec_of(n)) is not None and os.path.abspath(spec.annotations) == annotations
        for n in taken
    )
