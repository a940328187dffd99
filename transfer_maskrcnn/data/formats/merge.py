"""Several labels of the annotations as one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transfer_maskrcnn.errors import DatasetError

from .base import LoadedDataset
from .files import clip

Merge = Mapping[str, Sequence[str]]  # class -> its labels in the annotations


def check_merge(merge: Any, classes: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """``merge`` as a dict; ``classes`` are the dataset's, after merging, or None.

    Raises:
        DatasetError: not a mapping of class names to lists of labels, a label of two classes, or
            ``classes`` that name a merged label or lack a merged class.
    """
    if merge is None:
        return {}
    if not isinstance(merge, Mapping) or not all(map(_is_entry, merge.items())):
        raise DatasetError(
            f"merge is {clip(repr(merge))}; expected a class and its labels in the annotations, "
            "each a text, as {'vehicle': ['car', 'truck']}"
        )
    class_of: dict[str, str] = {}
    for name, labels in merge.items():
        for label in labels:
            other = class_of.setdefault(label, name)
            if other != name or (label in merge and label != name):
                raise DatasetError(
                    f"merge: the label {label!r} cannot go to {name!r} and also be, or go to, "
                    f"{other if other != name else label!r}; give each label one class"
                )
    _check_against(classes, class_of, merge)
    return {name: tuple(labels) for name, labels in merge.items()}


def _is_entry(entry: tuple[Any, Any]) -> bool:
    name, labels = entry
    is_list = isinstance(labels, (list, tuple)) and bool(labels)
    return is_list and all(isinstance(text, str) and text.strip() for text in (name, *labels))


def _check_against(
    classes: Sequence[str] | None, class_of: Mapping[str, str], merge: Merge
) -> None:
    if classes is None:
        return
    for label, name in class_of.items():
        if label in classes and label != name:
            raise DatasetError(
                f"classes names {label!r}, which merge makes part of {name!r}; leave it out"
            )
    for name in merge:
        if name not in classes:
            raise DatasetError(f"merge makes the class {name!r}, which classes lacks; add it")


def labels_of(classes: Sequence[str], merge: Merge, *, by_position: bool) -> tuple[str, ...]:
    """The labels to ask a format's loader for: ``classes`` with each merged one's labels instead.

    Args:
        classes: after merging.
        merge: checked.
        by_position: labels are positions (PNG masks), so that nothing may come between them; else
            a merged class's own name may be a label, too.
    """
    labels: list[str] = []
    for name in classes:
        labels += merge.get(name, (name,)) if by_position else (name, *merge.get(name, ()))
    return tuple(dict.fromkeys(labels))


def merge_classes(
    loaded: LoadedDataset, merge: Merge, classes: Sequence[str] | None
) -> LoadedDataset:
    """``loaded``, whose classes are labels, with its labels merged; its dicts change in place.

    A merged class has the lowest category id of its labels. Labels that ``merge`` does not name
    stay. Without ``classes``, it stands where the first of its labels stood.

    Raises:
        DatasetError: the annotations have none of a merged class's labels (without ``classes``).
    """
    if not merge:
        return loaded
    class_of = {label: name for name, labels in merge.items() for label in labels}
    names = [class_of.get(label, label) for label in loaded.classes]
    for name, labels in merge.items():
        if name not in names:
            raise DatasetError(
                f"merge: the class {name!r} has none of its labels {list(labels)} among those of "
                f"the annotations, {list(loaded.classes)}; correct merge, or state classes"
            )
    chosen = tuple(dict.fromkeys(names)) if classes is None else tuple(classes)
    place = {name: k for k, name in enumerate(chosen)}
    of_images = tuple(tuple(place[names[k]] for k in image) for image in loaded.labels)
    for record in loaded.dicts:
        for annotation in record["annotations"]:
            annotation["category_id"] = place[names[annotation["category_id"]]]
    ids = [
        min(i for i, other in zip(loaded.category_ids, names, strict=True) if other == name)
        for name in chosen
    ]
    return replace(loaded, classes=chosen, category_ids=tuple(ids), labels=of_images)
