"""Datasets declared in YAML: the built-in catalog, and catalogs of users' own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from transfer_maskrcnn.data.register import register_dataset, spec_of
from transfer_maskrcnn.errors import DatasetError, nearest

BUILTIN_CATALOG = Path(__file__).with_name("catalog.yaml")
_KEYS = (
    *("format", "annotations", "image_root", "classes", "merge", "hold_out_every", "part"),
    "prepare",
)
_TEXTS = ("format", "annotations", "image_root", "part", "prepare")
_REQUIRED = ("format", "annotations")


def register_builtin_datasets() -> None:
    """Register the built-in names, below ``$DETECTRON2_DATASETS`` (default: ``datasets``)."""
    register_catalog(BUILTIN_CATALOG, root=os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_catalog(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Register every dataset that a catalog file declares; returns their names.

    The file maps a name to ``format``, ``annotations``, ``image_root``, ``classes``, ``merge`` and
    the options of :func:`register_dataset`. Relative paths start at ``root``, by default the file's
    own folder.

    Raises:
        DatasetError: the file is missing, not YAML, or declares something unusable.
    """
    path = Path(path).expanduser()
    entries = _read(path)
    base = path.parent if root is None else Path(root).expanduser()
    for name, entry in entries.items():
        register_dataset(name, **_arguments(name, entry, path, base))
    return list(entries)


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"cannot read the dataset catalog {path}: {error.strerror}; "
            "check DATASETS.CATALOG (a path relative to where you run, or absolute)"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"the dataset catalog {path} is not valid YAML: {error}") from None
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(
            f"the dataset catalog {path} declares no dataset; expected lines of the form\n"
            "my_train:\n  format: coco\n  annotations: my/train.json\n  image_root: my/images"
        )
    return entries


def _arguments(name: Any, entry: Any, path: Path, base: Path) -> dict[str, Any]:
    if not isinstance(name, str) or not isinstance(entry, dict):
        raise DatasetError(
            f"{path}: entry {name!r} is not a name with keys below it; "
            f"expected {', '.join(_REQUIRED)} and image_root"
        )
    for key, value in entry.items():
        if not isinstance(key, str) or key == "name":
            raise DatasetError(f"{path}: dataset {name!r}: {key!r} is no key of a dataset")
        if key in _TEXTS and not isinstance(value, str):
            raise DatasetError(f"{path}: dataset {name!r}: {key} is {value!r}; expected a text")
    for key in _REQUIRED:
        if key not in entry:
            close = nearest(key, [k for k in entry if k not in _KEYS], found_in="the file")
            raise DatasetError(f"{path}: dataset {name!r} lacks {key!r}{close}")
    classes = entry.get("classes")
    if classes is not None and not (
        isinstance(classes, list) and classes and all(isinstance(c, str) for c in classes)
    ):
        raise DatasetError(
            f"{path}: dataset {name!r}: classes is {classes!r}; expected a list of names, "
            'with quotes where YAML would read a number or a truth value ("1", "no")'
        )
    arguments = dict(entry)
    for key in ("annotations", "image_root"):
        if entry.get(key) is not None:
            arguments[key] = str(base / Path(str(entry[key])).expanduser())
    return arguments


def catalog_entry(name: str) -> dict[str, Any] | None:
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
        **{key: getattr(spec, key) for key in ("hold_out_every", "part", "prepare")},
        **spec.options,
    }
    return {key: value for key, value in entry.items() if value not in (None, {})}


register_builtin_datasets()
