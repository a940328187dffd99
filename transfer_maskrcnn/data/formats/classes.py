"""Class names: checked, and matched with the labels that an annotation file uses."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

from transfer_maskrcnn.errors import DatasetError

from .base import RawImage
from .images import natural_key

_MAX_LISTED = 20


def check_classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """``classes`` as a tuple; an error unless it is None or distinct, non-empty names."""
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise DatasetError(f"classes is {classes!r}; expected a list of names, as [{classes!r}]")
    bad = [name for name in classes if not isinstance(name, str) or not name.strip()]
    if bad or not classes:
        raise DatasetError(f"classes is {list(classes)!r}; expected at least one name, each a text")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise DatasetError(
            f"classes names {', '.join(map(repr, twice))} more than once; name each once"
        )
    return tuple(classes)


def count_labels(images: Iterable[RawImage]) -> Counter[str]:
    """How many usable instances have each label."""
    return Counter(
        instance.label for image in images for instance in image.instances if not instance.problem
    )


def choose_classes(
    labels: Counter[str], classes: tuple[str, ...] | None, source: str, *, hint: str = ""
) -> tuple[str, ...]:
    """The classes of the dataset: the user's in the user's order, or else all labels, sorted.

    Raises DatasetError, with counts, where ``labels`` has any that ``classes`` lacks.
    """
    if classes is None:
        if not labels:
            raise DatasetError(
                f"{source}: no instance has a usable mask and a label, so the classes cannot be "
                "told; pass classes, or check the annotations"
            )
        return tuple(sorted(labels, key=natural_key))
    unknown = {label: count for label, count in labels.items() if label not in classes}
    if unknown:
        listed = list_counts(unknown, classes)
        raise DatasetError(
            f"{source}: labels that are not among the classes {list(classes)!r}: {listed}. "
            f"Add them to classes, or correct them in the annotations{hint}"
        )
    return classes


def list_counts(counts: dict[str, int], known: Iterable[str] = ()) -> str:
    """'cat' (12 instances; did you mean 'cats'?), ...: the first 20, the most frequent first."""
    known = list(known)
    texts = []
    for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        near = difflib.get_close_matches(label, known, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        texts.append(f"{label!r} ({count} instance{'s' if count != 1 else ''}{guess})")
    more = len(texts) - _MAX_LISTED
    return ", ".join(texts[:_MAX_LISTED]) + (f", and {more} more" if more > 0 else "")
